"""What cannot be measured or written is told before anything is measured."""

import argparse

import pytest

from benchmarks import timing


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
