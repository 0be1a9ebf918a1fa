"""Files of torch.save are read as tensors, and nothing in them runs."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from unet_flax.diffusers.torch_file import read_torch_file

FILE = Path(__file__).parent / "from_diffusers" / "torch_save.bin"
OLD_FILE = FILE.with_name("torch_save_1_5.bin")
WHOLE = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize("file", [FILE, OLD_FILE])
def test_tensors_of_every_kind_are_read(file):
    expected = {
        "whole": WHOLE.astype(np.float32),
        "transposed": WHOLE.transpose(2, 1, 0),
        "part": WHOLE[1, 1:],
        "half": WHOLE.astype(np.float16),
        "bfloat16": WHOLE,
        "numbers": np.arange(4),
        "scalar": np.array(3.0),
        "empty": np.zeros((0, 3)),
        "parameter": WHOLE,
    }
    found = read_torch_file(file)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].astype(np.float64), array)
    assert found["half"].dtype == np.float16 and found["bfloat16"].dtype.name == "bfloat16"


def archive(path, program, storages=()):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for key, values in enumerate(storages):
            file.writestr(f"archive/data/{key}", np.asarray(values, np.float32).tobytes())
    return path


def old(path, program, keys="", size=4, *, version=1001, little_endian=True):
    """A file of the layout before PyTorch 1.6, whose storages hold zeros."""
    head = [0x1950A86A20F9469CFC6C, version, {"little_endian": little_endian}]
    parts = [pickle.dumps(part, 2) for part in head] + [program, pickle.dumps(list(keys), 2)]
    path.write_bytes(b"".join(parts) + (size.to_bytes(8, "little") + bytes(16)) * len(keys))
    return path


def encrypted(path):
    """The golden file with the flag of encryption at each member, as a flipped bit sets it."""
    data = bytearray(FILE.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(mark)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(mark, place + 1)
    path.write_bytes(data)
    return path


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/this-must-not-exist"),))


def word(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def tensor(key, length, offset, size, stride):
    """The instructions that leave a tensor of a storage on the stack."""
    numbers = b"".join(b"(" + b"".join(map(number, some)) + b"t" for some in (size, stride))
    storage = b"ctorch\nFloatStorage\n" + word(str(key)) + word("cpu") + number(length)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + (word("storage") + storage + b"tQ" + number(offset))
        + (numbers + b"\x89}tR")
    )


def tensor_program(offset, size, stride, length=4):
    """The program of {"w": tensor} on storage 0."""
    return b"\x80\x02}" + word("w") + tensor(0, length, offset, size, stride) + b"s."


ONE = tensor_program(1, [2], [2])
TWO = word("v") + tensor(0, 3, 0, [1], [1]) + b"s."


def write_torch_file(path, arrays):
    """Writes float32 arrays as torch.save does."""
    parts = []
    for key, (name, array) in enumerate(arrays.items()):
        stride = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        parts.append(word(name) + tensor(key, array.size, 0, array.shape, stride))
    return archive(path, b"\x80\x02}(" + b"".join(parts) + b"u.", arrays.values())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: archive(path, pickle.dumps({"w": Harmful()})), "it calls"),
        (lambda path: archive(path, pickle.dumps({"w": np.ones(2)})), "it calls|instruction"),
        (lambda path: archive(path, pickle.dumps([1, 2])), "holds no dictionary of tensors"),
        (lambda path: archive(path, pickle.dumps({"w": 1})), "'w' is no tensor"),
        (lambda path: archive(path, b"\x80\x02}"), "cannot be read as tensors"),
        (lambda path: archive(path, b""), "cannot be read as tensors"),
        (lambda path: path.write_bytes(pickle.dumps({"w": 1})) and path, "or damaged"),
        (lambda path: path.write_bytes(FILE.read_bytes()[:500]) and path, "or damaged"),
        (lambda path: path.write_bytes(OLD_FILE.read_bytes()[:100]) and path, "cannot be read as"),
        (lambda path: path.write_bytes(OLD_FILE.read_bytes()[:-9]) and path, "it is cut off"),
        (lambda path: old(path, pickle.dumps({"w": Harmful()}, 2)), "it calls"),
        (lambda path: old(path, tensor_program(0, [2], [1])), "'0'"),
        (lambda path: old(path, tensor_program(0, [2], [1]), "0", 3), "3 values in place of 4"),
        (
            lambda path: old(path, tensor_program(0, [2], [1], 10**9), "0"),
            "4 values in place of 1000000000",
        ),
        (lambda path: old(path, tensor_program(3, [2], [1]), "0"), "ends after"),
        (lambda path: old(path, ONE, "0", version=1000), "its format is 1000"),
        (lambda path: old(path, ONE, "0", little_endian=False), "not in little-endian"),
        (
            lambda path: old(path, ONE.replace(b"tQ", word("view") + b"tQ"), "0"),
            "cannot be read as tensors",
        ),
        (lambda path: old(path, ONE[:-1] + TWO, "0"), "4 values in place of 3"),
        (lambda path: encrypted(path), "encrypted"),
        (lambda path: archive(path, tensor_program(0, [2], [1])), "There is no item named"),
        (lambda path: archive(path, tensor_program(3, [2], [1]), [range(4)]), "ends after"),
        (lambda path: archive(path, tensor_program(-1, [2], [1]), [range(4)]), "begins before"),
        (lambda path: archive(path, tensor_program(0, [2], [-1]), [range(4)]), "begins before"),
        (lambda path: archive(path, tensor_program(0, [2], [1]), [range(3)]), "3 values in place"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, make, says):
    path = make(tmp_path / "w.bin")
    with pytest.raises(ValueError, match=says) as error:
        read_torch_file(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not Path("/tmp/this-must-not-exist").exists()


def test_an_old_file_of_the_same_tensor_is_read(tmp_path):
    path = old(tmp_path / "w.bin", ONE.replace(b"tQ", b"NtQ"), "0")  # None: of no other storage
    np.testing.assert_array_equal(read_torch_file(path)["w"], [0, 0])


def test_a_tensor_may_lie_anywhere_in_its_storage(tmp_path):
    path = archive(tmp_path / "w.bin", ONE, [range(4)])
    np.testing.assert_array_equal(read_torch_file(path)["w"], [1, 3])
