"""8-bit weights leave a bundle where they follow from the float ones: what makes recipes.

Equalisation and 8 bits only scale what a kernel has for each input and each output. So factors are
looked for with which rounding gives the kernel that is there (`fit_factors`), whatever has scaled
it; the few values that differ are listed, and a kernel that has no such factors is stored as it is.
Nothing that a bundle computes changes.

`dsin.runtime.backends.derived_weights` says what a recipe is.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.export.bundle_files import INT8_MARK, write_tables
from dsin.runtime.backends.derived_weights import (
    DERIVED,
    RECIPE,
    SOURCE,
    DerivedWeights,
    Kernel,
    beside,
    derive_kernel,
    ordered,
    weights_of,
)
from dsin.runtime.backends.onnx_weight_files import ExternalTensor, external_tensors
from dsin.runtime.manifest import MAX_TABLE_BYTES

Floats = NDArray[np.floating]

LEAST_BYTES = 4096
"""A smaller kernel has nearly as many factors as values."""
MOST_EXCEPTIONS = 0.001
"""Share of a kernel's values that may differ from what the factors give, as in a tie that was
rounded the other way."""
ROUNDS = 60
"""At most, of moving the factors; nearly all kernels need fewer than ten."""
FREE = 50.0
"""Logarithm of a factor that nothing bounds."""


def store_once(directory: Path) -> None:
    """Put recipes in the place of a bundle's files of 8-bit weights, where these get smaller."""
    for weights in sorted(directory.glob(f"*{DERIVED}")):
        if beside(weights, SOURCE).exists():
            _replace(weights)


def store_whole(directory: Path) -> None:
    """The opposite. Raises BundleError for an unusable recipe."""
    for recipe in sorted(directory.glob(f"*{RECIPE}")):
        weights = weights_of(recipe)
        weights.write_bytes(DerivedWeights(weights).whole())
        recipe.unlink()


class _Derivation(NamedTuple):
    """As `dsin.runtime.backends.derived_weights.derive_kernel` takes them."""

    kernel: Kernel
    factors: NDArray[np.float32]
    exceptions: NDArray[np.uint32]


def _replace(weights: Path) -> None:
    data = weights.read_bytes()
    found, rest, end = list(_derivations(weights, data)), [], 0
    if not found:
        return
    for kernel, _, _ in found:
        rest.append(data[end : kernel.at])
        end = kernel.end
    tables = {
        "kernels": np.array([f.kernel for f in found], "<i8"),
        "factors": np.concatenate([f.factors for f in found]).view("<u4"),
        "exceptions": np.concatenate([f.exceptions for f in found]),
        "rest": np.frombuffer(b"".join([*rest, data[end:]]), np.uint8),
    }
    recipe = beside(weights, RECIPE)
    write_tables(recipe, tables)
    unpacked = sum(table.nbytes for table in tables.values())
    # Their headers take some bytes too.
    if recipe.stat().st_size < len(data) and unpacked < MAX_TABLE_BYTES - 4096:
        weights.unlink()
        if DerivedWeights(weights).whole() != data:
            raise AssertionError(f"{recipe} does not derive what it was made of")
    else:
        recipe.unlink()


def _derivations(weights: Path, data: bytes) -> Iterator[_Derivation]:
    """What can be derived of a file, in its order."""
    source = beside(weights, SOURCE)
    values = source.read_bytes()
    graphs = sorted(weights.parent.glob(f"*{INT8_MARK}onnx"))
    floats = [graph.with_name(graph.name.replace(INT8_MARK, ".")) for graph in graphs]
    left = {t.offset: t for t in _tensors(floats, source.name) if t.dtype.kind == "f"}
    for tensor in _tensors(graphs, weights.name):
        for given in _of_one_size(tensor, list(left.values())):
            weight = np.frombuffer(values, given.dtype, given.values, given.offset)
            derived = np.frombuffer(data, tensor.dtype, tensor.values, tensor.offset)
            found = _derivation(weight.reshape(given.shape), given, derived, tensor)
            if found:
                del left[given.offset]
                yield found
                break


def _tensors(graphs: list[Path], file: str) -> list[ExternalTensor]:
    """What graphs keep in a file and is worth deriving, or deriving from; each place once."""
    found = {}
    for graph in graphs:
        if graph.exists():
            for tensor in external_tensors(graph.read_bytes()):
                if tensor.file == file and tensor.length >= LEAST_BYTES:
                    found[tensor.offset] = tensor
    return [found[offset] for offset in sorted(found)]


def _of_one_size(tensor: ExternalTensor, floats: list[ExternalTensor]) -> list[ExternalTensor]:
    kinds = np.dtype(np.int8), np.dtype(np.float16)
    return [
        given
        for given in floats
        if tensor.dtype in kinds
        and len(given.shape) == 4
        and len(tensor.shape) in (2, 4)
        and given.values == tensor.values
    ]


