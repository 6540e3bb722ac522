"""A latent to bytes and back: hyperprior and context steps, all probabilities from integers.

    encode   z ─► tables by channel and rate ───────────────────────┐
             z ─► hyper graph ─► features                           ├─► integers ─► payload
             step k: (features, decoded so far) ─► means, scales    │
                     round(y - mean) under its scale ───────────────┘
    decode   the same, with the integers taken from the payload part by part: z, then each step's

Symbols of one part are in raster order of (channel, row, column). The decoded latent is symbol plus
mean, in 64ths of a quantiser step: integers too, so that both ends go on from the same numbers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.backends.session import Session
from dsin.runtime.entropy.hyper_kernels import (
    SIGNED,
    Turns,
    choose_tables,
    put_symbols,
    quantise_symbols,
    symbol_places,
)
from dsin.runtime.entropy.integer_coder import (
    HALF_RANGE,
    IntegerDecoder,
    Integers,
    ScaleTables,
    encode_integers,
)
from dsin.runtime.errors import BundleError, PacketError
from dsin.runtime.gpu.device_tensor import Tensor

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


class _Part(NamedTuple):
    """Symbols (n,) of z or of one step, and the number of the table for each."""

    symbols: Integers
    choice: NDArray[np.uint8]


class HyperCodec:
    """Codes latents with the sessions of one bundle's hyper graph and its step graphs."""

    def __init__(self, hyper: Session, steps: Sequence[Session], tables: HyperTables) -> None:
        self._hyper = hyper
        self._steps = steps
        self._tables = tables

    def encode(
        self, y: NDArray[np.float32], z: NDArray[np.float32], rate: int
    ) -> tuple[bytes, NDArray[np.float32]]:
        """The payload of y (latent, h, w) in quantiser steps, and ŷ as the decoder will have it.

        z (hyper, h / 4, w / 4) is what the hyper-encoder makes of y; both are rounded here.
        """
        parts, latent = self._parts(y, z, rate)
        values, choices = (np.concatenate(column) for column in zip(*parts, strict=True))
        return encode_integers(self._tables.scales, values, choices), latent

    def quantise(
        self, y: NDArray[np.float32], z: NDArray[np.float32], rate: int
    ) -> NDArray[np.float32]:
        """ŷ as `encode` gives it, without the bytes."""
        return self._parts(y, z, rate)[1]

    def _parts(
        self, y: NDArray[np.float32], z: NDArray[np.float32], rate: int
    ) -> tuple[list[_Part], NDArray[np.float32]]:
        """What is coded, part by part, and the latent as decoded."""
        whole, y = _integers(z), np.ascontiguousarray(y)
        parts = [_Part(whole.ravel(), self._z_choice(whole.shape, rate))]
        steps = _Steps(self, self._features(whole, rate), y.shape)
        for number in range(len(self._steps)):
            means, choice = steps.predict(number)
            symbols = np.empty(means.shape, np.int32)
            quantise_symbols(y.ravel(), means, steps.places[number], symbols)
            steps.put(number, symbols, means)
            parts.append(_Part(symbols, choice))
        return parts, steps.latent

    def decode(self, payload: bytes, shape: tuple[int, int, int], rate: int) -> NDArray[np.float32]:
        """ŷ of that shape (latent, h, w), h and w multiples of 4.

        Raises PacketError for a payload that is malformed or not of this shape, rate and model.
        """
        if min(shape) < 1 or shape[1] % HYPER_STRIDE or shape[2] % HYPER_STRIDE:
            raise PacketError(f"a latent of {shape} is impossible: check the packet's size fields")
        if not 0 <= rate < len(self._tables.z_scales):
            raise PacketError(f"packet has rate {rate}, which its bundle does not have")
        decoder = IntegerDecoder(self._tables.scales, payload)
        small = (self._tables.z_scales.shape[1], *(n // HYPER_STRIDE for n in shape[1:]))
        z = decoder.take(self._z_choice(small, rate)).reshape(small)
        steps = _Steps(self, self._features(z, rate), shape)
        for number in range(len(self._steps)):
            means, choice = steps.predict(number)
            steps.put(number, decoder.take(choice), means)
        decoder.close()
        return steps.latent

    def _z_choice(self, shape: tuple[int, ...], rate: int) -> NDArray[np.uint8]:
        return np.repeat(self._tables.z_scales[rate], shape[1] * shape[2])

    def _features(self, z: Integers, rate: int) -> Tensor:
        small = np.clip(z, *SIGNED)[None].astype(np.float32)
        return self._hyper.keep(z=small, rate=np.array([rate], np.int64))["features"]


class _Steps:
    """One latent in the making: `latent` (channels, h, w) has what the steps so far have put."""

    def __init__(self, codec: HyperCodec, features: Tensor, shape: tuple[int, ...]) -> None:
        self._codec, self._features = codec, features
        order = turns(len(codec._steps))
        sides = shape[0], shape[1], shape[2]
        self.places = [symbol_places(sides, order, step) for step in range(len(order))]
        self.latent = np.zeros(shape, np.float32)
        self._context = np.zeros((1, *shape), np.float32)

    def predict(self, number: int) -> tuple[Integers, NDArray[np.uint8]]:
        """Means in 64ths and numbers of scales for the symbols of a step, (n,)."""
        step, tables = self._codec._steps[number], self._codec._tables
        out = step.run(features=self._features, decoded=self._context)
        places = self.places[number]
        means, choice = np.empty(len(places), np.int32), np.empty(len(places), np.uint8)
        mean, raw = out["mean"].ravel(), out["raw"].ravel()
        choose_tables(mean, raw, places, tables.scale_numbers, means, choice)
        return means, choice

    def put(self, number: int, symbols: Integers, means: Integers) -> None:
        """The symbols of a step, known now."""
        put_symbols(symbols, means, self.places[number], self.latent.ravel(), self._context.ravel())


def turns(steps: int) -> Turns:
    """When each part of the channels is coded at each place of a 2×2 square, (steps, 2, 2): a half
    or a quarter of the channels at every place in each of two or four steps."""
    return np.array(ORDER[steps], np.int32)[None] ^ np.arange(steps, dtype=np.int32)[:, None, None]


def _integers(values: NDArray[np.floating]) -> Integers:
    return np.asarray(np.clip(np.rint(values), -HALF_RANGE, HALF_RANGE - 1), np.int32)
