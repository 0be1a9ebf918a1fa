"""Every scheduler class of diffusers, by its fields: the sampler here ends where its loop does."""

import dataclasses
import json
import shutil
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import mistake

import diffusion as dm
import sample
from commands import diffusers_folder, draw, pipeline
from commands.diffusers_schedulers import method_of
from commands.pipeline import noise_and_keys
from diffusion.pixels import to_pixels
from diffusion.sampling.pndm import PNDMFromRungeKutta

FOLDER = Path(__file__).parent / "from_diffusers"
sys.path.insert(0, str(FOLDER))
from scheduler_cases import CASES, SHAPE, chain_of, network_output  # noqa: E402

UNIT = np.random.default_rng(12345).standard_normal(SHAPE)


@cache
def loops():
    with np.load(FOLDER / "scheduler_loops.npz") as arrays:
        return dict(arrays)


def network(name, fields, given):
    """The network of scheduler_cases.py, in float64; appends its timesteps to `given`."""
    log_sigmas = chain_of(name, fields)

    def compute(x, c_noise):
        given.append(float(c_noise[0]))
        out = network_output(name, fields, log_sigmas, np.float64(x), float(c_noise[0]))
        return out.astype(np.float32)

    def call(params, x, c_noise):
        return jax.pure_callback(compute, jax.ShapeDtypeStruct(x.shape, x.dtype), x, c_noise)

    return call


def runs(name, fields, numbers_of_steps):
    """For each number of steps where the pipeline of a folder ends, and the network's timesteps."""
    method = method_of(fields | {"_class_name": name})
    conventions, given = method.conventions, []
    denoise = dm.denoiser(network(name, fields, given), {}, method.preconditioning)
    denoise = conventions.clip(denoise) if method.clips else denoise

    @jax.jit
    def step(x, memory, index, num_steps, sigmas, noise):
        at = dm.StepContext(index, sigmas, num_steps, None)
        return dm.step(method.sampler, denoise, x, memory, at, noise)

    for num_steps in numbers_of_steps:
        given.clear()
        sigmas = method.grid(num_steps)
        padded = jnp.pad(sigmas, (0, 1025 - len(sigmas)))  # compiles once
        x = sigmas[0] * jnp.asarray(UNIT, jnp.float32)
        if conventions.starts_at_unit_variance:
            x = x * jnp.sqrt(1 + 1 / sigmas[0] ** 2)
        memory = method.sampler.init(x)
        for index in range(len(sigmas) - 1):
            noise = np.random.default_rng(index).standard_normal(SHAPE).astype(np.float32)
            x, memory = step(x, memory, index, len(sigmas) - 1, padded, noise)
        if conventions.ends_in_vp:
            x = x / jnp.sqrt(1 + sigmas[-1] ** 2)
        jax.block_until_ready(x)
        yield num_steps, x, (given[0], given[-1]), float(sigmas[-1])


METHODS = {}
for case, (name, fields, num_steps) in CASES.items():
    METHODS.setdefault(case.rpartition("-")[0], (name, fields, []))[2].append(num_steps)


@pytest.mark.parametrize(
    "case",
    [
        case if int(case.rpartition("-")[2]) < 1 else pytest.param(case, marks=pytest.mark.slow)
        for case in METHODS
    ],
)
def test_a_scheduler_of_diffusers_ends_where_our_sampler_does(case):
    for num_steps, x, timesteps, last_sigma in runs(*METHODS[case]):
        np.testing.assert_allclose(x, loops()[f"{case}-{num_steps}.x"], atol=1e-4)
        expected = loops()[f"{case}-{num_steps}.timesteps"]
        if expected[1] == 0 and last_sigma > 0:
            expected = expected[:1]  # diffusers' last step goes from timestep 0 to itself
        # float32 finds a timestep by its sigma to within 0.01
        np.testing.assert_allclose(timesteps[: len(expected)], expected, atol=0.02)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(_class_name="ScoreSdeVeScheduler"), "_class_name='ScoreSdeVeScheduler' cannot be"),
        (dict(_class_name=["DDPMScheduler"]), "cannot be sampled from here"),
        (dict(prediction_type="flow"), "prediction_type='flow' must be 'epsilon'"),
        (dict(beta_schedule="laplace"), "beta_schedule='laplace' must be 'linear'"),
        (dict(beta_start="0.1"), "beta_start='0.1' must be a finite number"),
        (dict(variance_type="fixed_large_log"), "variance_type='fixed_large_log' must be"),
        (dict(timestep_spacing="log"), "timestep_spacing='log' must be"),
        (dict(trained_betas=[]), "trained_betas=[] must be"),
        (dict(rescale_betas_zero_snr=True), "use V or X0"),
        (dict(_class_name="EulerDiscreteScheduler", timestep_type="continuous"), "timestep_type="),
        (dict(_class_name="EulerDiscreteScheduler", interpolation_type="log_linear"), "'linear'"),
        (
            dict(_class_name="LMSDiscreteScheduler", use_karras_sigmas=True, use_beta_sigmas=True),
            "exclude each other",
        ),
        (dict(_class_name="DPMSolverMultistepScheduler", algorithm_type="x"), "algorithm_type='x'"),
        (dict(_class_name="DPMSolverMultistepScheduler", use_flow_sigmas=True), "use_flow_sigmas"),
        (
            dict(
                _class_name="DPMSolverMultistepScheduler",
                algorithm_type="sde-dpmsolver++",
                solver_order=3,
            ),
            "solver_order 1 or 2",
        ),
        (dict(_class_name="UniPCMultistepScheduler", predict_x0=False), "predict_x0=False"),
        (dict(_class_name="UniPCMultistepScheduler", disable_corrector=[0]), "disable_corrector"),
        (dict(_class_name="PNDMScheduler", prediction_type="v_prediction"), "prediction_type="),
        (dict(_class_name="EDMEulerScheduler", sigma_max=-1), "sigma_max=-1 must be"),
        (dict(_class_name="FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True), "False"),
    ],
)
def test_what_cannot_be_sampled_is_named(fields, says):
    with pytest.raises(ValueError) as error:
        method_of({"_class_name": "DDPMScheduler"} | fields, where="scheduler_config.json")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("scheduler_config.json: ")


