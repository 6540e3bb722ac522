"""Weights of 8-bit networks that a bundle does not store, since they follow from its float ones.

    X.weights ────────┐
                      ├─► X.int8.weights, byte for byte
    X.int8.npz ───────┘
     (the recipe)

A kernel w (outputs, inputs, height · width) of float16 or float32 becomes one of int8 or float16:

    w · factor of the output · factor of the input      in float32, in this order
    int8: rounded to the nearest, half to even, and clipped to -128..127; float16: rounded

and its values are put in the order that the 8-bit graph wants (`Kernel`). Products and rounding are
exact by IEEE 754, so all machines derive the same bytes; a checksum of each kernel is compared
nevertheless. A recipe has four arrays of integers, little-endian:

    kernels     int64 (kernels, 13): the fields of `Kernel`, in the order of the file
    factors     uint32, the bits of float32: of each kernel in turn those of outputs, then of inputs
    exceptions  uint32 (exceptions, 2): of each kernel in turn, values that the factors do not give:
                the place among the kernel's values in the derived file, and the bits
    rest        uint8: all other bytes of the file, in turn

Recipes are made by dsin.export.derived_weights, which says what is worth deriving.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.backends.onnx_weight_files import external_tensors
from dsin.runtime.errors import BundleError
from dsin.runtime.files import is_file
from dsin.runtime.manifest import check_plain_name, read_arrays

DERIVED, RECIPE, SOURCE = ".int8.weights", ".int8.npz", ".weights"
"""What names of files end in, whose beginnings are the same."""
LARGEST_SIDE = 2**16
Floats = NDArray[np.float32]


class Kernel(NamedTuple):
    """Where a kernel is and what becomes of it.

    With `turned` 0 it is that of a convolution: outputs, inputs, height, width. With 1 it is a
    matrix: rows are parts of the inputs, in each height, width and the part's inputs; columns are
    the outputs. Outputs come as they are, or with `side` over 1 as a depth to space of such
    blocks wants them: rows of a block, columns of a block, channels.
    """

    at: int
    """Where it begins in the derived file, in bytes."""
    source: int
    """Where it begins in the file of float weights, in bytes."""
    itemsize: int
    """Bytes of a value: 1 for int8, 2 for float16."""
    source_itemsize: int
    """2 for float16, 4 for float32."""
    outputs: int
    inputs: int
    height: int
    width: int
    side: int
    parts: int
    turned: int
    exceptions: int
    checksum: int
    """CRC-32 of its bytes."""

    @property
    def values(self) -> int:
        """How many it has."""
        return self.outputs * self.inputs * self.height * self.width

    @property
    def size(self) -> int:
        """In the derived file, in bytes."""
        return self.values * self.itemsize

    @property
    def end(self) -> int:
        """Where the derived file goes on behind it, in bytes."""
        return self.at + self.size


class _Piece(NamedTuple):
    """Of a derived file: a kernel, by its number, or what lies between two and begins at `rest` of
    the recipe's rest."""

    begin: int
    length: int
    kernel: int | None
    rest: int


