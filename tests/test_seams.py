"""Any network of the union and any dataset of the protocol trains, resumes, samples and exports."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from runs import AS_HERE, ROOT, SMALL, assert_bitwise_equal, final_state, mistake, samples
from test_readme import README

import diffusion as dm
import sample
import train
import unet_flax
from commands import build, diffusers_folder, export, pipeline, train_request
from diffusion.data import Dataset, Digits, ImageArrays
from diffusion.run import checkpoint
from unet_flax import EDM2Config, Middle

EDM2 = EDM2Config(None, None, channels=8, channel_mult=(1,), num_res_blocks=1,
                  attention_resolutions=(), head_dim=8)  # fmt: skip


def small(num_steps=4, options=(), **changes):
    request = train_request.parse([*SMALL, "--run.num-steps", str(num_steps), *options])
    return dataclasses.replace(request.recipe, **changes)


def trained(recipe, run_dir):
    build.claim(run_dir, recipe, recipe.data.load())
    job = build.job(recipe, run_dir, recipe.mesh.make())
    train.train(job, build.start(job))
    return run_dir


@pytest.fixture(scope="module")
def edm2_run(tmp_path_factory):
    return trained(small(model=EDM2), tmp_path_factory.mktemp("edm2"))


@pytest.mark.slow
def test_an_edm2_network_resumes_bit_for_bit(edm2_run, tmp_path):
    for goal in (2, 4):
        trained(small(goal, model=EDM2), tmp_path)
    assert_bitwise_equal(final_state(tmp_path), final_state(edm2_run))


KILLED = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_seams import EDM2, small, trained
trained(small(100_000, ["--run.save-every-steps", "1"], model=EDM2), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_an_edm2_network_that_is_killed_goes_on_bit_for_bit(tmp_path):
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | AS_HERE)
    deadline = time.monotonic() + 120
    while not checkpoint.steps(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    goal = checkpoint.steps(killed)[-1] + 3
    trained(small(goal, ["--run.save-every-steps", "1"], model=EDM2), killed)
    trained(small(goal, ["--run.save-every-steps", "1"], model=EDM2), tmp_path / "whole")
    assert_bitwise_equal(final_state(killed), final_state(tmp_path / "whole"))


def test_an_edm2_network_keeps_kernels_of_unit_size_while_it_trains(edm2_run):
    kernel = final_state(edm2_run).params["conv_in"]["kernel"]
    np.testing.assert_allclose(jnp.square(kernel).mean((0, 1, 2)), 1.0, atol=1e-3)


def test_every_array_of_the_weights_file_has_its_own_shape(edm2_run):
    arrays = safetensors.numpy.load_file(edm2_run / "weights.safetensors")
    assert arrays["out_gain"].shape == () and arrays["conv_in.kernel"].shape == (3, 3, 2, 8)


def test_an_edm2_network_is_sampled_by_the_command(edm2_run, tmp_path):
    sample.main([str(edm2_run), "--num-images", "4", "--label", "3", "--out", str(tmp_path)])
    pixels, labels = samples(tmp_path)
    assert pixels.shape == (4, 8, 8, 1) and labels.tolist() == [3] * 4


@dataclasses.dataclass(frozen=True)
class Conditioned:
    """Random images with everything that a UNet can be given; x_0_hat is the image itself."""

    batch_size: int = 8
    num_classes = None

    def arrays(self):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (16, 8, 8, 1), np.uint8)
        conditions = {
            "condition": rng.standard_normal((16, 8, 8, 2)).astype(np.float32),
            "context": rng.standard_normal((16, 5, 6)).astype(np.float32),
            "x_0_hat": rng.standard_normal((16, 8, 8, 1)).astype(np.float32),
        }
        return ImageArrays(image, None, (), self.batch_size, conditions)

    @property
    def spec(self):
        return self.arrays().spec

    def load(self):
        return self.arrays()


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """A run whose network is given conditions by its dataset, and its state."""
    model = dataclasses.replace(
        small().model, self_conditioning=True, attention_resolutions=(8,), middle=Middle()
    )
    recipe = small(model=model, data=Conditioned(), label_dropout=0.0, augment=dm.Flip())
    job = build.job(recipe, tmp_path_factory.mktemp("conditioned"), recipe.mesh.make())
    train.train(job, build.start(job))
    return job, build.start(job)


def test_a_dataset_feeds_condition_context_and_self_conditioning(conditioned):
    job, state = conditioned
    assert int(state.step) == 4 and (job.run_dir / "samples" / "4.png").exists()
    inputs = {"condition", "context", "context_mask", "x_0_hat"}
    assert job.recipe.model.inputs.keys() == inputs


def test_images_are_drawn_under_the_conditions_of_the_dataset(conditioned):
    job, state = conditioned
    # unlike at initialisation, every layer counts
    noisy = jax.tree.map(lambda leaf: leaf + 0.1, state.ema)
    bare = pipeline.of_weights(job.recipe, job.network, noisy, job.mesh, "a network")
    full = pipeline.with_conditions(bare, job.dataset)
    batch = job.dataset.batch(0, 0)
    np.testing.assert_array_equal(
        full.conditions_of(np.array([9]))["condition"], batch["condition"][[9 % 8]]
    )
    conditions = jax.tree.map(jnp.asarray, full.conditions_of(np.arange(2)))
    denoise = full.denoiser(jnp.full(2, -1), **conditions)
    x = jnp.ones((2, 8, 8, 1))
    estimates = denoise(x, jnp.float32(1.0))
    assert (estimates[0] != estimates[1]).any()  # one noise, two conditions


class Streamed:
    """The same batches as a dataset in memory, which cannot lie on a device."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.batch_size, self.spec = dataset.batch_size, dataset.spec

    def __len__(self):
        return len(self._dataset)

    def batch(self, seed, step, rows=slice(None)):
        return self._dataset.batch(seed, step, rows)

    def resident(self):
        return None

    def checksum(self):
        return self._dataset.checksum()