@pytest.fixture
def folder(tmp_path):
    """A pipeline's folder, whose files may be changed."""
    return Path(shutil.copytree(FOLDER / "pipeline", tmp_path / "folder"))


def write(path, **fields):
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("kind", "scheduler", "sampler", "num_steps"),
    [
        ("DDPMPipeline", "DDPMScheduler", dm.Ancestral(0.0), 1000),
        ("DDIMPipeline", "DDPMScheduler", dm.Euler(keeps_eps=True), 50),
        ("PNDMPipeline", "PNDMScheduler", PNDMFromRungeKutta(dm.VPLinear()), 50),
        ("DDPMPipeline", "DPMSolverMultistepScheduler", None, 999),
        ("ConsistencyModelPipeline", "CMStochasticIterativeScheduler", dm.ConsistencySampler(), 1),
    ],
)
def test_the_pipelines_class_decides_too(folder, kind, scheduler, sampler, num_steps):
    write(folder / "model_index.json", _class_name=kind)
    write(folder / "scheduler" / "scheduler_config.json", _class_name=scheduler)
    sampling = diffusers_folder.read(folder).sampling
    assert sampler in (None, sampling.sampler) and sampling.num_steps == num_steps


def test_a_pipeline_of_latents_is_refused_by_its_class(folder, capsys):
    write(folder / "model_index.json", _class_name="LDMPipeline")
    assert "_class_name='LDMPipeline' cannot be" in mistake(sample.main, [folder], capsys)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-steps", "10", "--spacing", "linspace"], "steps to timesteps 100 lower"),
        (["--num-steps", "7", "--spacing", "trailing"], "trailing with a divisor of 1000"),
    ],
)
def test_steps_that_ddim_would_not_visit_are_refused(folder, capsys, options, says):
    write(folder / "model_index.json", _class_name="DDIMPipeline")
    assert says in mistake(sample.main, [folder, *options], capsys)


def test_a_folder_draws_what_its_pipeline_draws(folder, tmp_path):
    """The start, the end and the clipping of a scheduler that has all of them in its own way."""
    write(folder / "model_index.json", _class_name="DDIMPipeline")
    fields = dict(set_alpha_to_one=False, steps_offset=1, clip_sample_range=0.5)
    write(folder / "scheduler" / "scheduler_config.json", **fields)
    found = pipeline.read(folder, None)
    found = dataclasses.replace(found, sampling=dataclasses.replace(found.sampling, num_steps=4))
    drawn = draw.draw(found, np.full(2, -1), seed=3)

    # diffusers' loop in alpha_bar, by the network alone
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    eps, _ = noise_and_keys(jax.random.key(3), jnp.arange(2), found.model.image_shape)
    x = np.asarray(eps)
    for t in (751, 501, 251, 1):
        a, a_next = alpha_bar[t], alpha_bar[t - 250] if t >= 250 else alpha_bar[0]
        out = np.asarray(found.network(found.params, jnp.asarray(x), jnp.full(2, float(t))))
        x_0 = np.clip((x - np.sqrt(1 - a) * out) / np.sqrt(a), -0.5, 0.5)
        x = (np.sqrt(a_next) * x_0 + np.sqrt(1 - a_next) * out).astype(np.float32)
    np.testing.assert_allclose(drawn.astype(int), to_pixels(x).astype(int), atol=1)
