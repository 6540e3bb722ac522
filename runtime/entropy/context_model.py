"""The causal 3-D context model in exact integers: the same probabilities on every machine.

It is `dsin.training.paper.context_model` with 8-bit weights and activations: four (2, 3, 3) causal
convolutions over the volume of symbols, padded with the level of symbol 0 (4 in front of the
channels, 4 around rows and columns).

    levels = level table [symbols]                                   int8
    hidden = clip(floor((conv0(levels) + b0) / 2**s0))               0..255, ReLU by clipping
    inner  = clip(floor((conv1(hidden) + b1) / 2**s1))               0..255
    summed = clip(floor((conv2(inner) + b2 + hidden · 2**k) / 2**s2))  -128..127
    logits = clip(floor((conv3(summed) + b3) / 2**s3))
    weight = exponential table [largest logit - logit]
    frequency = 1 + floor(weight · (2**16 - L) / sum of weights)

`hidden` is cropped to its centre for the sum. Shifts are per output channel; a rounding half is
part of the biases. What the floors leave of 2**16 goes to the first of the likeliest symbols.
No sum can reach 2**24 whatever the symbols, so the same tables run as float convolutions without
any rounding (`dsin.export.paper.context_graph`).

Symbols are coded in the order of w + 2h + 4c, then c, then h: those that agree in the first are
independent given the earlier ones.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import thread_pool
from dsin.runtime.entropy import context_kernels, rans
from dsin.runtime.entropy.context_kernels import (
    FIRST_LENGTH,
    LAYERS,
    OUTPUT_BLOCK,
    PlainTables,
    Stages,
)
from dsin.runtime.errors import BundleError, PacketError

EXACT = 1 << 24
"""Integers below this are exact in float32, in any order of summation."""
MAX_EXPONENTIAL = 1 << 15
MAX_LOGIT = 1 << 13
MAX_SHIFT = 24
MAX_FEATURES = 512

Symbols = NDArray[np.uint8]
Frequencies = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class IntegerContextModel:
    """Tables of the model; build it with `dsin.calibration` or `from_arrays`.

    Per layer 0..3: `weights` int8 (outputs, inputs, 2, 3, 3), zero where not causal; `biases` and
    `shifts` int32 (outputs,). `bounds` int32 (4, 2): least and greatest output. `skip_shift` int32
    (features,). `levels` int8 (L,). `exponentials` int32 (n,), 0..2**15, the first positive.
    """

    weights: tuple[NDArray[np.int8], ...]
    biases: tuple[NDArray[np.int32], ...]
    shifts: tuple[NDArray[np.int32], ...]
    bounds: NDArray[np.int32]
    skip_shift: NDArray[np.int32]
    levels: NDArray[np.int8]
    exponentials: NDArray[np.int32]

    @property
    def symbols_per_alphabet(self) -> int:
        """L, the number of quantiser centres."""
        return self.levels.size

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The tables by name, as `context.npz` stores them."""
        arrays: dict[str, NDArray[Any]] = {
            "bounds": self.bounds,
            "skip_shift": self.skip_shift,
            "levels": self.levels,
            "exponentials": self.exponentials,
        }
        for i in range(LAYERS):
            arrays[f"weight{i}"] = self.weights[i]
            arrays[f"bias{i}"] = self.biases[i]
            arrays[f"shift{i}"] = self.shifts[i]
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "IntegerContextModel":
        """Inverse of `to_arrays`.

        Raises BundleError for tables that are missing, ill-shaped, not causal, or not exact.
        """
        model = cls(
            weights=tuple(_table(arrays, f"weight{i}", np.int8, 5) for i in range(LAYERS)),
            biases=tuple(_table(arrays, f"bias{i}", np.int32, 1) for i in range(LAYERS)),
            shifts=tuple(_table(arrays, f"shift{i}", np.int32, 1) for i in range(LAYERS)),
            bounds=_table(arrays, "bounds", np.int32, 2),
            skip_shift=_table(arrays, "skip_shift", np.int32, 1),
            levels=_table(arrays, "levels", np.int8, 1),
            exponentials=_table(arrays, "exponentials", np.int32, 1),
        )
        _check(model)
        return model

    def digest(self) -> bytes:
        """SHA-256 over the tables: name, type, shape and little-endian content of each."""
        sha = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            little = array.astype(array.dtype.newbyteorder("<"))
            sha.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
            sha.update(little.tobytes())
        return sha.digest()

    def largest_sums(self) -> list[int]:
        """Per layer, the largest magnitude that a sum can reach on any symbols."""
        largest = int(np.abs(self.levels.astype(np.int64)).max())
        result = []
        for i in range(LAYERS):
            rows = np.abs(self.weights[i].astype(np.int64)).sum(axis=(1, 2, 3, 4)) * largest
            rows += np.abs(self.biases[i].astype(np.int64))
            if i == 2:
                rows += int(self.bounds[0, 1]) << self.skip_shift.astype(np.int64)
            result.append(int(rows.max()))
            largest = int(np.abs(self.bounds[i]).max())
        return result

    @cached_property
    def compiled(self) -> PlainTables:
        """The fields of `context_kernels.Tables`, as the kernels take them."""
        features, count = len(self.skip_shift), self.symbols_per_alphabet
        rows = -(-max(features, count) // OUTPUT_BLOCK) * OUTPUT_BLOCK
        length = -(-14 * features // FIRST_LENGTH) * FIRST_LENGTH
        weights = np.zeros((LAYERS, rows, length), np.float32)
        bias, shift = np.zeros((2, LAYERS, rows), np.int32)
        for i in range(LAYERS):
            # (outputs, inputs, 2, 3, 3) to (outputs, causal taps · inputs)
            taps = np.moveaxis(self.weights[i], 1, -1)[:, causal_mask(first=i == 0)]
            flat = taps.reshape(len(taps), -1)
            weights[i, : flat.shape[0], : flat.shape[1]] = flat
            bias[i, : len(flat)] = self.biases[i]
            shift[i, : len(flat)] = self.shifts[i]
        return (
            weights,
            bias,
            shift,
            # Copies are writable, so the kernels see the same types whatever the tables came from.
            self.bounds.copy(),
            self.skip_shift.copy(),
            self.levels.astype(np.int16),
            self.exponentials.copy(),
        )


def causal_mask(*, first: bool) -> NDArray[np.bool_]:
    """Which of the (2, 3, 3) taps come before a symbol; later layers also see their own place."""
    mask = np.ones((2, 3, 3), np.bool_)
    mask[1, 1, 1 if first else 2 :] = False
    mask[1, 2] = False
    return mask


def frequencies_reference(model: IntegerContextModel, symbols: Symbols) -> Frequencies:
    """Definition of the probabilities: symbols (C, h, w) to frequencies (C, h, w, L).

    Every frequency is at least 1, and each row sums to 2**16.
    """
    x = np.pad(model.levels[symbols], ((4, 0), (4, 4), (4, 4)), constant_values=model.levels[0])
    hidden = _rescaled(model, 0, _convolve(model, 0, x[None].astype(np.int64)))
    inner = _rescaled(model, 1, _convolve(model, 1, hidden))
    skip = hidden[:, 2:, 2:-2, 2:-2] << model.skip_shift.astype(np.int64)[:, None, None, None]
    summed = _rescaled(model, 2, _convolve(model, 2, inner) + skip)
    logits = np.moveaxis(_rescaled(model, 3, _convolve(model, 3, summed)), 0, -1)

    below = logits.max(axis=-1, keepdims=True) - logits
    table = model.exponentials.astype(np.int64)
    weight = table[np.minimum(below, table.size - 1)]
    count = model.symbols_per_alphabet
    share = 1 + weight * (rans.TOTAL - count) // weight.sum(axis=-1, keepdims=True)
    best = logits.argmax(axis=-1)[..., None]
    left = rans.TOTAL - share.sum(axis=-1, keepdims=True)
    np.put_along_axis(share, best, np.take_along_axis(share, best, -1) + left, -1)
    return np.asarray(share, np.uint16)


def _convolve(model: IntegerContextModel, layer: int, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums (outputs, d - 1, h - 2, w - 2) of x (inputs, d, h, w), bias included."""
    weights = model.weights[layer].astype(np.int64)
    d, h, w = (n - k + 1 for n, k in zip(x.shape[1:], (2, 3, 3), strict=True))
    total = np.zeros((len(weights), d, h, w), np.int64)
    total += model.biases[layer][:, None, None, None]
    for a, b, c in np.ndindex(2, 3, 3):
        total += np.tensordot(weights[:, :, a, b, c], x[:, a : a + d, b : b + h, c : c + w], 1)
    return total


def _rescaled(model: IntegerContextModel, layer: int, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    shift = model.shifts[layer].astype(np.int64)[:, None, None, None]
    low, high = model.bounds[layer].astype(np.int64)
    return np.asarray(np.clip(sums >> shift, low, high), np.int64)


def frequencies(model: IntegerContextModel, symbols: Symbols) -> Frequencies:
    """`frequencies_reference` in one compiled, multi-threaded pass over the volume."""
    _check_symbols(model, symbols)
    stages = _stages(model, symbols.shape)
    c, h, w = symbols.shape
    stages[0][1:, 4 : 4 + h, 4 : 4 + w] = model.levels[symbols]
    result = np.empty((c, h, w, model.symbols_per_alphabet), np.uint16)
    with thread_pool():
        context_kernels.whole_image(model.compiled, stages, result)
    return result


def wavefront_order(shape: tuple[int, int, int]) -> NDArray[np.intp]:
    """Flat indices of a (C, h, w) volume in coding order."""
    c, h, w = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return np.argsort((w + 2 * h + 4 * c).ravel(), kind="stable")


def encode_with_frequencies(symbols: Symbols, frequencies: Frequencies) -> bytes:
    """rANS payload of symbols (C, h, w) with frequencies (C, h, w, L) of any engine."""
    order = wavefront_order(_shape(symbols))
    rows = frequencies.reshape(-1, frequencies.shape[-1])
    return rans.encode(symbols.ravel()[order], rows[order])


def encode_symbols(model: IntegerContextModel, symbols: Symbols) -> bytes:
    """rANS payload of symbols (C, h, w), each 0..L-1."""
    return encode_with_frequencies(symbols, frequencies(model, symbols))


def decode_symbols(
    model: IntegerContextModel, payload: bytes, shape: tuple[int, int, int]
) -> Symbols:
    """Symbols (C, h, w) of a payload.

    Raises PacketError for a payload that is malformed or not of this shape and model.
    """
    if min(shape) < 1:
        raise PacketError(f"a latent of {shape} is empty: check the packet's size fields")
    data, state = rans.open_payload(payload)
    stages = _stages(model, shape)
    symbols = np.zeros(shape, np.uint8)
    space = np.empty((*shape, model.symbols_per_alphabet), np.uint16)
    with thread_pool() as threads:
        position, state = context_kernels.wavefronts(
            model.compiled, stages, space, data, rans.STATE_BYTES, state, symbols, threads
        )
    rans.close_payload(data, position, state)
    return symbols


def cross_entropy_bits(model: IntegerContextModel, symbols: Symbols) -> float:
    """What the model says that the symbols (C, h, w) cost, in bits."""
    chosen = np.take_along_axis(frequencies(model, symbols), symbols[..., None], -1)
    counts = np.bincount(chosen.ravel(), minlength=rans.TOTAL)
    values = np.flatnonzero(counts)
    return float(counts[values] @ (rans.FREQUENCY_BITS - np.log2(values)))


def _shape(symbols: Symbols) -> tuple[int, int, int]:
    if symbols.ndim != 3 or min(symbols.shape) < 1:
        raise ValueError(f"expected symbols (C, h, w), not {symbols.shape}")
    c, h, w = symbols.shape
    return c, h, w


def _check_symbols(model: IntegerContextModel, symbols: Symbols) -> None:
    _shape(symbols)
    if symbols.dtype != np.uint8 or symbols.max() >= model.symbols_per_alphabet:
        raise ValueError(f"expected uint8 symbols below {model.symbols_per_alphabet}")


def _stages(model: IntegerContextModel, shape: tuple[int, ...]) -> Stages:
    """Arrays of the kernels, filled with the padding's level where symbols go."""
    c, h, w = shape
    features = [1, *(len(bias) for bias in model.biases)]
    arrays = [
        np.empty((c + 1, h + 2 * m, (w + 2 * m) * n), np.int16)
        for m, n in zip(range(LAYERS, -1, -1), features, strict=True)
    ]
    arrays[0].fill(model.levels[0])
    return tuple(arrays)  # type: ignore[return-value]


def _table(
    arrays: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic], ndim: int
) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.ndim != ndim or array.size == 0:
        raise BundleError(
            f"the context model's table {name!r} is missing or is not a {np.dtype(dtype).name} "
            f"array of {ndim} dimensions: export the bundle again"
        )
    return np.ascontiguousarray(array)


def _check(model: IntegerContextModel) -> None:
    """Refuse tables that would compute something else on another machine."""
    problem = _shape_problem(model) or _range_problem(model)
    if problem:
        raise BundleError(f"the context model's {problem}: export the bundle again")


def _shape_problem(model: IntegerContextModel) -> str | None:
    count, features = model.levels.size, len(model.biases[0])
    if not 2 <= count <= 256 or features > MAX_FEATURES:
        return "alphabet or width is out of range"
    widths = [1, features, features, features, count]
    for i in range(LAYERS):
        if model.weights[i].shape != (widths[i + 1], widths[i], 2, 3, 3):
            return f"table 'weight{i}' has shape {model.weights[i].shape}"
        if not len(model.biases[i]) == len(model.shifts[i]) == widths[i + 1]:
            return f"tables 'bias{i}' and 'shift{i}' do not fit 'weight{i}'"
        if np.any(model.weights[i][:, :, ~causal_mask(first=i == 0)]):
            return f"table 'weight{i}' looks ahead"
    if len(model.skip_shift) != features or model.bounds.shape != (LAYERS, 2):
        return "tables 'skip_shift' or 'bounds' have the wrong shape"
    return None


def _range_problem(model: IntegerContextModel) -> str | None:
    for shift in (*model.shifts, model.skip_shift):
        if shift.min() < 0 or shift.max() > MAX_SHIFT:
            return f"shifts are not within 0..{MAX_SHIFT}"
    low, high = model.bounds.astype(np.int64).T
    if (
        np.any(low > high)
        or np.any(high[:3] - low[:3] > 255)
        or np.any(np.abs(model.bounds[:3]) > 255)
    ):
        return "activations do not fit 8 bits"
    if low[0] < 0 or np.abs(model.bounds[3].astype(np.int64)).max() > MAX_LOGIT:
        return "table 'bounds' is out of range"
    if model.exponentials.min() < 0 or model.exponentials.max() > MAX_EXPONENTIAL:
        return f"table 'exponentials' is not within 0..{MAX_EXPONENTIAL}"
    if model.exponentials[0] < 1:
        return "table 'exponentials' starts with 0"
    if max(model.largest_sums()) >= EXACT:
        return "sums can reach 2**24, where float32 rounds"
    return None
