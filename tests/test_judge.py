"""Laws of a run that measures its samples while it trains."""

import json

import pytest
from runs import SMALL, assert_bitwise_equal, final_state, mistake, samples, train_small

import sample
import train
from commands import draw
from diffusion.metrics import own_classifier as own
from diffusion.run import best, checkpoint

EVERY = ["--run.evaluate-every-steps", "4", "--run.evaluate-images", "80"]


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A small classifier, kept apart from that of other tests."""
    monkeypatch.setattr(own, "NUM_STEPS", 3)
    monkeypatch.setattr(own, "WIDTHS", (4, 8))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_measured_run_is_the_same_run_and_keeps_its_best_checkpoint(
    quick, run_dir, tmp_path, monkeypatch, capsys
):
    drawn, draw_images = [], draw.draw

    def draw_and_count(trained, labels, *, first=0, **options):
        if len(labels) != 10:  # not for the grid
            drawn.extend(range(first, first + len(labels)))
        return draw_images(trained, labels, first=first, **options)

    monkeypatch.setattr(draw, "draw", draw_and_count)
    measured = tmp_path / "measured"
    train_small(measured, *EVERY, "--run.keep-checkpoints", "1")
    assert_bitwise_equal(final_state(measured), final_state(run_dir))
    found = best.distances(measured)
    assert drawn == 3 * list(range(80))  # each image once a measurement
    assert list(found) == [4, 8, 12] and all(value > 0 for value in found.values())
    assert min(found, key=found.get) == best.best_step(measured)
    best_before = min((4, 8), key=found.get)  # when the last one was saved
    assert set(checkpoint.steps(measured)) == {best_before, 12}
    assert not (measured / ".features").exists()
    assert capsys.readouterr().out.count("Frechet distance") == 3
    sample.main(
        [str(measured), "--step", "best", "--num-images", "2", "--out", str(tmp_path / "o")]
    )
    assert f"step {best.best_step(measured)}" in capsys.readouterr().out
    assert len(samples(tmp_path / "o")[0]) == 2

    lines = (measured / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not (best.KEY in line and '"step": 12' in line)]
    (measured / "metrics.jsonl").write_text("".join(kept))  # killed before it was measured
    train_small(measured, *EVERY, "--run.keep-checkpoints", "1")
    assert best.distances(measured) == found


def test_the_best_step_is_the_first_of_the_smallest_distances(tmp_path):
    assert best.best_step(tmp_path) is None
    lines = [
        {"step": 1, "loss": 0.1},
        *({"step": s, best.KEY: d} for s, d in [(2, 3.0), (4, 2.0), (6, 2.0)]),
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 8, "frechet_distance": 0.')
    assert best.best_step(tmp_path) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--run.evaluate-every-steps", "0"], "evaluate_every_steps=0"),
        (["--run.evaluate-images", "1"], "evaluate_images=1 must be 2"),
        ([*EVERY, "--run.evaluate-features", "nothing.pth"], "nothing.pth"),
        (
            [*EVERY, "--data.labelled", "false", "--run.evaluate-features", "/dev/null"],
            "no file of",
        ),
    ],
)
def test_a_measurement_that_cannot_be_is_refused_before_training(tmp_path, options, says, capsys):
    argv = [*SMALL, "--run.num-steps", "4", "--run-dir", str(tmp_path / "run"), *options]
    assert says in mistake(train.main, argv, capsys)
    assert checkpoint.steps(tmp_path / "run") == []


def test_the_best_step_of_a_run_that_was_not_measured_is_refused(run_dir, capsys):
    assert "was not measured" in mistake(sample.main, [run_dir, "--step", "best"], capsys)
