"""Laws of recipes and of their command line."""

import dataclasses
import json
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

import configs
import diffusion as dm
from commands import config_file, pipeline, train_request
from configs import Adam, Optax
from diffusion import Heun, VPLinear
from diffusion.run import compilation_cache
from unet_flax import presets


@pytest.mark.parametrize("name", configs.names())
def test_every_recipe_survives_the_round_trip_through_json(name):
    recipe = configs.load(name)
    assert config_file.from_json(json.loads(json.dumps(config_file.to_json(recipe)))) == recipe


@pytest.mark.parametrize("name", configs.names())
def test_every_recipe_says_how_to_run_it(name):
    module = __import__(f"configs.{name}", fromlist=["recipe"])
    assert f"python train.py {name}" in module.__doc__
    assert len(configs.describe(name)) < 90


def test_cifar10_ddpm_is_as_published():
    recipe = configs.load("cifar10_ddpm")
    assert recipe.model == presets.ddpm_cifar10()
    assert recipe.schedule == VPLinear(1000, 1e-4, 0.02)
    assert recipe.run.num_steps == 800_000 and recipe.data.batch_size == 128
    assert recipe.optimizer == Adam(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0)
    assert recipe.ema.decay == 0.9999 and recipe.sampling.num_steps == 1000


def test_adams_learning_rate_climbs_holds_and_falls():
    optimizer = Adam(1e-2, warmup_steps=10, decay_steps=30, clip_norm=None).make()
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
    request = train_request.parse(
        """digits --run-dir x/y --run.seed 3 --model.channel_mult 1,1,2 --optimizer.clip-norm none
        --optimizer.learning-rate=1e-3 --sampling.clip-x-0 true
        --sampling.sampler.churn 2""".split()
    )
    recipe = request.recipe
    assert str(request.run_dir) == "x/y" and recipe.run.seed == 3
    assert recipe.model.channel_mult == (1, 1, 2)
    assert recipe.optimizer.clip_norm is None and recipe.optimizer.learning_rate == 1e-3
    assert recipe.sampling.clip_x_0 is True and recipe.sampling.sampler == Heun(churn=2.0)


def test_help_shows_every_field_with_its_meaning_and_value(capsys):
    with pytest.raises(SystemExit) as exit:
        train_request.parse(["cifar10_ddpm", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for field in config_file.flatten(config_file.to_json(configs.load("cifar10_ddpm"))):
        if not field.endswith(("kind", ".schedule", ".decoder_resampling", ".text", "latents")):
            assert f"--{field.replace('_', '-')} " in text
    assert "warm-up" in text and "(800000)" in text


def test_no_argument_lists_the_recipes(capsys):
    with pytest.raises(SystemExit) as exit:
        train_request.parse([])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in configs.names())


def test_fields_that_affect_no_weight_can_change_on_resuming():
    options = """--run.num-steps 123 --run.log-every-steps 7 --run.save-every-steps 8
        --run.sample-every-steps 9 --run.num-samples 4 --run.keep-checkpoints 2
        --run.keep-every-steps 5 --run.max-skipped-steps 6 --run.steps-per-dispatch 1
        --run.tracker wandb --mesh.data 1 --sampling.num-steps 3""".split()
    changed = train_request.parse(["digits", *options]).recipe
    assert config_file.differences(configs.load("digits"), changed) == []


def test_fields_that_affect_the_weights_cannot():
    options = """--data.batch-size 16 --label-dropout 0.2 --model.channels 64 --noise.mean -1.0
        --optimizer.b1 0.8 --run.accumulate 2 --run.seed 1""".split()
    changed = train_request.parse(["digits", *options]).recipe
    found = config_file.differences(configs.load("digits"), changed)
    assert [difference.partition(" ")[0] for difference in found] == [
        *("data.batch-size", "label-dropout", "model.channels", "noise.mean"),
        *("optimizer.b1", "run.accumulate", "run.seed"),
    ]
    assert found[2] == "model.channels 32 there, 64 here"


@pytest.mark.parametrize(
    ("words", "steps"),
    [("1,1", (1, 1)), ("5,9", (5, 9)), ("0,3", None), ("3,2", None), ("6,7", None)],
)
def test_a_trace_may_begin_at_any_step_of_the_run(words, steps):
    argv = ["digits", "--run.num-steps", "5", "--profile-steps", words]
    if steps is None:
        with pytest.raises(ValueError, match=f"--profile-steps {words}"):
            train_request.parse(argv)
    else:
        assert train_request.parse(argv).profile_steps == steps


def test_none_is_no_text_and_an_underscore_stays_in_a_value():
    argv = ["cifar10_ddpm", "--run.tracker", "none", "--data.manual_dir=a_b"]
    recipe = train_request.parse(argv).recipe
    assert recipe.run.tracker is None and recipe.data.manual_dir == "a_b"
    argv = ["cifar10_ddpm", "--data.manual-dir", "none"]
    assert train_request.parse(argv).recipe.data.manual_dir is None


def test_a_config_with_an_unknown_field_is_refused():
    config = config_file.to_json(configs.load("digits"))
    config["model"]["colour"] = 1
    with pytest.raises(ValueError, match="colour"):
        config_file.from_json(config)


def test_the_denoiser_is_guided_towards_the_label_then_clipped():
    recipe = dataclasses.replace(
        configs.load("digits"), sampling=configs.Sampling(guidance=3.0, clip_x_0=True)
    )

    def network(params, x, c_noise, label):  # depends on whether the label is the null class
        return jnp.broadcast_to(params * label[:, None, None, None], x.shape)

    x_t, sigma = jnp.zeros((2, 8, 8, 1)), jnp.float32(1.0)
    trained = pipeline.of_weights(recipe, network, 0.1, dm.Mesh().make(), "a network")
    denoise = trained.denoiser(jnp.array([1, 5]))
    c_out = recipe.preconditioning(jnp.ones(1)).c_out
    cond, uncond = c_out * jnp.array([0.1, 0.5]), c_out * -0.1
    expected = jnp.clip(uncond + 3.0 * (cond - uncond), -1.0, 1.0)
    np.testing.assert_allclose(denoise(x_t, sigma)[:, 0, 0, 0], expected, rtol=1e-6)
    assert expected[1] == 1.0  # the clipping is seen


def test_a_field_of_several_types_is_read_as_the_first_that_fits():
    def parsed(*options):
        return train_request.parse(["cifar10_ddpm", *options]).recipe

    assert parsed("--data.manual-dir", "none").data.manual_dir is None
    assert parsed("--data.manual-dir", "some").data.manual_dir == "some"
    assert parsed("--model.num-res-blocks", "3").model.num_res_blocks == 3
    assert parsed("--model.num-res-blocks", "1,2,3,4").model.num_res_blocks == (1, 2, 3, 4)


KERNEL, BIAS = jnp.ones((2, 2)), jnp.ones(2)


def test_weight_decay_shrinks_kernels_alone():
    optimizer = Adam(0.5, weight_decay=0.1).make()
    params = {"kernel": KERNEL, "bias": BIAS}
    grads = {"kernel": 0 * KERNEL, "bias": 0 * BIAS}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05 * KERNEL, rtol=1e-5)
    np.testing.assert_array_equal(updates["bias"], 0 * BIAS)


