"""Follows the pickle program of a file of torch.save without running anything in it.

The program is read as data: of its instructions those that build dictionaries, lists, numbers,
words and descriptions of tensors are followed, and any other, above all the call of a function, is
refused by name.

Source: PyTorch 2.13, torch/_utils.py; Python's pickletools, which decodes instructions only.
"""

import pickletools
from collections.abc import Mapping
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

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


class Storage(NamedTuple):
    """Where the values of a tensor lie.

    Attributes:
      key: name of the storage in the file.
      size: number of its values.
      start, stop: the part that is meant, all of it but for views of files before PyTorch 1.6.
    """

    key: str
    dtype: Any
    size: int
    start: int
    stop: int


class Tensor(NamedTuple):
    """A tensor in a storage; offset and stride count values."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, storages: Mapping[str, np.ndarray]) -> np.ndarray:
        """The tensor's values, copied from the storages."""
        storage = storages[self.storage.key][self.storage.start : self.storage.stop]
        if 0 in self.size:
            return np.zeros(self.size, storage.dtype)
        if self.offset < 0 or any(n < 0 for n in (*self.size, *self.stride)):
            raise ValueError("a tensor begins before its storage")
        steps = zip(self.size, self.stride, strict=True)
        if self.offset + sum((n - 1) * step for n, step in steps) >= len(storage):
            raise ValueError("a tensor ends after its storage")
        strides = tuple(step * storage.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.size, strides).copy()


ORDERED_DICT = Name("collections", "OrderedDict")
TENSORS = (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor"))
PARAMETER = Name("torch._utils", "_rebuild_parameter")
MARK = object()


def read_state_dict(program: BytesIO | BufferedReader) -> dict[str, Tensor]:
    """The tensors of the dictionary that a program builds.

    Raises:
      ValueError: it builds anything else.
    """
    values = follow(program)
    if not isinstance(values, dict) or not values:
        raise ValueError("it holds no dictionary of tensors")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name!r} is no tensor")
    return values


def follow(program: BytesIO | BufferedReader) -> Any:
    """The object that a pickle program builds, its tensors as descriptions.

    Reads to the end of the program and no further.

    Raises:
      ValueError: an instruction, a call or a storage that tensors do not need.
      IndexError, KeyError, TypeError, AttributeError: a program that is none.
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
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
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
                stack.append(_storage(stack.pop()))
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


def _storage(persistent: Any) -> Storage:
    kind, storage, key, _, size, *view = persistent
    if kind != "storage" or not isinstance(storage, Name) or storage.name not in TYPES:
        raise ValueError(f"it has a storage of type {getattr(storage, 'name', storage)!r}")
    if size < 0:
        raise ValueError(f"storage {key} has {size} values")
    dtype = np.dtype(TYPES[storage.name])
    if view in ([], [None]):
        return Storage(str(key), dtype, size, 0, size)
    ((_, start, length),) = view
    if not 0 <= start <= start + length <= size:
        raise ValueError(f"a view of storage {key} lies outside it")
    return Storage(str(key), dtype, size, start, start + length)


def _reduced(function: Any, arguments: Any) -> Any:
    if function == ORDERED_DICT:
        return dict(*arguments)
    if function == PARAMETER:
        return arguments[0]
    if function in TENSORS:
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise ValueError("a tensor has no storage")
        return Tensor(storage, offset, tuple(size), tuple(stride))
    raise ValueError(f"it calls {'.'.join(function) if isinstance(function, Name) else function!r}")
