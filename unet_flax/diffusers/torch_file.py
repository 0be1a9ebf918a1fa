"""Reads tensors from a file of torch.save (`.bin`, `.pth`) without running anything in it.

Such a file is a ZIP archive: `data.pkl`, a program for pickle, and the bytes of each storage.
Before PyTorch 1.6 they stood one after the other. The program is read here as data: of its
instructions those that build dictionaries, lists, numbers, words and tensors are followed, and any
other, above all the call of a function, is refused by name.

Source: PyTorch 2.13, torch/serialization.py, `_save` and `_legacy_save`; Python's pickletools,
which decodes instructions only.
"""

import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

TYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Name(NamedTuple):
    """A class or function that the program names; it is compared, never looked up."""

    module: str
    name: str


ORDERED_DICT = Name("collections", "OrderedDict")
TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Name("torch._utils", "_rebuild_parameter")
MARK = object()
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of PyTorch before 1.6 begin."""
DAMAGED = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(RuntimeError, EOFError, OSError, MemoryError),
)
"""What a damaged file may raise; zipfile's RuntimeError means an encryption or a compression."""
Storage = Callable[[str, Any, int], np.ndarray]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary by their names.

    Raises:
      OSError: there is no such file.
      ValueError: the file is damaged or holds anything but a dictionary of tensors.
    """
    with open(path, "rb") as file:
        try:
            is_old = file.read(len(MAGIC)) == MAGIC
            values = _read_old(file, path.stat().st_size) if is_old else _read_archive(file)
            if not isinstance(values, dict) or not values:
                raise ValueError("it holds no dictionary of tensors")
            for name, value in values.items():
                if not isinstance(name, str) or not isinstance(value, np.ndarray):
                    raise ValueError(f"{name!r} is no tensor")
            # until here they are views of the storages
            return {name: np.array(value) for name, value in values.items()}
        except zipfile.BadZipFile:
            raise ValueError(
                f"{path} is no file of torch.save, or damaged; write the weights as safetensors "
                "instead."
            ) from None
        except DAMAGED as error:
            cause = str(error).partition("\n")[0]
            raise ValueError(f"{path} cannot be read as tensors: {cause}.") from None


def _read_archive(file: BinaryIO) -> Any:
    """The object of a file of PyTorch 1.6 or later: an archive."""
    with zipfile.ZipFile(file) as archive:
        (program,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = program.removesuffix("data.pkl")
        order = folder + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its bytes are not in little-endian order")

        def storage(key: str, dtype: Any, size: int) -> np.ndarray:
            values = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
            if len(values) < size:
                raise ValueError(f"storage {key} has {len(values)} values in place of {size}")
            return values

        return _follow(archive.read(program), storage)


def _read_old(file: BinaryIO, file_size: int) -> Any:
    """The object of a file of PyTorch before 1.6, of which the first number has been read.

    There follow four programs (version, machine, object, keys of the storages) and each storage.
    """
    if _follow(file, _no_storage) != 1001:
        raise ValueError("its version is none that is known")
    if not _follow(file, _no_storage)["little_endian"]:
        raise ValueError("its bytes are not in little-endian order")
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: Any, size: int) -> np.ndarray:
        if not 0 <= size * np.dtype(dtype).itemsize <= file_size:
            raise ValueError(f"storage {key} of {size} values is larger than the file")
        values = storages.setdefault(key, np.zeros(size, dtype))  # filled below
        if values.dtype != dtype or len(values) != size:
            raise ValueError(f"storage {key} has two types or sizes")
        return values

    values = _follow(file, storage)
    keys = _follow(file, _no_storage)
    if sorted(keys) != sorted(storages):
        raise ValueError("its storages are not those of its tensors")
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        if size != len(storages[key]):
            raise ValueError(f"storage {key} has {size} values in place of {len(storages[key])}")
        data = file.read(storages[key].nbytes)
        if len(data) < storages[key].nbytes:
            raise ValueError(f"it ends within storage {key}")
        storages[key][:] = np.frombuffer(data, storages[key].dtype)
    return values


def _no_storage(key: str, dtype: Any, size: int) -> np.ndarray:
    raise ValueError(f"storage {key} stands where none belongs")


def _follow(program: bytes | BinaryIO, storage: Storage) -> Any:
    """The object that a pickle program builds.

    Args:
      program: a file is left where its program ends.
      storage: the values of a storage by its key, type and size.
    """
    stack: Any = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = max(i for i, item in enumerate(stack) if item is MARK)
        items = stack[place + 1 :]
        del stack[place:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(program):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case (
                "BININT"
                | "BININT1"
                | "BININT2"
                | "LONG1"
                | "BINFLOAT"
                | "BINUNICODE"
                | "SHORT_BINUNICODE"
            ):
                stack.append(argument)
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(Name(module, name))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                number = int(opcode.name[-1])
                stack[-number:] = [tuple(stack[-number:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items = since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPERSID":
                stack.append(_stored(stack.pop(), storage))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_reduced(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of a dictionary, such as a module's versions
                if not isinstance(stack[-1], dict):
                    raise ValueError("it sets the state of an object that is no dictionary")
            case other:
                raise ValueError(f"its instruction {other} is none that tensors need")
    raise ValueError("its program does not end")


def _stored(persistent: Any, storage: Storage) -> np.ndarray:
    kind, name, key, _, size, *view = persistent
    if kind != "storage" or not isinstance(name, Name) or name.name not in TYPES:
        raise ValueError(f"it has a storage of type {getattr(name, 'name', name)!r}")
    if view not in ([], [None]):
        raise ValueError(f"storage {key} is a part of another")
    return storage(str(key), TYPES[name.name], size)


def _reduced(function: Any, arguments: Any) -> Any:
    if function == ORDERED_DICT and not arguments:
        return {}
    if function == PARAMETER:
        return arguments[0]
    if function == TENSOR:
        storage, offset, size, stride = arguments[:4]
        if 0 in size:
            return np.zeros(size, storage.dtype)
        if offset < 0 or any(step < 0 for step in stride) or any(n < 0 for n in size):
            raise ValueError("a tensor begins before its storage")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= len(storage):
            raise ValueError("a tensor ends after its storage")
        strides = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)
    raise ValueError(f"it calls {'.'.join(function) if isinstance(function, Name) else function!r}")