def test_a_dataset_is_whatever_answers_the_protocol(tmp_path):
    recipe = small()
    job = build.job(recipe, tmp_path / "a", recipe.mesh.make())
    streamed = dataclasses.replace(job, run_dir=tmp_path / "b", dataset=Streamed(job.dataset))
    assert isinstance(streamed.dataset, Dataset)
    for each in (job, streamed):
        each.run_dir.mkdir()
        train.train(each, build.start(each))
    assert_bitwise_equal(build.start(job), build.start(streamed))


@dataclasses.dataclass(frozen=True)
class StreamedDigits(Digits):
    def load(self):
        return Streamed(super().load())


def test_several_steps_a_dispatch_need_a_dataset_in_memory(tmp_path):
    recipe = small(options=["--run.steps-per-dispatch", "2"], data=StreamedDigits(8))
    with pytest.raises(ValueError, match="steps_per_dispatch=2 needs a dataset that lies in"):
        build.job(recipe, tmp_path, recipe.mesh.make())


def test_a_dataset_that_no_union_names_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="cannot hold StreamedDigits: no union"):
        build.claim(tmp_path, small(data=StreamedDigits(8)), Digits(8).load())


def test_the_readmes_lines_restore_a_runs_averaged_weights(run_dir, monkeypatch):
    (snippet,) = [
        text.partition("```")[0]
        for text in README.split("```python\n")
        if "weights.safetensors" in text.partition("```")[0]
    ]
    assert len(snippet.strip().splitlines()) <= 5  # two imports, three lines
    names = {}
    exec(snippet.replace("runs/digits", str(run_dir)), names)
    assert_bitwise_equal(names["params"], final_state(run_dir).ema)


CHAIN = dm.VPLinear(num_timesteps=20, beta_start=0.01, beta_end=0.7)


@pytest.fixture(scope="module")
def ddpm_run(tmp_path_factory):
    """A run whose network and method diffusers has too."""
    # Digits is known by its spec alone when the recipe is parsed
    request = train_request.parse(["digits", *SMALL[1:], "--run.num-steps", "3"])
    recipe = dataclasses.replace(
        request.recipe,
        data=Digits(8, labelled=False),
        schedule=CHAIN,
        preconditioning=dm.Eps(),
        noise=dm.UniformTime(),
        label_dropout=0.0,
        sampling=dataclasses.replace(
            request.recipe.sampling,
            sampler=dm.Ancestral(0.0),
            grid=dm.VPTimesteps(),
            num_steps=20,
            clip_x_0=True,
        ),
    )
    return trained(recipe, tmp_path_factory.mktemp("ddpm"))


