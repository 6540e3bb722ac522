"""Convolutions on integers that every machine computes alike: what entropy coding hangs on.

    out = clip(floor((conv(x, weight) + bias) · multiplier), low, high)

Inputs and outputs are integers held in float32, and no sum can reach 2**24, so that a float32
convolution has no rounding, whatever the order of its additions. The multiplication rounds once, as
IEEE 754 says; a rounding half is part of the bias. So any engine that computes in float32 gives the
same integers. Float16 and TensorFloat-32 do not, nor does Winograd's algorithm: exported graphs
have no dense convolution that it applies to (`dsin.export.edge.integer_graph`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import BundleError

EXACT = 1 << 24
"""Integers below this are exact in float32, in any order of summation."""


Limits = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One convolution, with zeros around the picture.

    `weight` int16 (outputs, inputs / groups, k, k) with k odd; `bias` int32 and `multiplier`
    float32 are (rates, outputs), or (1, outputs) where the rate does not matter. With `shuffle` 2,
    four outputs become one of twice the size, each way (depth to space, channel by channel).
    """

    weight: npt.NDArray[np.int16]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.float32]
    low: int
    high: int
    groups: int = 1
    shuffle: int = 1

    def largest_sum(self, low: Limits, high: Limits) -> int:
        """The largest magnitude that a sum can reach, in any order of its additions, for inputs of
        low..high, (inputs,) each, with 0 between them."""
        return int(np.max(sum_limits(self.weight, low, high, self.groups) + self._most_bias()))

    def _most_bias(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(self.bias.astype(np.float64)).max(0), np.float64)

    def check(self, low: Limits, high: Limits) -> None:
        """Raise BundleError where the layer would not be exact, or its parts do not fit."""
        outputs = len(self.weight)
        fits = self.bias.shape == self.multiplier.shape and self.bias.shape[1:] == (outputs,)
        if not fits or outputs % (self.groups * self.shuffle**2) or not self.low <= self.high:
            raise BundleError("an integer layer has parts of different sizes: export anew")
        if not np.isfinite(self.multiplier).all() or self.multiplier.min() <= 0:
            raise BundleError("an integer layer has an impossible multiplier: export anew")
        if self.largest_sum(low, high) >= EXACT:
            raise BundleError("sums can reach 2**24, where float32 rounds: export anew")


def sum_limits(
    weight: npt.NDArray[Any], low: Limits, high: Limits, groups: int
) -> npt.NDArray[np.float64]:
    """For each output, how large its sum can become, be it positive or negative, without bias."""
    outputs, per_group = weight.shape[:2]
    first = np.arange(outputs) * groups // outputs * per_group
    inputs = first[:, None] + np.arange(per_group)
    up, down = (
        np.maximum(sign * weight, 0).reshape(outputs, per_group, -1).sum(2, dtype=np.float64)
        for sign in (1, -1)
    )
    positive = (up * high[inputs] - down * low[inputs]).sum(1)
    negative = (down * high[inputs] - up * low[inputs]).sum(1)
    return np.asarray(np.maximum(positive, negative), np.float64)


def run_reference(
    layer: IntegerLayer, x: npt.NDArray[np.int64], rate: int = 0
) -> npt.NDArray[np.int64]:
    """Definition of a layer, in integers: x (inputs, h, w) to (outputs, h, w), or shuffled."""
    outputs, per_group, size, _ = layer.weight.shape
    margin, (height, width) = size // 2, x.shape[1:]
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    row = min(rate, len(layer.bias) - 1)
    sums = np.empty((outputs, height, width), np.int64)
    weight = layer.weight.astype(np.int64)
    for o in range(outputs):
        first = o * layer.groups // outputs * per_group
        total = np.full((height, width), int(layer.bias[row, o]), np.int64)
        for i, a, b in np.ndindex(per_group, size, size):
            total += weight[o, i, a, b] * padded[first + i, a : a + height, b : b + width]
        sums[o] = total
    scaled = sums.astype(np.float32) * layer.multiplier[row][:, None, None]
    result = np.clip(np.floor(scaled), layer.low, layer.high).astype(np.int64)
    s = layer.shuffle
    blocks = result.reshape(outputs // s**2, s, s, height, width).transpose(0, 3, 1, 4, 2)
    return np.asarray(blocks.reshape(outputs // s**2, s * height, s * width), np.int64)
