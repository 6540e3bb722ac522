"""The networks of an entropy model as sessions of their graphs, on whatever device."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.backends.session import Session
from dsin.runtime.entropy.hyper_codec import HyperTables, Kept, Part, step_positions
from dsin.runtime.entropy.hyper_kernels import (
    SIGNED,
    choose_tables,
    keep_values,
    put_symbols,
    quantise_symbols,
)
from dsin.runtime.entropy.integer_coder import Integers


class SessionNetwork:
    """See `dsin.runtime.entropy.hyper_codec.EntropyNetwork`; of a hyper graph and step graphs."""

    def __init__(self, hyper: Session, steps: Sequence[Session], tables: HyperTables) -> None:
        self.hyper = hyper
        self.steps = steps
        self.scale_numbers = tables.scale_numbers

    @property
    def count(self) -> int:
        """Of steps."""
        return len(self.steps)

    def begin(
        self, z: Integers, rate: int, shape: tuple[int, int, int], kept: Kept | None
    ) -> "SessionSteps":
        """A latent of that shape."""
        return SessionSteps(self, z, rate, shape, kept)


class SessionSteps:
    """See `dsin.runtime.entropy.hyper_codec.LatentSteps`."""

    def __init__(
        self, network: SessionNetwork, z: Integers, rate: int, shape: tuple[int, int, int],
        kept: Kept | None,
    ) -> None:  # fmt: skip
        self._network = network
        small = np.clip(z, *SIGNED)[None].astype(np.float32)
        rates = np.array([rate], np.int64)
        self._features = network.hyper.keep(z=small, rate=rates)["features"]
        blocks = None if kept is None else kept.coded
        self._coded, self._kept = step_positions(shape, network.count, blocks)
        self._layout = shape[1] * shape[2], 1, 0
        self._channels = shape[0]
        self._reference = None if kept is None else kept.reference.latent.ravel()
        self._latent = np.zeros(shape, np.float32)
        self._context = np.zeros((1, *shape), np.float32)
        self._number = 0

    def predict(self, number: int) -> tuple[Integers, NDArray[np.uint8]]:
        """Means in 64ths and numbers of tables for the symbols of a step, (n,)."""
        self._number = number
        mean, raw = self._run(number)
        positions = self._coded[number]
        count = positions.shape[1] * self._channels
        means, choice = np.empty(count, np.int32), np.empty(count, np.uint8)
        choose_tables(
            mean, raw, self._layout, positions, (0, positions.shape[1]), self._channels,
            self._network.scale_numbers, means, choice,
        )  # fmt: skip
        return means, choice

    def put(self, symbols: Integers, means: Integers) -> None:
        """The symbols of the step that was predicted last, and what is kept there."""
        positions = self._coded[self._number]
        put_symbols(
            symbols, means, positions, (0, positions.shape[1]), self._channels,
            self._latent.ravel(), self._context.ravel(), self._layout,
        )  # fmt: skip
        self._keep(self._number)

    def quantise(self, number: int, y: NDArray[np.float32]) -> Part:
        """Instead of both: the symbols of a step that y (latent, h, w) rounds to."""
        mean, raw = self._run(number)
        positions = self._coded[number]
        count = positions.shape[1] * self._channels
        symbols, choice = np.empty(count, np.int32), np.empty(count, np.uint8)
        quantise_symbols(
            y.ravel(), mean, raw, self._layout, positions, (0, positions.shape[1]), self._channels,
            self._network.scale_numbers, symbols, choice, self._latent.ravel(),
            self._context.ravel(), self._layout,
        )  # fmt: skip
        self._keep(number)
        return Part(symbols, choice)

    def _run(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means and raw scales of a step, flat."""
        out = self._network.steps[number].run(features=self._features, decoded=self._context)
        return out["mean"].ravel(), out["raw"].ravel()

    def _keep(self, number: int) -> None:
        if self._reference is not None:
            keep_values(
                self._reference, self._kept[number], self._channels, self._latent.ravel(),
                self._context.ravel(), self._layout,
            )  # fmt: skip

    def finish(self) -> NDArray[np.float32]:
        """The latent, once the last step is put."""
        return self._latent
