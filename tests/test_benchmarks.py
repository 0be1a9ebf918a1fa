"""What cannot be measured or written is told, and no figure is given for it."""

import argparse
import json

import pytest

from benchmarks import compile, quality, timing


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", ""])
def test_count_is_a_whole_number_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match="not a positive integer"):
        timing.count(text)


def test_the_folder_of_the_results_is_created(tmp_path):
    timing.json_file(f"{tmp_path}/new/figures.json").write_text("{}")


def test_an_unwritable_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="file: "):
        timing.json_file(f"{tmp_path}/file/figures.json")
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        timing.json_file(f"{tmp_path}")


def test_command_that_ends_before_its_first_step_has_no_time(tmp_path):
    with pytest.raises(RuntimeError, match="status 2 before its first step"):
        compile.first_step("nonsense", f"{tmp_path}")


def test_the_curve_of_a_run_has_its_measurements_over_the_images_seen(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"data": {"batch_size": 8}}))
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 5, "loss": 1.0}\n{"step": 5, "frechet_distance": 2.5}\n'
    )
    assert quality.curve(tmp_path) == [(40, 2.5)]
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    with pytest.raises(ValueError, match="evaluate-every-steps"):
        quality.curve(tmp_path)