class DerivedWeights:
    """A file of weights that a recipe stands for. `path` is where the file would be.

    Raises BundleError for a recipe that is unreadable or does not fit the file that it derives
    from; so do the methods, for weights that turn out as others than those the recipe was made for.
    """

    def __init__(self, path: Path) -> None:
        self.recipe = beside(path, RECIPE)
        self._source = beside(path, SOURCE)
        arrays = read_arrays(self.recipe)
        try:
            source_size = self._source.stat().st_size
        except OSError as error:
            raise self._error(f"{self._source.name} is missing") from error
        table = self._array(arrays, "kernels", np.int64, 2)
        if table.shape[1] != len(Kernel._fields):
            raise self._error("its kernels have other fields")
        self.kernels = [Kernel(*row) for row in table.tolist()]
        self._rest = self._array(arrays, "rest", np.uint8, 1)
        self._check_kernels(source_size)
        self._pieces = list(self._in_turn())
        self._begins = [piece.begin for piece in self._pieces]
        factors = self._array(arrays, "factors", np.uint32, 1).view(np.float32)
        exceptions = self._array(arrays, "exceptions", np.uint32, 2)
        if not np.isfinite(factors).all() or exceptions.shape[1] != 2:
            raise self._error("its factors are not finite, or its exceptions no pairs")
        self._factors = self._shared_out(factors, [k.outputs + k.inputs for k in self.kernels])
        self._exceptions = self._shared_out(exceptions, [k.exceptions for k in self.kernels])

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self._rest) + sum(kernel.size for kernel in self.kernels)

    def read(self, offset: int, length: int) -> NDArray[np.uint8]:
        """So many bytes of the file: one kernel whole, or some between two kernels."""
        piece = self._pieces[bisect_right(self._begins, offset) - 1]
        skipped = offset - piece.begin
        if piece.kernel is not None and (skipped, length) == (0, piece.length):
            return self._derive(piece.kernel)
        if piece.kernel is not None or skipped + length > piece.length:
            raise self._error(f"it has no {length} bytes at {offset}")
        start = piece.rest + skipped
        return self._rest[start : start + length]

    def whole(self) -> bytes:
        """The file."""
        return b"".join(self.read(p.begin, p.length).tobytes() for p in self._pieces if p.length)

    def _derive(self, number: int) -> NDArray[np.uint8]:
        kernel, exceptions = self.kernels[number], self._exceptions[number]
        if (exceptions >= (kernel.values, 256**kernel.itemsize)).any():
            raise self._error("an exception is no value of its kernel")
        try:
            weight = np.fromfile(
                self._source, f"<f{kernel.source_itemsize}", kernel.values, offset=kernel.source
            )
        except OSError as error:
            raise self._error(f"{self._source.name} cannot be read") from error
        if len(weight) == kernel.values:
            derived = derive_kernel(weight, self._factors[number], exceptions, kernel)
            if zlib.crc32(derived.data) == kernel.checksum:
                return derived
        raise self._error(f"{self._source.name} is not the file that it was made for")

    def _in_turn(self) -> Iterator[_Piece]:
        end = rest = 0
        for number, kernel in enumerate(self.kernels):
            yield _Piece(end, kernel.at - end, None, rest)
            rest += kernel.at - end
            yield _Piece(kernel.at, kernel.size, number, rest)
            end = kernel.end
        yield _Piece(end, len(self._rest) - rest, None, rest)

    def _check_kernels(self, source_size: int) -> None:
        end = derived = 0
        for kernel in self.kernels:
            sides = kernel.outputs, kernel.inputs, kernel.height, kernel.width
            good = (
                all(1 <= side <= LARGEST_SIDE for side in (*sides, kernel.side, kernel.parts))
                and kernel.itemsize in (1, 2)
                and kernel.source_itemsize in (2, 4)
                and kernel.turned in (0, 1)
                and kernel.outputs % kernel.side**2 == 0
                and kernel.inputs % kernel.parts == 0
                and 0 <= kernel.exceptions <= kernel.values
                and 0 <= kernel.source <= source_size - kernel.values * kernel.source_itemsize
                and end <= kernel.at <= derived + len(self._rest)
            )
            derived += kernel.size
            # Otherwise a small recipe could ask for any amount of memory.
            if not good or derived > source_size:
                raise self._error("a kernel has unusable sizes")
            end = kernel.end

    def _array(
        self, arrays: dict[str, NDArray[Any]], name: str, dtype: type[np.generic], axes: int
    ) -> NDArray[Any]:
        found = arrays.get(name)
        if found is None or found.dtype != dtype or found.ndim != axes:
            raise self._error(f"it has no {name} of {np.dtype(dtype).name} with {axes} axes")
        return found

    def _shared_out(self, values: NDArray[Any], counts: list[int]) -> list[NDArray[Any]]:
        """So many values for each kernel in turn."""
        if len(values) != sum(counts):
            raise self._error("it has more or fewer values than its kernels need")
        return np.split(values, np.cumsum(counts, dtype=np.int64))[:-1]

    def _error(self, reason: str) -> BundleError:
        return BundleError(f"{self.recipe} is unusable: {reason}; make it with dsin-export int8")


