"""What cannot be measured or written is told, and no figure is given for it."""

import argparse

import pytest

from benchmarks import compile, timing


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", ""])
def test_count_is_a_whole_number_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match="no whole number above 0"):
        timing.count(text)


def test_folder_of_the_figures_is_made(tmp_path):
    timing.json_file(f"{tmp_path}/new/figures.json").write_text("{}")


def test_place_where_nothing_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="file: "):
        timing.json_file(f"{tmp_path}/file/figures.json")
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        timing.json_file(f"{tmp_path}")


def test_command_that_ends_before_its_first_step_has_no_time(tmp_path):
    with pytest.raises(RuntimeError, match="status 2 before its first step"):
        compile.first_step("nonsense", f"{tmp_path}")
