"""Laws of the record of a run's data: which data a resumed run takes."""

import json

import numpy as np
import pytest

from diffusion.data import ImageArrays
from diffusion.run import data_record


def data(*, last=0):
    pixels = np.zeros((3, 2, 2, 1), np.uint8)
    pixels[2, 1, 1] = last
    return ImageArrays(pixels, None, (), 4)


def test_a_resumed_run_takes_the_data_that_it_began_with_and_no_other(tmp_path):
    data_record.claim(tmp_path / "run", data(), resumes=False)
    data_record.claim(tmp_path / "run", data(), resumes=True)
    before = (tmp_path / "run" / "data.json").read_text()
    with pytest.raises(ValueError, match=r"other data \(3 images, checksum .*remove .*data.json"):
        data_record.claim(tmp_path / "run", data(last=1), resumes=True)
    assert (tmp_path / "run" / "data.json").read_text() == before
    assert json.loads(before)["num_images"] == 3


def test_a_new_run_or_one_without_a_record_takes_the_data_as_it_is(tmp_path):
    data_record.claim(tmp_path, data(), resumes=False)
    data_record.claim(tmp_path, data(last=1), resumes=False)  # no checkpoint: begun again
    (tmp_path / "data.json").unlink()
    data_record.claim(tmp_path, data(), resumes=True)
    data_record.claim(tmp_path, data(), resumes=True)


@pytest.mark.parametrize("content", ["", "[1]", "{}", "[" * 100_000])
def test_a_damaged_record_is_one_line(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match="data.json is damaged.*remove it"):
        data_record.claim(tmp_path, data(), resumes=True)
