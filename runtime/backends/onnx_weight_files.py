"""Which files an ONNX graph keeps its weights in, found without the package onnx."""

from collections.abc import Iterator

from dsin.runtime.errors import BundleError

_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2
"""Numbers of the fields on the way to the name of a file with weights."""
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