def derive_kernel(
    weight: NDArray[Any], factors: Floats, exceptions: NDArray[np.uint32], kernel: Kernel
) -> NDArray[np.uint8]:
    """The bytes of a kernel in the derived file. `weight` has its float16 or float32 values, any
    shape, `factors` (outputs + inputs,) those of outputs and inputs, `exceptions` (n, 2) places and
    bits of other values."""
    value = weight.astype(np.float32).reshape(kernel.outputs, -1)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        value *= factors[: kernel.outputs, None]
        value *= np.repeat(factors[kernel.outputs :], kernel.height * kernel.width)
        if kernel.itemsize == 1:
            np.rint(value, value)
            np.clip(value, -128, 127, value)
        derived = ordered(value.astype("<i1" if kernel.itemsize == 1 else "<f2"), kernel)
    bits = derived.reshape(-1).view(f"<u{kernel.itemsize}")
    bits[exceptions[:, 0]] = exceptions[:, 1]
    return bits.view(np.uint8)


def ordered(values: NDArray[Any], kernel: Kernel) -> NDArray[Any]:
    """A kernel's values, of any shape, in the order of the 8-bit graph."""
    side, inputs = kernel.side, kernel.inputs // kernel.parts
    axes = (1, 2, 0, 3, 4, 5, 6) if not kernel.turned else (3, 5, 6, 4, 1, 2, 0)
    split = values.reshape(-1, side, side, kernel.parts, inputs, kernel.height, kernel.width)
    return np.ascontiguousarray(split.transpose(axes))


def beside(weights: Path, ending: str) -> Path:
    """The file that goes with a file of derived weights: its recipe, or its source."""
    return weights.with_name(weights.name.removesuffix(DERIVED) + ending)


def weights_of(recipe: Path) -> Path:
    """The file of weights that a recipe stands for."""
    return recipe.with_name(recipe.name.removesuffix(RECIPE) + DERIVED)


def is_derived(weights: Path) -> bool:
    """Whether a recipe stands for that file of weights."""
    return weights.name.endswith(DERIVED) and is_file(beside(weights, RECIPE), BundleError)


def stored_files(weights: Path) -> set[str]:
    """Names of the files that a file of weights is, or is derived from."""
    if is_derived(weights):
        return {beside(weights, ending).name for ending in (RECIPE, SOURCE)}
    return {weights.name}


def weights_bytes(weights: Path) -> bytes:
    """A file of weights, be it there or derived.

    Raises BundleError for an unusable recipe, OSError where there is neither.
    """
    return DerivedWeights(weights).whole() if is_derived(weights) else weights.read_bytes()


def derived_tensors(graph: Path) -> dict[str, NDArray[Any]]:
    """The initialisers of the ONNX graph at `graph` whose weights are derived, by name.

    Raises BundleError for an unusable recipe, OSError for an unreadable file.
    """
    model = graph.read_bytes()
    if DERIVED.encode() not in model:
        return {}
    found: dict[str, NDArray[Any]] = {}
    files: dict[str, DerivedWeights | None] = {}
    for tensor in external_tensors(model):
        check_plain_name(tensor.file, str(graph))
        if tensor.file not in files:
            path = graph.with_name(tensor.file)
            files[tensor.file] = DerivedWeights(path) if is_derived(path) else None
        if (file := files[tensor.file]) is not None:
            values = file.read(tensor.offset, tensor.length)
            array = values.view(tensor.dtype).reshape(tensor.shape)
            found[tensor.name] = np.require(array, requirements=["ALIGNED", "WRITEABLE"])
    return found
