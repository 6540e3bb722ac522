"""The layers of an entropy model as `dsin.runtime.entropy.network_kernels` takes them."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.entropy.hyper_kernels import Turns
from dsin.runtime.entropy.integer_network import IntegerLayer
from dsin.runtime.entropy.integer_tiles import (
    BLOCK,
    SIDE,
    Elements,
    aligned,
    pack_weights,
    per_word,
    sums_type,
)

Array = NDArray[Any]


class PackedLayer(NamedTuple):
    """A dense layer: of each run of its inputs where the packed weights begin, and how many words
    they are; then the first of its outputs among all, how many they are, and its bounds' number."""

    firsts: list[int]
    words: list[int]
    output: int
    outputs: int
    ends: int


class Enlarging(NamedTuple):
    """A 3×3 layer, and a pointwise one for each place of the 2×2 square that a position becomes."""

    dense: PackedLayer
    large: list[PackedLayer]


class PackedStep(NamedTuple):
    """Runs of `stem` are the features and each part of the latent. `out` is for each part: the
    means, then from `PackedNetwork.widest` on the raw scales. `taps` are those of
    `dsin.runtime.entropy.integer_tiles.depthwise_tile`."""

    stem: PackedLayer
    depthwise_ends: int
    mix: PackedLayer
    out: list[PackedLayer]
    taps: NDArray[np.float32]


class PackedNetwork:
    """All layers: `weights`, `bias` and `factor` flat, `ends` (layers, 2). The hyper-decoder's
    outputs come once for each of `rates`, `per_rate` apart."""

    def __init__(
        self, hyper: Sequence[IntegerLayer], steps: Sequence[Sequence[IntegerLayer]], order: Turns,
        element: type[np.generic],
    ) -> None:  # fmt: skip
        self.element = element
        self.order = order
        self.z_channels = hyper[0].weight.shape[1]
        self.context = len(hyper[-1].weight) // 4
        self.latent = len(steps[0][-1].weight) // 2
        ends = -(-self.latent * np.arange(len(order) + 1) // len(order))
        self.parts = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
        self.widest = max(map(len, self.parts))
        self._weights: list[Elements] = []
        self._bias: list[Array] = []
        self._factor: list[Array] = []
        self._ends: list[tuple[int, int]] = []
        self.rates = max(len(layer.bias) for layer in hyper)
        self.enlarging = [self._enlarging(hyper[:2]), self._enlarging(hyper[2:])]
        self.per_rate = _total(self._bias)
        for rate in range(1, self.rates):
            for layer in hyper:
                for chosen in _squares(layer):
                    self._add_outputs(layer, chosen, rate)
        self.steps = [self._step(layers) for layers in steps]
        self.weights = aligned(_total(self._weights), element)
        np.concatenate(self._weights, out=self.weights)
        self.bias = np.concatenate(self._bias).astype(sums_type(element))
        self.factor = np.concatenate(self._factor).astype(np.float32)
        self.ends = np.array(self._ends, np.float32)

    def _enlarging(self, layers: Sequence[IntegerLayer]) -> Enlarging:
        dense, large = layers
        taps = [dense.weight[:, :, a, b] for a, b in np.ndindex(3, 3)]
        point = [large.weight[:, :, 0, 0]]
        (whole,) = _squares(dense)
        return Enlarging(
            self._add(dense, whole, taps),
            [self._add(large, chosen, point) for chosen in _squares(large)],
        )

    def _step(self, layers: Sequence[IntegerLayer]) -> PackedStep:
        stem, depthwise, mix, out = layers
        features, known = len(stem.weight), stem.weight[:, :, 0, 0]
        runs = [known[:, : self.context]]
        runs += [known[:, self.context + part] for part in self.parts]
        (whole,) = _squares(stem)
        first = self._add(stem, whole, runs)
        self._ends.append((depthwise.low, depthwise.high))
        depthwise_ends = len(self._ends) - 1
        taps = np.zeros((SIDE**2 + 2, first.outputs), np.float32)
        taps[:-2, :features] = depthwise.weight.reshape(features, -1).T
        taps[-2:, :features] = depthwise.bias[0], depthwise.multiplier[0]
        mixed = self._add(mix, whole, [mix.weight[:, :, 0, 0]])
        last = []
        for part in self.parts:
            chosen = np.full(2 * self.widest, -1)
            chosen[: len(part)], chosen[self.widest :][: len(part)] = part, self.latent + part
            last.append(self._add(out, chosen, [out.weight[:, :, 0, 0]]))
        return PackedStep(first, depthwise_ends, mixed, last, taps.ravel())

    def _add(self, layer: IntegerLayer, chosen: Array, runs: Sequence[Array]) -> PackedLayer:
        """The `chosen` outputs (n,) of a layer, -1 for none, with the weights (outputs, inputs) of
        each run."""
        firsts, words = [], []
        for run in runs:
            firsts.append(_total(self._weights))
            words.append(-(-run.shape[1] // per_word(self.element)))
            weight = np.where(chosen[:, None] < 0, 0, run[chosen])
            self._weights.append(pack_weights(weight, self.element))
        output = _total(self._bias)
        self._add_outputs(layer, chosen, 0)
        self._ends.append((layer.low, layer.high))
        outputs = _total(self._bias) - output
        return PackedLayer(firsts, words, output, outputs, len(self._ends) - 1)

    def _add_outputs(self, layer: IntegerLayer, chosen: Array, rate: int) -> None:
        row, rest = min(rate, len(layer.bias) - 1), (0, -len(chosen) % BLOCK)
        self._bias.append(np.pad(np.where(chosen < 0, 0, layer.bias[row][chosen]), rest))
        self._factor.append(np.pad(np.where(chosen < 0, 1, layer.multiplier[row][chosen]), rest))


def _total(arrays: Sequence[Array]) -> int:
    return sum(map(len, arrays))


def _squares(layer: IntegerLayer) -> list[Array]:
    """The outputs of a layer, of one that enlarges for each place of a 2×2 square."""
    places = layer.shuffle**2
    return [np.arange(place, len(layer.weight), places) for place in range(places)]
