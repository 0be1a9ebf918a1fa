"""Files that torch.save wrote before PyTorch 1.6 are read as tensors, and nothing in them runs."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from test_torch_file import Harmful, number, word

from unet_flax.diffusers.torch_file import read_torch_file
from unet_flax.diffusers.torch_legacy import FORMAT, MAGIC

FILE = Path(__file__).parent / "from_diffusers" / "torch_save_1_5.bin"
ZIPPED = Path(__file__).parent / "from_diffusers" / "torch_save.bin"
WHOLE = np.arange(24.0).reshape(2, 3, 4)
FACTS = {"protocol_version": FORMAT, "little_endian": True, "type_sizes": {"int": 4}}


def tensor(length=4, view=b"N", rebuild=b"_rebuild_tensor_v2", storage=b"FloatStorage", text=word):
    """The program of {"w": tensor of 2 values} on storage 0."""
    identity = text("storage") + b"ctorch\n" + storage + b"\n" + text("0") + text("cpu")
    rest = b"\x89}" if rebuild.endswith(b"v2") else b""
    return (
        (b"\x80\x02}" + text("w") + b"ctorch._utils\n" + rebuild + b"\n((")
        + (identity + number(length) + view + b"tQ" + number(1))
        + (b"(" + number(2) + b"t(" + number(1) + b"t" + rest + b"tRs.")
    )


def python_2_word(value):
    return b"U" + bytes([len(value)]) + value.encode()


def write(path, program, *, form=FORMAT, facts=FACTS, keys=("0",), values=(0, 1, 2, 3), size=None):
    parts = [MAGIC, *(pickle.dumps(part, 2) for part in (form, facts)), program]
    array = np.asarray(values, np.float32)
    count = (len(array) if size is None else size).to_bytes(8, "little", signed=True)
    path.write_bytes(b"".join([*parts, pickle.dumps(list(keys), 2), count, array.tobytes()]))
    return path


def pairs(program):
    """The same dictionary as Python 2 wrote it: OrderedDict([["w", tensor]])."""
    item = program.removeprefix(b"\x80\x02}").removesuffix(b"s.")
    return b"\x80\x02ccollections\nOrderedDict\n]](" + item + b"ea\x85R."


VIEW = b"(" + word("1") + number(1) + number(3) + b"t"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (tensor(), [1, 2]),
        (tensor(view=VIEW), [2, 3]),
        (tensor(rebuild=b"_rebuild_tensor"), [1, 2]),
        (tensor(text=python_2_word), [1, 2]),
        (pairs(tensor(text=python_2_word)), [1, 2]),
    ],
    ids=["plain", "view of a storage", "before PyTorch 0.4", "words of Python 2", "pairs"],
)
def test_a_tensor_of_any_age_is_read(tmp_path, program, expected):
    np.testing.assert_array_equal(
        read_torch_file(write(tmp_path / "w.pth", program))["w"], expected
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"program": pickle.dumps({"w": Harmful()}, 2)}, "it calls|instruction"),
        ({"program": pickle.dumps({"w": Harmful()}, 4)}, "it calls|instruction"),
        ({"program": b"cos\nsystem\n(" + word("true") + b"tR."}, "it calls 'os.system'"),
        ({"program": b"(" + word("true") + b"ios\nsystem\n."}, "instruction INST is none"),
        ({"program": pickle.dumps([1], 2)}, "holds no dictionary of tensors"),
        ({"program": pickle.dumps({"w": {"v": 1}}, 2)}, "'w' is no tensor"),
        ({"program": tensor(storage=b"QuantStorage")}, "a storage of type 'QuantStorage'"),
        ({"program": tensor(length=5)}, "storage 0 has 4 values in place of 5"),
        ({"program": tensor(length=3)}, "storage 0 has 4 values in place of 3"),
        ({"program": tensor(length=-1)}, "storage 0 has -1 values"),
        ({"program": tensor(view=VIEW, length=3)}, "a view of storage 0 lies outside it"),
        ({"program": tensor(length=2), "values": (0, 1)}, "ends after its storage"),
        ({"program": tensor(length=2**31 - 1), "size": 2**31 - 1}, "it is cut off"),
        ({"keys": ()}, "'0'"),
        ({"keys": ("0", "1")}, "storage '1' belongs to no tensor"),
        ({"form": 1000}, "its format is 1000 in place of 1001"),
        ({"facts": FACTS | {"little_endian": False}}, "not in little-endian order"),
        ({"facts": 1}, "cannot be read as tensors"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path, changes, says):
    path = write(tmp_path / "w.pth", **({"program": tensor()} | changes))
    with pytest.raises(ValueError, match=says) as error:
        read_torch_file(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not Path("/tmp/this-must-not-exist").exists()


@pytest.mark.parametrize("file", [FILE, ZIPPED], ids=["legacy", "ZIP"])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, file):
    whole, path = file.read_bytes(), tmp_path / "w.pth"
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read as tensors|or damaged"):
            read_torch_file(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.parametrize("file", [FILE, ZIPPED], ids=["legacy", "ZIP"])
def test_a_file_with_a_damaged_byte_is_read_or_refused_in_one_line(tmp_path, file):
    rng, whole, path = np.random.default_rng(0), file.read_bytes(), tmp_path / "w.pth"
    for place in rng.integers(len(whole), size=300):
        path.write_bytes(whole[:place] + rng.bytes(1) + whole[place + 1 :])
        try:
            read_torch_file(path)
        except ValueError as error:
            assert "\n" not in str(error)
