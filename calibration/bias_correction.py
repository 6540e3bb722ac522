"""Biases that take back what 8 bits shift the outputs of layers by, on average.

    8-bit kernel on rounded inputs  -  kernel on inputs  =  error;  bias - its mean

Rounded kernels and activations that were cut off make a part of the error that is the same
everywhere, and a bias takes it back for nothing. Each layer does so for its own kernel and inputs,
on means of the float graph: measured all at once on the 8-bit one, a layer would take back what
those before it do already. (After Nagel et al., "Data-free quantization through weight equalization
and bias correction", ICCV 2019, here with means seen on real inputs.)
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dsin.calibration.equalisation import Features, copied, replace_constant
from dsin.calibration.qdq import Range, Target, activation_scale, weight_units

Array = NDArray[Any]


class Means(NamedTuple):
    """Of each feature (features,): as it is, and rounded to 8 bits."""

    exact: Features
    rounded: Features


def feature_means(
    runs: Iterable[Mapping[str, Array]], ranges: Mapping[str, Range], target: Target
) -> dict[str, Means]:
    """Of the tensors (1, features, h, w) that have a range, over all runs."""
    sums: dict[str, Means] = {}
    count = 0
    for run in runs:
        count += 1
        for name, range_ in ranges.items():
            both = (run[name], rounded(run[name], range_, target))
            means = Means(*(value.mean((0, 2, 3), dtype=np.float64) for value in both))
            known = sums.get(name, Means(np.zeros(1), np.zeros(1)))
            sums[name] = Means(known.exact + means.exact, known.rounded + means.rounded)
    return {name: Means(s.exact / count, s.rounded / count) for name, s in sums.items()}


def rounded(values: Array, range_: Range, target: Target) -> Array:
    """What 8 bits hold of values."""
    unit = activation_scale(range_, target)
    limits = np.iinfo(unit.zero.dtype)
    zero = float(unit.zero)
    units = np.clip(np.rint(values / unit.scale), limits.min - zero, limits.max - zero)
    return np.asarray(units * unit.scale)


def bias_corrected(
    model: onnx.ModelProto, layers: Collection[str], means: Mapping[str, Means]
) -> onnx.ModelProto:
    """A copy of a float graph whose biases fit `layers` of 8 bits. `means` has those of their
    inputs; layers without a bias of their own stay."""
    out, constants = copied(model)
    for node in out.graph.node:
        if node.op_type == "Conv" and node.name in layers and len(node.input) > 2:
            kernel = numpy_helper.to_array(constants[node.input[1]])
            bias = constants[node.input[2]]
            error = _mean_error(kernel, means[node.input[0]])
            replace_constant(bias, numpy_helper.to_array(bias) - error)
    return out


def _mean_error(kernel: Array, means: Means) -> Features:
    """What a layer yields too much of each output (outputs,). Borders count as the rest."""
    units, scales = weight_units(kernel)
    kept = units * scales.reshape(-1, 1, 1, 1)
    sums, wanted = (each.sum((2, 3), dtype=np.float64) for each in (kept, kernel))
    if len(means.exact) == sums.shape[1]:
        error = sums @ means.rounded - wanted @ means.exact
    else:  # depthwise: each output sees the input of its number
        error = sums[:, 0] * means.rounded - wanted[:, 0] * means.exact
    return np.asarray(error, np.float64)
