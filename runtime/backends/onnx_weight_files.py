"""What is read of ONNX graphs without the package onnx: weights, and the files that have them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
_VARINT, _BYTES = 0, 2
"""The wire types of protobuf that a ModelProto consists of."""


def weight_files(model: bytes) -> set[str]:
    """Names of the files that a serialised ModelProto keeps weights in.

    Raises BundleError for what is not a ModelProto.
    """
    names = set()
    for graph in _messages(model, _GRAPH):
        for tensor in _messages(graph, _INITIALIZER):
            for entry in _messages(tensor, _EXTERNAL_DATA):
                (key,), (value,) = list(_messages(entry, _KEY)), list(_messages(entry, _VALUE))
                if key == b"location":
                    names.add(value.decode(errors="replace"))
    return names


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
    entries = {_text(e, _KEY): _text(e, _VALUE) for e in _messages(tensor, _EXTERNAL_DATA)}
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


def _text(message: bytes, wanted: int) -> str:
    return b"".join(_messages(message, wanted)).decode()


def _number(message: bytes, wanted: int) -> int:
    return next(_numbers(message, wanted), 0)


def _numbers(message: bytes, wanted: int) -> Iterator[int]:
    """The values of all fields of that number, which hold numbers, one each or several packed."""
    for number, start, end in _fields(message):
        if number == wanted:
            key, at = _varint(message, start)
            if key & 7 == _BYTES:
                _, at = _varint(message, at)
            while at < end:
                value, at = _varint(message, at)
                yield value


def _messages(message: bytes, wanted: int) -> Iterator[bytes]:
    """The contents of all fields of that number, which hold bytes."""
    for number, start, end in _fields(message):
        if number == wanted:
            _, begin = _varint(message, start)
            _, begin = _varint(message, begin)
            yield message[begin:end]


def _fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a protobuf message."""
    end = 0
    while end < len(message):
        start = end
        key, end = _varint(message, end)
        value, end = _varint(message, end)
        if key & 7 == _BYTES:
            end += value
        elif key & 7 != _VARINT:
            raise BundleError("this is not an ONNX model: export it anew")
        if end > len(message):
            raise BundleError("this ONNX model is cut off: export it anew")
        yield key >> 3, start, end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and where it ends."""
    for length in range(1, 11):
        digits = message[at : at + length]
        if len(digits) == length and digits[-1] < 128:
            return sum((digit & 127) << 7 * i for i, digit in enumerate(digits)), at + length
    raise BundleError("this ONNX model is cut off: export it anew")
