"""A run with a learned variance trains, resumes and is sampled by every sampler and edit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from runs import assert_bitwise_equal, final_state, mistake, samples
from sampler_table import VARIANTS
from test_seams import small, trained

import configs
import diffusion as dm
import sample
import train
import unet_flax
from commands import export, pipeline
from commands.sample_request import SAMPLERS
from diffusion.data import Digits
from unet_flax import presets


def iddpm(num_steps=4, **changes):
    """The method of cifar10_iddpm on small digits."""
    published = configs.load("cifar10_iddpm")
    names = "schedule preconditioning noise variance optimizer".split()
    method = {name: getattr(published, name) for name in names}
    sampling = dataclasses.replace(published.sampling, num_steps=2)
    return small(num_steps, **method | dict(sampling=sampling) | changes)


@pytest.fixture(scope="module")
def iddpm_run(tmp_path_factory):
    return trained(iddpm(), tmp_path_factory.mktemp("iddpm"))


@pytest.mark.slow
def test_it_resumes_bit_for_bit(iddpm_run, tmp_path):
    for goal in (2, 4):
        trained(iddpm(goal), tmp_path)
    assert_bitwise_equal(final_state(tmp_path), final_state(iddpm_run))


def test_its_network_learns_both_halves(iddpm_run):
    kernel = np.asarray(final_state(iddpm_run).params["conv_out"]["kernel"])
    assert kernel.shape[-1] == 2 and (np.abs(kernel).max((0, 1, 2)) > 0).all()


FEW = ("recipe", "ddpm", "heun", "unipc")  # the others compile a loop each


@pytest.mark.parametrize(
    "name",
    [*FEW, *(pytest.param(n, marks=pytest.mark.slow) for n in SAMPLERS if n not in FEW)],
)
def test_every_sampler_draws_from_it(iddpm_run, tmp_path, name):
    chosen = [] if name == "recipe" else ["--sampler", name]
    sample.main([str(iddpm_run), "--num-images", "2", *chosen, "--out", str(tmp_path)])
    assert samples(tmp_path)[0].shape == (2, 8, 8, 1)


def test_ddpm_on_the_command_line_keeps_the_learned_variance(iddpm_run, tmp_path):
    for out, chosen in (("a", []), ("b", ["--sampler", "ddpm"])):
        argv = [str(iddpm_run), "--num-images", "2", "--gif", *chosen]
        sample.main([*argv, "--num-steps", "5", "--out", str(tmp_path / out)])
    np.testing.assert_array_equal(samples(tmp_path / "a")[0], samples(tmp_path / "b")[0])
    assert (tmp_path / "a" / "denoising.gif").exists()


def test_guidance_takes_the_learned_variance(iddpm_run, tmp_path):
    argv = [str(iddpm_run), "--num-images", "2", "--num-steps", "4", "--guidance"]
    for scale in ("1", "100"):
        sample.main([*argv, scale, "--out", str(tmp_path / scale)])
    one, hundred = (samples(tmp_path / scale)[0] for scale in ("1", "100"))
    assert (one != hundred).any()


@pytest.mark.parametrize(
    "edit",
    [["--init-image", "IMAGE", "--strength", "0.5"], ["--init-image", "IMAGE", "--mask", "IMAGE"]],
)
def test_edits_take_the_learned_variance(iddpm_run, tmp_path, edit):
    image = tmp_path / "image.png"
    pixels = np.where(np.arange(64).reshape(8, 8) % 3, 255, 0).astype(np.uint8)
    Image.fromarray(pixels).save(image)
    edit = [str(image) if word == "IMAGE" else word for word in edit]
    argv = [str(iddpm_run), "--num-images", "2", "--label", "3", *edit, "--num-steps", "4"]
    sample.main([*argv, "--out", str(tmp_path / "out")])
    assert samples(tmp_path / "out")[0].shape == (2, 8, 8, 1)


def test_bits_per_dimension_use_its_variance(iddpm_run):
    trained = pipeline.read(iddpm_run)
    label = jnp.zeros(2, jnp.int32)
    pixels = jnp.asarray(Digits().load().pixels[:2])
    grid = trained.sampling.grid(20)
    denoise = trained.denoiser(label)
    key = jax.random.key(0)
    learned = dm.variational_bound(denoise, pixels, grid, key, interpolation=None)
    small_one = dm.variational_bound(denoise, pixels, grid, key)
    assert jnp.isfinite(learned.total).all() and (learned.steps != small_one.steps).all()


@pytest.mark.slow
def test_no_diffusers_pipeline_has_a_learned_variance_and_the_export_says_so(
    iddpm_run, tmp_path, capsys
):
    chain = dict(schedule=dm.VPLinear(), variance=dm.LearnedVariance(), label_dropout=0.0)
    sampling = dataclasses.replace(iddpm().sampling, sampler=dm.Euler(), grid=dm.VPTimesteps())
    sampling = dataclasses.replace(sampling, clip_x_0=False)
    recipe = iddpm(1, data=Digits(8, labelled=False), sampling=sampling, **chain)
    run = trained(recipe, tmp_path / "run")
    error = mistake(export.main, [run, tmp_path / "folder", "--to", "diffusers"], capsys)
    assert "learned variance" in error


def test_the_recipe_is_as_published():
    recipe = configs.load("cifar10_iddpm").resolved()
    assert recipe.model == presets.iddpm_cifar10()
    assert recipe.run.num_steps == 500_000 and recipe.data.batch_size == 128
    assert recipe.optimizer == configs.Adam(1e-4) and recipe.ema.decay == 0.9999
    # the paper's chain: alpha_bar of timestep i is cos^2 at (i + 1) / 4000, over its value at 0
    cosine = np.cos((np.arange(1, 4000) / 4000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = cosine / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    sigmas = np.sqrt(1 / alpha_bar - 1)
    table = recipe.variance.table
    np.testing.assert_allclose(table[:3990], sigmas[:3990], rtol=1e-6)  # beta is capped after that
    # their code gives the network timesteps from 0 to 1000
    c_noise = recipe.preconditioning(jnp.asarray(table[[0, 2000, 3999]], jnp.float32)).c_noise
    np.testing.assert_allclose(c_noise, [0, 500, 999.75], atol=0.01)


@pytest.mark.slow
def test_the_recipe_says_what_it_costs(capsys):
    train.main(["cifar10_iddpm", "--dry-run"])
    assert "parameters           52,546,438" in capsys.readouterr().out


BIG = {name: getattr(presets, name) for name in presets.__all__ if name.startswith("adm_imagenet")}


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_adms_networks_are_sampled_by_every_sampler_in_shape(name):
    config = BIG[name]()
    module = nnx.eval_shape(lambda: unet_flax.make(config, nnx.Rngs(0)))
    network, params = unet_flax.functional(module)
    network = jax.jit(network)  # traced once for all samplers
    x = jax.ShapeDtypeStruct((2, *config.image_shape), jnp.float32)
    label = jnp.zeros(2, jnp.int32)

    def run(params, x):
        denoise = dm.clip(dm.denoiser(network, params, dm.Eps(), label=label))
        key = jax.random.key(0)
        samplers = (dm.Ancestral(None), *VARIANTS)
        return [sampler(denoise, x, dm.VPTimesteps()(4), key) for sampler in samplers]

    shapes = {shape.shape for shape in jax.eval_shape(run, params, x)}
    assert shapes == {x.shape}