def test_an_exported_run_is_sampled_as_the_run_itself(ddpm_run, tmp_path):
    export.main([str(ddpm_run), str(tmp_path / "folder"), "--to", "diffusers"])
    for folder, out in ((ddpm_run, "a"), (tmp_path / "folder", "b")):
        sample.main([str(folder), "--num-images", "3", "--out", str(tmp_path / out)])
    ours, theirs = (samples(tmp_path / out)[0] for out in "ab")
    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)
    config = json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())
    assert config["num_train_timesteps"] == 20 and config["variance_type"] == "fixed_small"
    assert json.loads((tmp_path / "folder/model_index.json").read_text())["_class_name"] == (
        "DDPMPipeline"
    )


def with_sampling(read, **changes):
    return dataclasses.replace(read, sampling=dataclasses.replace(read.sampling, **changes))


@pytest.mark.parametrize(
    ("sampler", "spacing", "clips"),
    [
        *((dm.Ancestral(0.0), "leading", True), (dm.Ancestral(1.0), "trailing", True)),
        *((dm.Euler(), "leading", False), (dm.Euler(), "trailing", False)),
    ],
)
def test_an_exported_scheduler_is_read_back(ddpm_run, tmp_path, sampler, spacing, clips):
    changes = dict(sampler=sampler, grid=dm.VPTimesteps(CHAIN, spacing), clip_x_0=clips)
    read = with_sampling(pipeline.read(ddpm_run), num_steps=5, **changes)
    name, config = export.scheduler_of(read)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    unet_flax.save_diffusers(unet_flax.module(read.model, read.params), tmp_path / "unet")
    found = diffusers_folder.read(tmp_path)
    assert found.sampling.sampler == sampler
    assert found.sampling.grid == read.sampling.grid and found.sampling.clip_x_0 == clips
    assert found.preconditioning == dm.Eps(CHAIN) == read.preconditioning


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(sampler=dm.Euler()), "with clip_x_0=True has no counterpart"),
        (dict(sampler=dm.Euler(eta=1.0), clip_x_0=False), "Euler of eta 0 without clipping"),
        (dict(sampler=dm.Ancestral(0.5)), "Ancestral of interpolation 0 or 1"),
        (dict(num_steps=5), "spacing 'linspace' with 5 of 20 timesteps"),
        (
            dict(num_steps=7, grid=dm.VPTimesteps(CHAIN, "trailing")),
            "spacing 'trailing' with 7 of 20 timesteps",
        ),
        (dict(grid=dm.Karras()), "grid Karras has no counterpart"),
    ],
)
def test_a_method_that_diffusers_lacks_is_not_exported(ddpm_run, changes, says):
    with pytest.raises(ValueError, match=says):
        export.scheduler_of(with_sampling(pipeline.read(ddpm_run), **changes))


def test_a_run_without_counterpart_in_diffusers_is_refused_in_one_line(run_dir, tmp_path, capsys):
    error = mistake(export.main, [run_dir, tmp_path, "--to", "diffusers"], capsys)
    assert "the network has 10 classes" in error
    assert "invalid choice" in mistake(export.main, [run_dir, tmp_path, "--to", "x"], capsys)


def test_a_module_of_exported_weights_is_the_network(run_dir):
    read = pipeline.read(run_dir)
    unet = unet_flax.module(read.model, read.params)
    x, c_noise, label = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.array([1, 2])
    expected = read.network(read.params, x, c_noise, label=label)
    np.testing.assert_allclose(unet(x, c_noise, label=label), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_diffusers_draws_from_an_exported_run_what_the_run_draws(ddpm_run, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    export.main([str(ddpm_run), str(tmp_path), "--to", "diffusers"])
    theirs = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert theirs.scheduler.config.variance_type == "fixed_small"

    read = with_sampling(pipeline.read(ddpm_run), clip_x_0=False)
    ddim = dataclasses.replace(read.sampling, sampler=dm.Euler(), clip_x_0=False)
    name, config = export.scheduler_of(dataclasses.replace(read, sampling=ddim))
    scheduler = diffusers.DDIMScheduler.from_config(config)
    scheduler.set_timesteps(20)
    assert name == "DDIMPipeline"
    sigmas = ddim.grid(20)
    eps = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    x_0 = dm.Euler()(read.denoiser(jnp.full(2, -1)), sigmas[0] * eps, sigmas, jax.random.key(0))
    # x_t / sqrt(1 + sigma^2) is diffusers' x_t
    x = torch.tensor(eps).permute(0, 3, 1, 2) * float(sigmas[0] / jnp.sqrt(1 + sigmas[0] ** 2))
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(theirs.unet(x, t).sample, t, x).prev_sample
    np.testing.assert_allclose(x_0, x.permute(0, 2, 3, 1).numpy(), atol=1e-3)
