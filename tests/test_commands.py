"""The commands as a user types them: results and resuming."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors
from PIL import Image
from runs import (
    SMALL,
    STEPS,
    assert_bitwise_equal,
    final_state,
    records,
    samples,
    train_small,
)

import diffusion as dm
import sample
import train
from commands import build, config_file, draw, pipeline, sample_request, train_request
from diffusion import sharding
from diffusion.run import checkpoint


def test_a_run_writes_its_folder(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "samples"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert checkpoint.steps(run_dir) == [6, 9, 12]
    assert {"step", "loss", "grad_norm", "images_per_second"} <= set(records(run_dir)[-1])
    with Image.open(run_dir / "samples" / "12.png") as image:
        assert min(image.size) > 100


def test_stopping_and_resuming_equals_an_uninterrupted_run(run_dir, tmp_path):
    train_small(tmp_path / "halves", "--run.num-steps", "7")
    train_small(tmp_path / "halves")
    assert_bitwise_equal(final_state(tmp_path / "halves"), final_state(run_dir))


@pytest.mark.slow
def test_resuming_is_exact_with_several_steps_per_dispatch(tmp_path):
    several = ("--run.steps-per-dispatch", "4")
    train_small(tmp_path / "whole", *several)
    for goal in ("1", "6", "7", str(STEPS)):  # dispatches of 1 to 4 steps
        train_small(tmp_path / "parts", *several, "--run.num-steps", goal)
    assert_bitwise_equal(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))
    losses = [{r["step"]: r["loss"] for r in records(tmp_path / n)} for n in ("parts", "whole")]
    assert losses[0][STEPS] == losses[1][STEPS]


def test_a_dry_run_says_what_it_costs_and_writes_nothing(tmp_path, capsys):
    run_dir = tmp_path / "none"
    train.main([*SMALL, "--run-dir", str(run_dir), "--mesh.fsdp", "4", "--dry-run"])
    out = capsys.readouterr().out
    config, _, rest = out.partition("\n}\n")
    recipe = config_file.from_json(json.loads(config + "\n}"))
    assert recipe.data.batch_size == 8 and not run_dir.exists()
    _, params = build.abstract_network(recipe)
    assert f"parameters           {sum(leaf.size for leaf in jax.tree.leaves(params)):,}" in rest
    assert "GFLOP an image" in rest and "per device of 4" in rest and "optimiser" in rest


def test_chosen_steps_are_traced_and_chosen_checkpoints_stay(tmp_path):
    options = ["--run.keep-checkpoints", "1", "--run.keep-every-steps", "6"]
    train_small(tmp_path, *options, "--profile-steps", "3,4", "--run.num-steps", "9")
    assert checkpoint.steps(tmp_path) == [6, 9]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("ema", ["0.05", "0.07"])
def test_an_average_is_chosen_or_made_afterwards_by_its_width(power_run, tmp_path, ema):
    sample.main([str(power_run), "--ema", ema, "--num-images", "2", "--out", str(tmp_path)])
    assert samples(tmp_path)[0].shape == (2, 8, 8, 1)


def test_an_average_made_afterwards_of_a_width_that_is_kept_is_that_one(power_run):
    recipe = config_file.from_json(checkpoint.read_config(power_run))
    kept = pipeline.read(power_run, ema="0.1")
    made = pipeline.read(power_run, ema="0.1000")
    assert "0.1000" not in recipe.ema.names
    for a, b in zip(jax.tree.leaves(kept.params), jax.tree.leaves(made.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_an_average_of_an_earlier_step_does_not_depend_on_later_ones(power_run, tmp_path):
    early = tmp_path / "run"
    shutil.copytree(power_run, early, ignore=shutil.ignore_patterns("9"))
    assert checkpoint.steps(early) == [3, 6]
    made = [pipeline.read(run_dir, 6, ema="0.07").params for run_dir in (power_run, early)]
    assert_bitwise_equal(*made)


@pytest.fixture(scope="module")
def power_run(tmp_path_factory):
    """A run that keeps averages of two classes, which no recipe does yet."""
    run_dir = tmp_path_factory.mktemp("runs") / "power"
    ema = dm.Several((dm.EMA(0.9), dm.PowerFunction()))
    recipe = dataclasses.replace(train_request.parse(SMALL).recipe, ema=ema)
    recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, num_steps=9))
    build.claim(run_dir, recipe, recipe.data.load())
    job = build.job(recipe, run_dir, recipe.mesh.make())
    train.train(job, build.start(job))
    return run_dir


def test_a_name_that_is_kept_is_that_average_and_no_width(power_run):
    kept = final_state(power_run).ema["0.9"]
    assert_bitwise_equal(pipeline.read(power_run, ema="0.9").params, kept)
    assert_bitwise_equal(pipeline.read(power_run).params, kept)  # the first
    with safetensors.safe_open(power_run / "weights.safetensors", "np") as file:
        assert file.metadata()["average"] == "0.9"


@pytest.mark.slow
def test_a_run_can_move_from_one_device_to_four_and_back(run_dir, tmp_path):
    for devices, goal in (("1", "3"), ("4", "6"), ("1", str(STEPS))):
        train_small(tmp_path, "--mesh.data", devices, "--run.num-steps", goal)
    moved, whole = final_state(tmp_path), final_state(run_dir)
    # the same sums in another order
    for a, b in zip(jax.tree.leaves(moved.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_is_left_as_it_is(run_dir):
    before = contents(run_dir)
    train_small(run_dir)
    assert contents(run_dir) == before


def test_a_missing_grid_is_drawn_on_resuming(tmp_path):
    options = ("--run.sample-every-steps", "3")
    train_small(tmp_path, *options, "--run.num-steps", "3")
    (tmp_path / "samples" / "3.png").unlink()  # as if stopped before drawing
    train_small(tmp_path, *options, "--run.num-steps", "4")
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"3.png", "4.png"}


@pytest.fixture(scope="module")
def drawn(run_dir):
    sample.main([str(run_dir), "--label", "all", "--num-images", "20", "--batch-size", "20"])
    return samples(run_dir / "images")


def test_sampling_writes_what_it_says(run_dir, drawn):
    pixels, labels = drawn
    assert pixels.shape == (20, 8, 8, 1) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.arange(10).repeat(2))
    with Image.open(run_dir / "images" / "png" / "00007.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels[7, :, :, 0])
    assert (run_dir / "images" / "grid.png").exists()


@pytest.mark.parametrize("batch_size", ["1", "7", "64"])
def test_the_same_seed_gives_the_same_images_however_chunked(run_dir, drawn, tmp_path, batch_size):
    sample.main(
        [str(run_dir), "--num-images", "20", "--batch-size", batch_size, "--out", str(tmp_path)]
    )
    np.testing.assert_array_equal(samples(tmp_path)[0], drawn[0])


OFTEN = ("ddim", "ddpm", "dpm-2m", "predictor-corrector", "rk45")


@pytest.mark.parametrize(
    "name",
    [
        name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)  # a loop each
        for name in sample_request.SAMPLERS
    ],
)
def test_every_sampler_can_be_named(run_dir, tmp_path, name):
    options = ["--sampler", name, "--num-images", "2", "--label", "3", "--guidance", "2"]
    sample.main([str(run_dir), *options, "--out", str(tmp_path)])
    assert samples(tmp_path)[1].tolist() == [3, 3]


def test_sampling_uses_the_averaged_weights(run_dir, drawn, tmp_path):
    state, trained = final_state(run_dir), pipeline.read(run_dir, None)
    labels = np.arange(10).repeat(2).astype(np.int32)
    from_average, from_last = (
        draw.draw(
            dataclasses.replace(trained, params=sharding.on_every_device(trained.mesh, params)),
            labels,
            seed=0,
        )
        for params in (state.ema, state.params)
    )
    np.testing.assert_array_equal(from_average, drawn[0])
    assert (from_last != drawn[0]).any()


def test_samples_that_are_nan_are_not_written(run_dir, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        sample.main([str(run_dir), "--guidance", "1e38", "--out", str(tmp_path / "out")])
    assert exit.value.code == 1 and "samples are nan or inf" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
