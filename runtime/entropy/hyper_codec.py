"""A latent to bytes and back: hyperprior and context steps, all probabilities from integers.

    encode   z ─► tables by channel and rate ───────────────────────┐
             z ─► hyper graph ─► features                           ├─► integers ─► payload
             step k: (features, decoded so far) ─► means, scales    │
                     round(y - mean) under its scale ───────────────┘
    decode   the same, with the integers taken from the payload part by part: z, then each step's

Symbols of one part are in raster order of (channel, row, column). The decoded latent is symbol plus
mean, in 64ths of a quantiser step: integers too, so that both ends go on from the same numbers.

With a reference, a latent of the same shape and rate that both ends have, a map comes first. It
says for each block of 2×2 positions whether that is coded; the other blocks' values are the
reference's, in all channels. An element of z, which spans 2×2 blocks, is coded where one of them
is, and is else the reference's. Values that are not coded are put where the steps would have put
them, in the same turn, so that the steps see what they see without a reference.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.entropy.flag_coder import Flags
from dsin.runtime.entropy.hyper_kernels import (
    BLOCK,
    SIGNED,
    Positions,
    Turns,
    add_costs,
)
from dsin.runtime.entropy.integer_coder import (
    HALF_RANGE,
    IntegerDecoder,
    Integers,
    ScaleTables,
    encode_integers,
)
from dsin.runtime.errors import BundleError, PacketError

HYPER_STRIDE = 4
"""Latent positions per position of z, each way."""
ORDER = {2: ((0, 1), (1, 0)), 4: ((0, 2), (3, 1))}
"""For each number of steps, the turn of the first half or quarter of the channels at the places of
a 2×2 square."""


@dataclass(frozen=True, eq=False)
class HyperTables:
    """`scales` are the distributions; `scale_numbers` uint8 (256,) has the one for each raw scale
    from -128 on, `z_scales` uint8 (rates, hyper channels) those of z."""

    scales: ScaleTables
    scale_numbers: NDArray[np.uint8]
    z_scales: NDArray[np.uint8]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "HyperTables":
        """From the arrays of a bundle. Raises BundleError for arrays that cannot be such tables."""
        scales = ScaleTables.from_arrays(arrays)
        numbers, z_scales = arrays.get("scale_numbers"), arrays.get("z_scales")
        if numbers is None or numbers.shape != (SIGNED[1] - SIGNED[0] + 1,):
            raise BundleError("the entropy tables have no 256 scale_numbers: export anew")
        if z_scales is None or z_scales.ndim != 2 or not z_scales.size:
            raise BundleError("the entropy tables have no z_scales: export anew")
        for chosen in (numbers, z_scales):
            if chosen.dtype != np.uint8 or int(chosen.max()) >= len(scales.reach):
                raise BundleError("the entropy tables name scales that they lack: export anew")
        return cls(scales, np.ascontiguousarray(numbers), np.ascontiguousarray(z_scales))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Inverse of `from_arrays`."""
        return {
            **self.scales.to_arrays(),
            "scale_numbers": self.scale_numbers,
            "z_scales": self.z_scales,
        }

    def digest(self) -> bytes:
        """sha256 over names, types, shapes and little-endian values of all arrays, by name."""
        digest = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            little = array.astype(array.dtype.newbyteorder("<"))
            digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
            digest.update(little.tobytes())
        return digest.digest()


class CodedLatent(NamedTuple):
    """What a decoder has of a frame: ŷ float32 (latent, h, w) in quantiser steps, every value a
    whole number of 64ths, and z int32 (hyper, h / 4, w / 4). Both ends have the same."""

    latent: NDArray[np.float32]
    z: Integers