def test_the_rate_falls_as_one_over_the_square_root_from_its_reference_on():
    optimizer = Adam(1e-2, warmup_steps=5, sqrt_decay_steps=10).make()
    params = jnp.zeros(())
    state, sizes = optimizer.init(params), []
    for _ in range(41):
        update, state = optimizer.update(jnp.ones(()), state, params)
        sizes.append(-float(update))
    assert sizes[5] == pytest.approx(1e-2, rel=1e-3) and sizes[10] == pytest.approx(1e-2, rel=1e-3)
    assert sizes[40] == pytest.approx(5e-3, rel=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        Optax("lion", {"b1": 0.8}, learning_rate=0.1),
        Optax(
            "contrib.schedule_free_sgd",
            schedule="constant_schedule",
            schedule_options={"value": 0.1},
            clip_norm=1.0,
        ),
    ],
)
def test_any_optimiser_of_optax_can_be_a_recipes(optimizer):
    recipe = dataclasses.replace(configs.load("digits"), optimizer=optimizer)
    assert config_file.from_json(json.loads(json.dumps(config_file.to_json(recipe)))) == recipe
    made = optimizer.make()
    update, _ = made.update(KERNEL, made.init(KERNEL), KERNEL)
    assert (update < 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Optax("adamm"),
        lambda: Optax("lion", {"b7": 1.0}),
        lambda: Optax("lion", schedule="linear"),
        lambda: Optax("lion", learning_rate=-1.0),
        lambda: Optax("lion", clip_norm=-1.0),
        lambda: Adam(1e-3, weight_decay=-1.0),
        lambda: Adam(1e-3, sqrt_decay_steps=0),
        lambda: Adam(1e-3, sqrt_decay_steps=5, decay_steps=5),
    ],
)
def test_impossible_optimisers_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("span", ["5", "5,4", "0,3", "a,b", "-1,2"])
def test_a_wrong_span_of_steps_is_refused(span):
    with pytest.raises(ValueError, match="not FIRST,LAST"):
        train_request.parse(["digits", f"--profile-steps={span}"])


def test_the_published_recipes_are_as_published():
    # Karras et al. 2022, table 7: 200 M images of 512 a step, rate 1e-3 over 10 M images
    edm, cond = configs.load("cifar10_edm"), configs.load("cifar10_edm_cond")
    assert edm.run.num_steps * 512 == 200_000_000 == cond.run.num_steps * 512
    assert edm.optimizer == Adam(1e-3, warmup_steps=19_531) == cond.optimizer
    assert edm.ema.half_life_images == 500_000 and edm.augment.rate == 0.12
    models = edm.resolved().model, cond.resolved().model
    assert models == (presets.edm_ddpmpp_cifar10(), presets.edm_ddpmpp_cifar10(num_classes=10))
    assert edm.sampling.sampler.nfe(edm.sampling.num_steps) == 35
    # Tong et al. 2023, appendix E
    flow = configs.load("cifar10_flow")
    assert flow.run.num_steps == 400_000 and flow.data.batch_size == 128
    assert flow.optimizer == Adam(2e-4, warmup_steps=5000, clip_norm=1.0)


def test_an_incomplete_cache_entry_is_removed_and_the_others_stay(tmp_path):
    whole, cut = zlib.compress(b"compiled" * 99), zlib.compress(b"compiled" * 99)[:-5]
    for name, entry in {"a": whole, "b": cut, "c": b""}.items():
        (tmp_path / f"{name}-cache").write_bytes(entry)
    compilation_cache.remove_damaged(tmp_path)
    assert [path.name for path in tmp_path.glob("*-cache")] == ["a-cache"]
    (tmp_path / "d-cache").write_bytes(cut)  # by a later run
    compilation_cache.remove_damaged(tmp_path)
    assert [path.name for path in tmp_path.glob("*-cache")] == ["a-cache"]
