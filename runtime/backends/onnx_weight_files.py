"""What is read of ONNX graphs without the package onnx: weights, and the files that have them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.errors import BundleError

_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2
"""Numbers of the fields on the way to the name of a file with weights."""
_NODE, _OPERATOR = 1, 4
"""Of a graph, and of a node."""
_DIMS, _TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
"""Of a tensor."""
_FLOAT = 1
_TYPES = {_FLOAT: "<f4", 2: "|u1", 3: "|i1", 6: "<i4", 7: "<i8", 10: "<f2"}
"""Of the values of tensors, as numpy names them, by their numbers."""
_VARINT, _BYTES = 0, 2
"""The wire types of protobuf that a ModelProto consists of."""


def weight_files(model: bytes) -> set[str]:
    """Names of the files that a serialised ModelProto keeps weights in.

    Raises BundleError for what is not a ModelProto.
    """
    return {
        value
        for tensor in _initializers(model)
        for key, value in _entries(tensor)
        if key == "location"
    }


class ExternalTensor(NamedTuple):
    """Where the values of an initialiser are, in bytes from the start of a file, and what they
    are."""

    name: str
    file: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def length(self) -> int:
        """In bytes."""
        return self.values * self.dtype.itemsize


def external_tensors(model: bytes) -> list[ExternalTensor]:
    """The initialisers that a serialised ModelProto keeps in files.

    Raises BundleError for what is not a ModelProto, or has tensors of other types than weights are
    of.
    """
    found = []
    for tensor in _initializers(model):
        entries = dict(_entries(tensor)) if b"location" in tensor else {}
        if "location" not in entries:
            continue
        name, kind = _text(tensor, _NAME), _number(tensor, _TYPE)
        offset = entries.get("offset", "0")
        if kind not in _TYPES or not offset.isdecimal():
            raise BundleError(f"this ONNX model has no usable weights {name}: export it anew")
        shape = tuple(_numbers(tensor, _DIMS))
        dtype = np.dtype(_TYPES[kind])
        found.append(ExternalTensor(name, entries["location"], int(offset), dtype, shape))
    return found


class StoredGraph(NamedTuple):
    """The operators of a graph in turn, and its float32 weights by name."""

    operators: list[str]
    weights: dict[str, NDArray[np.float32]]


def read_graph(path: Path) -> StoredGraph:
    """The graph in a file, with weights from there and from the files beside it.

    Raises BundleError for what is not such a graph, or names weights that its files do not have.
    """
    try:
        (graph,) = _messages(path.read_bytes(), _GRAPH)
        operators = [_text(node, _OPERATOR) for node in _messages(graph, _NODE)]
        tensors = list(_messages(graph, _INITIALIZER))
        floats = [tensor for tensor in tensors if _number(tensor, _TYPE) == _FLOAT]
        return StoredGraph(operators, {_text(each, _NAME): _values(each, path) for each in floats})
    except (OSError, ValueError, OverflowError) as error:
        raise BundleError(f"cannot read the weights of {path}: {error}") from error


def _values(tensor: bytes, path: Path) -> NDArray[np.float32]:
    """Raises ValueError where there are more or fewer than the tensor's shape wants."""
    shape = tuple(_numbers(tensor, _DIMS))
    entries = dict(_entries(tensor))
    if entries:
        name = entries.get("location", "")
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a plain file name")
        with (path.parent / name).open("rb") as file:
            file.seek(int(entries.get("offset", "0")))
            data = file.read(4 * math.prod(shape))
    else:
        data = b"".join(_messages(tensor, _RAW_DATA))
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def _initializers(model: bytes) -> Iterator[bytes]:
    for graph in _messages(model, _GRAPH):
        yield from _messages(graph, _INITIALIZER)


def _entries(tensor: bytes) -> Iterator[tuple[str, str]]:
    """Keys and values of what tells where the values of a tensor are."""
    for entry in _messages(tensor, _EXTERNAL_DATA):
        yield _text(entry, _KEY), _text(entry, _VALUE)


def _text(message: bytes, wanted: int) -> str:
    return b"".join(_messages(message, wanted)).decode(errors="replace")


def _number(message: bytes, wanted: int) -> int:
    return next(_numbers(message, wanted), 0)


def _numbers(message: bytes, wanted: int) -> Iterator[int]:
    """The values of all fields of that number, which hold numbers, one each or several packed."""
    for number, at, end in _fields(message):
        while number == wanted and at < end:
            value, at = _varint(message, at)
            yield value


def _messages(message: bytes, wanted: int) -> Iterator[bytes]:
    """The contents of all fields of that number, which hold bytes."""
    for number, begin, end in _fields(message):
        if number == wanted:
            yield message[begin:end]


def _fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each field of a protobuf message its number, and where its content begins and ends."""
    end = 0
    while end < len(message):
        key, begin = _varint(message, end)
        value, end = _varint(message, begin)
        if key & 7 == _BYTES:
            begin, end = end, end + value
        elif key & 7 != _VARINT:
            raise BundleError("this is not an ONNX model: export it anew")
        if end > len(message):
            raise BundleError("this ONNX model is cut off: export it anew")
        yield key >> 3, begin, end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and where it ends."""
    value = 0
    for place, digit in enumerate(message[at : at + 10]):
        value |= (digit & 127) << 7 * place
        if digit < 128:
            return value, at + place + 1
    raise BundleError("this ONNX model is cut off: export it anew")