class Kept(NamedTuple):
    """A latent that is coded in part: the rest is the reference's. `coded` bool (h / 2, w / 2) has
    the blocks that are."""

    reference: CodedLatent
    coded: Flags

    @property
    def cells(self) -> Flags:
        """Where z is coded, (h / 4, w / 4)."""
        rows, columns = (length // 2 for length in self.coded.shape)
        return np.asarray(self.coded.reshape(rows, 2, columns, 2).any((1, 3)))


class Part(NamedTuple):
    """Symbols (n,) of z or of one step, and the number of the table for each."""

    symbols: Integers
    choice: NDArray[np.uint8]


class LatentSteps(Protocol):
    """One latent in the making. The steps come in turn; each is predicted, then put."""

    def predict(self, number: int) -> tuple[Integers, NDArray[np.uint8]]:
        """Means in 64ths and numbers of tables for the symbols of a step, (n,)."""

    def put(self, symbols: Integers, means: Integers) -> None:
        """The symbols of the step that was predicted last, known now. The arrays are kept."""

    def quantise(self, number: int, y: NDArray[np.float32]) -> Part:
        """Instead of both: the symbols of a step that y (latent, h, w) rounds to."""

    def finish(self) -> NDArray[np.float32]:
        """The latent, (latent, h, w), once the last step is put."""


class EntropyNetwork(Protocol):
    """The networks of an entropy model. Whatever computes them, the integers are the same."""

    @property
    def count(self) -> int:
        """Of steps."""

    def begin(
        self, z: Integers, rate: int, shape: tuple[int, int, int], kept: Kept | None
    ) -> LatentSteps:
        """A latent of that shape, on what is known of it from z (hyper, h / 4, w / 4)."""


class CodedParts(NamedTuple):
    """A latent, ready to be written. The first part is z's."""

    parts: list[Part]
    latent: CodedLatent
    kept: Kept | None


class HyperCodec:
    """Codes latents with the networks and tables of one bundle."""

    def __init__(self, network: EntropyNetwork, tables: HyperTables) -> None:
        self._network = network
        self._tables = tables

    def encode(
        self, y: NDArray[np.float32], z: NDArray[np.float32], rate: int
    ) -> tuple[bytes, NDArray[np.float32]]:
        """The payload of y (latent, h, w) in quantiser steps, and ŷ as the decoder will have it.

        z (hyper, h / 4, w / 4) is what the hyper-encoder makes of y; both are rounded here.
        """
        coded = self.quantised(y, z, rate)
        return self.payload(coded), coded.latent.latent

    def quantised(
        self, y: NDArray[np.float32], z: NDArray[np.float32], rate: int, kept: Kept | None = None
    ) -> CodedParts:
        """y and z rounded, as far as they are coded, and what that makes of the latent."""
        whole, y = _integers(z), np.ascontiguousarray(y)
        shape = y.shape[0], y.shape[1], y.shape[2]
        cells = None if kept is None else kept.cells
        if kept is not None:
            whole = np.where(kept.cells, whole, kept.reference.z)
        coded = whole.ravel() if cells is None else whole[:, cells].ravel()
        parts = [Part(coded, self._z_choice(whole.shape, cells, rate))]
        steps = self._network.begin(whole, rate, shape, kept)
        parts += [steps.quantise(number, y) for number in range(self._network.count)]
        return CodedParts(parts, CodedLatent(steps.finish(), whole), kept)

    def payload(self, coded: CodedParts) -> bytes:
        """The bytes of it."""
        values, choices = (np.concatenate(column) for column in zip(*coded.parts, strict=True))
        flags = None if coded.kept is None else coded.kept.coded
        return encode_integers(self._tables.scales, values, choices, flags)

    def block_bits(self, coded: CodedParts) -> NDArray[np.float32]:
        """What each block's symbols cost in bits, (h / 2, w / 2); an element of z costs each of its
        blocks a quarter."""
        scales = self._tables.scales
        channels, height, width = shape = coded.latent.latent.shape
        bits = np.zeros((height // BLOCK, width // BLOCK), np.float32)
        blocks = None if coded.kept is None else coded.kept.coded
        found, _ = step_positions(shape, self._network.count, blocks)
        for part, positions in zip(coded.parts[1:], found, strict=True):
            costs = scales.entry_bits(part.symbols, part.choice)
            add_costs(costs, positions, channels, width, bits)
        part, where = coded.parts[0], coded.latent.z.shape[1:]
        cells = np.flatnonzero(np.ones(where) if coded.kept is None else coded.kept.cells)
        z_bits = np.zeros(where, np.float32)
        costs = scales.entry_bits(part.symbols, part.choice)
        costs = costs.reshape(len(coded.latent.z), cells.size)
        z_bits.ravel()[cells] = costs.sum(0)
        bits += z_bits.repeat(2, 0).repeat(2, 1) / 4
        return bits

    def decode(
        self,
        payload: bytes,
        shape: tuple[int, int, int],
        rate: int,
        reference: CodedLatent | None = None,
    ) -> NDArray[np.float32]:
        """As `decoded`, ŷ alone."""
        return self.decoded(payload, shape, rate, reference).latent

    def decoded(
        self,
        payload: bytes,
        shape: tuple[int, int, int],
        rate: int,
        reference: CodedLatent | None = None,
    ) -> CodedLatent:
        """The latent of that shape (latent, h, w), h and w multiples of 4; `reference` is that
        which it was coded with.

        Raises PacketError for a payload that is malformed or not of this shape, rate and model, and
        for a reference of another shape.
        """
        if min(shape) < 1 or shape[1] % HYPER_STRIDE or shape[2] % HYPER_STRIDE:
            raise PacketError(f"a latent of {shape} is impossible: check the packet's size fields")
        if not 0 <= rate < len(self._tables.z_scales):
            raise PacketError(f"packet has rate {rate}, which its bundle does not have")
        if reference is not None and reference.latent.shape != shape:
            raise PacketError("packet refers to a frame of another size: send it on its own")
        decoder = IntegerDecoder(self._tables.scales, payload)
        small = (self._tables.z_scales.shape[1], *(n // HYPER_STRIDE for n in shape[1:]))
        kept = None
        if reference is None:
            z = decoder.take(self._z_choice(small, None, rate)).reshape(small)
        else:
            kept = Kept(reference, decoder.take_flags((shape[1] // BLOCK, shape[2] // BLOCK)))
            z = reference.z.copy()
            taken = decoder.take(self._z_choice(small, kept.cells, rate))
            z[:, kept.cells] = taken.reshape(len(z), -1)
        steps = self._network.begin(z, rate, shape, kept)
        for number in range(self._network.count):
            means, choice = steps.predict(number)
            steps.put(decoder.take(choice), means)
        decoder.close()
        return CodedLatent(steps.finish(), z)

    def _z_choice(
        self, shape: tuple[int, ...], cells: Flags | None, rate: int
    ) -> NDArray[np.uint8]:
        """For z of that shape, or where it is coded."""
        count = shape[1] * shape[2] if cells is None else int(cells.sum())
        return np.repeat(self._tables.z_scales[rate], count)


def turns(steps: int) -> Turns:
    """When each part of the channels is coded at each place of a 2×2 square, (steps, 2, 2): a half
    or a quarter of the channels at every place in each of two or four steps."""
    return np.array(ORDER[steps], np.int32)[None] ^ np.arange(steps, dtype=np.int32)[:, None, None]


def step_positions(
    shape: tuple[int, ...], steps: int, coded: Flags | None
) -> tuple[list[Positions], list[Positions]]:
    """Of the symbols of each step, and of the values that are kept. `coded` are the blocks that
    are, None for all."""
    if coded is None:
        found = _all_positions(shape[1], shape[2], steps)
        return found, [each[:, :0] for each in found]
    whole = coded.repeat(BLOCK, 0).repeat(BLOCK, 1)
    return _positions(whole, steps), _positions(~whole, steps)


@lru_cache(maxsize=8)
def _all_positions(height: int, width: int, steps: int) -> list[Positions]:
    """Kept between frames, to be read only."""
    return _positions(np.ones((height, width), np.bool_), steps)


def _positions(chosen: Flags, steps: int) -> list[Positions]:
    """Of each step, within the `chosen` positions, (height, width)."""
    squares = chosen.shape[0] // BLOCK, chosen.shape[1] // BLOCK
    order = turns(steps)
    return [
        np.array(
            [np.flatnonzero(chosen & np.tile(part == step, squares)) for part in order], np.int32
        )
        for step in range(steps)
    ]


def _integers(values: NDArray[np.floating]) -> Integers:
    return np.asarray(np.clip(np.rint(values), -HALF_RANGE, HALF_RANGE - 1), np.int32)
