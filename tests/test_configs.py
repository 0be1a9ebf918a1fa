"""Laws of recipes and of their command line."""

import dataclasses
import json

import pytest

import configs
from configs import cli, schema
from diffusion import Heun, VPLinear
from unet_flax import presets


@pytest.mark.parametrize("name", configs.names())
def test_every_recipe_comes_back_from_its_json(name):
    recipe = configs.load(name)
    assert schema.from_json(json.loads(json.dumps(schema.to_json(recipe)))) == recipe


@pytest.mark.parametrize("name", configs.names())
def test_every_recipe_says_how_to_run_it(name):
    module = __import__(f"configs.{name}", fromlist=["recipe"])
    assert f"python train.py {name}" in module.__doc__
    assert len(configs.describe(name)) < 90


def test_cifar10_ddpm_is_as_published():
    recipe = configs.load("cifar10_ddpm")
    assert recipe.model == presets.ddpm_cifar10()
    assert recipe.noise == recipe.preconditioning.chain == recipe.sampling.grid.chain == VPLinear()
    assert recipe.run.num_steps == 800_000 and recipe.data.batch_size == 128
    assert recipe.optimizer == schema.Adam(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0)
    assert recipe.ema.decay == 0.9999 and recipe.sampling.num_steps == 1000


def test_adams_learning_rate_climbs_holds_and_falls():
    import jax.numpy as jnp

    optimizer = schema.Adam(1e-2, warmup_steps=10, decay_steps=30, clip_norm=None).make()
    params = jnp.zeros(())
    state = optimizer.init(params)
    sizes = []
    for _ in range(30):
        update, state = optimizer.update(jnp.ones(()), state, params)
        sizes.append(-float(update))  # Adam's step on a constant gradient is the learning rate
    assert sizes[0] == 0.0 and sizes[5] == pytest.approx(5e-3, rel=1e-3)
    assert max(sizes) == sizes[10] == pytest.approx(1e-2, rel=1e-3)
    assert sizes[20] == pytest.approx(5e-3, rel=1e-3) and sizes[29] < 1e-4


def test_numbers_of_every_kind_are_read_from_the_command_line():
    recipe, run_dir = cli.parse_train(
        """digits --run-dir x/y --run.seed 3 --model.channel_mult 1,1,2 --optimizer.clip-norm none
        --optimizer.learning-rate=1e-3 --sampling.clip-x-0 true
        --sampling.sampler.churn 2""".split()
    )
    assert str(run_dir) == "x/y" and recipe.run.seed == 3
    assert recipe.model.channel_mult == (1, 1, 2)
    assert recipe.optimizer.clip_norm is None and recipe.optimizer.learning_rate == 1e-3
    assert recipe.sampling.clip_x_0 is True and recipe.sampling.sampler == Heun(churn=2.0)


def test_help_shows_every_field_with_its_meaning_and_value(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.parse_train(["cifar10_ddpm", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for field in schema.flatten(schema.to_json(configs.load("cifar10_ddpm"))):
        if not field.endswith("kind"):
            assert f"--{field.replace('_', '-')} " in text
    assert "warm-up" in text and "(800000)" in text


def test_no_argument_lists_the_recipes(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.parse_train([])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in configs.names())


def test_fields_that_touch_no_weight_may_change_when_a_run_goes_on():
    old = configs.load("digits")
    longer = dataclasses.replace(old, run=dataclasses.replace(old.run, num_steps=9999))
    other = dataclasses.replace(longer, model=dataclasses.replace(old.model, channels=64))
    assert schema.differences(old, longer) == []
    assert schema.differences(old, other) == ["model.channels 32 there, 64 here"]


def test_a_config_with_a_field_too_many_is_refused():
    config = schema.to_json(configs.load("digits"))
    config["model"]["colour"] = 1
    with pytest.raises(ValueError, match="colour"):
        schema.from_json(config)