def _derivation(
    weight: NDArray[Any], given: ExternalTensor, derived: NDArray[Any], tensor: ExternalTensor
) -> _Derivation | None:
    """How `derived`, flat, follows from `weight` (outputs, inputs, height, width), if it does."""
    for kernel in _orders(given, tensor):
        # Scaling keeps signs: of a wrong order or a wrong kernel some differ.
        if (ordered(np.sign(weight), kernel).ravel() * np.sign(derived) < 0).any():
            continue
        back = np.empty(derived.size, np.intp)
        back[ordered(np.arange(derived.size), kernel).ravel()] = np.arange(derived.size)
        wanted = derived[back].reshape(kernel.outputs, kernel.inputs, -1)
        factors = fit_factors(weight.reshape(wanted.shape), wanted)
        bits = derived.view(f"<u{derived.itemsize}")
        got = derive_kernel(weight, factors, np.zeros((0, 2), np.uint32), kernel)
        places = np.flatnonzero(got.view(bits.dtype) != bits)
        if len(places) > MOST_EXCEPTIONS * derived.size:
            continue
        exceptions = np.stack([places, bits[places]], 1).astype("<u4")
        return _Derivation(
            kernel._replace(exceptions=len(places), checksum=zlib.crc32(derived.data)), factors,
            exceptions,
        )  # fmt: skip
    return None


def _orders(given: ExternalTensor, tensor: ExternalTensor) -> Iterator[Kernel]:
    """The orders in which a graph of 8 bits may have a kernel."""
    outputs, inputs, height, width = given.shape
    turned = len(tensor.shape) == 2
    like = Kernel(
        tensor.offset, given.offset, tensor.dtype.itemsize, given.dtype.itemsize, outputs, inputs,
        height, width, 1, 1, int(turned), 0, 0,
    )  # fmt: skip
    for side in (1, 2, 4, 8, 16):
        for parts in (1, 2, 3, 4) if turned and height > 1 else (1,):
            if outputs % side**2 == 0 and inputs % parts == 0:
                yield like._replace(side=side, parts=parts)


def fit_factors(weight: Floats, wanted: NDArray[Any]) -> NDArray[np.float32]:
    """Factors (outputs + inputs,) with which `weight` (outputs, inputs, taps) becomes `wanted`,
    int8 or float16, by rounding; if there are none, some with which it nearly does.

    Each value bounds the product of its two factors from both sides. In logarithms these are
    bounds of sums: factors of outputs and of inputs are moved to the middle of theirs in turn.
    """
    size, low, high = np.abs(weight.astype(np.float64)), *_bounds(wanted)
    bounded = size > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(bounded & (low > 0), np.log(low) - np.log(size), -FREE)
        above = np.where(bounded, np.log(high) - np.log(size), FREE)
    rows, columns = _first_guess(size, np.abs(wanted.astype(np.float64)))
    for _ in range(ROUNDS):
        for _ in range(5):
            rows = _middle(below - columns[:, None], above - columns[:, None], (1, 2))
            columns = _middle(below - rows[:, None, None], above - rows[:, None, None], (0, 2))
        sums = rows[:, None, None] + columns[:, None]
        if (below < sums).all() and (sums < above).all():
            break
    factors: NDArray[np.float32] = np.exp(np.concatenate([rows, columns])).astype(np.float32)
    return factors


def _bounds(wanted: NDArray[Any]) -> tuple[Floats, Floats]:
    """Between which magnitudes a number is rounded to these."""
    exact = np.abs(wanted.astype(np.float64))
    if wanted.dtype == np.int8:
        return exact - 0.5, exact + 0.5
    size = np.abs(wanted)
    ends = np.nextafter(size, np.float16(0)), np.nextafter(size, np.float16(np.inf))
    return (exact + ends[0]) / 2, (exact + ends[1]) / 2


def _first_guess(size: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Logarithms of factors of outputs and inputs, by least squares; large values count most."""
    count = np.where(size > 0, np.square(wanted), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(count > 0, np.log(wanted) - np.log(size), 0)
    rows: Floats = np.zeros(size.shape[0])
    columns: Floats = np.zeros(size.shape[1])
    for _ in range(10):
        rows = _mean(ratio - columns[:, None], count, (1, 2))
        columns = _mean(ratio - rows[:, None, None], count, (0, 2))
    return rows, columns


def _mean(values: Floats, count: Floats, axes: tuple[int, int]) -> Floats:
    mean: Floats = (values * count).sum(axes) / np.maximum(count.sum(axes), 1e-30)
    return mean


def _middle(below: Floats, above: Floats, axes: tuple[int, int]) -> Floats:
    middle: Floats = np.clip((below.max(axes) + above.min(axes)) / 2, -FREE, FREE)
    return middle
