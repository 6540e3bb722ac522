"""A float graph becomes an 8-bit one, decided by what each step does to its outputs.

    runs on real inputs ─► features of every activation centred and scaled to one size, where
                           nothing changes
                        ─► ranges of every activation, by several methods
      all layers but one in 8 bits      ─► small layers that do most of the harm stay in float
      each method for all activations   ─► the one that hurts the outputs least
      means of what layers yield        ─► biases that take back the constant part of the error

The harm is the squared error of the outputs against the float graph, relative to their variance;
outputs count by the weights that they are given.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dsin.calibration.bias_correction import bias_corrected, feature_means
from dsin.calibration.centring import centred, centring_shifts
from dsin.calibration.equalisation import (
    Features,
    equalised,
    feature_factors,
    feature_sizes,
)
from dsin.calibration.qdq import (
    Range,
    Target,
    activations,
    convolutions,
    is_matrix,
    multiplications,
    quantised,
)
from dsin.calibration.ranges import METHODS, Extent, candidates, feature_extents, observe
from dsin.runtime.backends.ort import CPU, onnxruntime

Array = NDArray[Any]
Inputs = Mapping[str, Array]

JUDGED_RUNS = 4
"""Runs that candidates and layers are judged on, spread over all."""
AVERAGED_RUNS = 16
"""Runs that means of layers are taken of."""
HARMS = (0.1, 0.01)
"""A layer that makes this share of all the error may stay in float. First those that outweigh
everything else; then, measured without them, the others,"""
FLOAT_SHARE = 0.02
"""as long as float layers have at most this share of the arithmetic."""


@dataclass(frozen=True)
class Layer:
    """What 8 bits do in one Conv node: `harm` is the share of the error that goes if it stays in
    float too, when it was last measured, None for one that is too large for that; `gmac` its
    multiplications in billions."""

    name: str
    harm: float | None
    gmac: float
    in_float: bool


@dataclass(frozen=True)
class Quantised:
    """An 8-bit graph and how it came about. `method` names what the ranges of activations are
    (`dsin.calibration.ranges`), but for those that were given; errors are relative to the variance
    of the outputs, before and after layers were left out. `factors` are those of the outputs that
    were scaled, (features,)."""

    model: onnx.ModelProto
    ranges: dict[str, Range]
    method: str
    layers: tuple[Layer, ...]
    error_all: float
    error: float
    factors: dict[str, Features]


def quantise_graph(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    target: Target = "cpu",
    weights: Mapping[str, float] | None = None,
    fixed: Mapping[str, Range] | None = None,
    scaled: Collection[str] = (),
) -> Quantised:
    """Rewrite a graph for these inputs, each a run at real values.

    `model` has its weights inside (`dsin.export.half_graph.read_graph`). `weights` says how
    much each output counts, by name (None: all alike). `fixed` are ranges of tensors that must be
    of 8 bits as they say, such as pictures.
    """
    given = fixed or {}
    layers = convolutions(model)
    names = activations(model, layers, target, given)
    bound = _bound_layers(model, given, target)
    model, factors = _with_even_features(model, inputs, names, scaled)
    seen = observe(run_all(model, inputs, names), names)
    sizes = {name: v.shape for name, v in next(run_all(model, inputs[:1], None)).items()}
    judged, averaged = spread(inputs, JUDGED_RUNS), spread(inputs, AVERAGED_RUNS)
    expected = list(run_each(model, judged))

    def harm(candidate: onnx.ModelProto) -> float:
        return relative_error(expected, list(run_each(candidate, judged)), weights)

    found = {name: candidates(seen[name]) for name in names if name not in given}

    def harm_of(layers: Collection[str], method: str = METHODS[0]) -> float:
        ranges = {**{name: tried[method] for name, tried in found.items()}, **given}
        return harm(_as_judged(model, ranges, layers, target, given))

    cost = multiplications(model, sizes)
    shares, kept = sensitivity(harm_of, layers, cost, bound)
    final = [name for name in layers if name not in kept]
    errors = {method: harm_of(final, method) for method in METHODS}
    method = min(errors, key=lambda name: errors[name])
    ranges = {**{name: tried[method] for name, tried in found.items()}, **given}
    read = sorted({node.input[0] for node in model.graph.node if node.name in final})
    means = feature_means(
        run_all(model, averaged, read), {name: ranges[name] for name in read}, target
    )
    corrected = bias_corrected(model, final, means)
    return Quantised(
        quantised(corrected, ranges, final, target, given), ranges, method,
        tuple(Layer(n, shares.get(n), cost[n] / 1e9, n in kept) for n in layers),
        harm_of(layers, method), harm(_as_judged(corrected, ranges, final, target, given)),
        {name: factors[name] for name in scaled if name in factors},
    )  # fmt: skip


def _with_even_features(
    model: onnx.ModelProto, inputs: Sequence[Inputs], names: Sequence[str], scaled: Collection[str]
) -> tuple[onnx.ModelProto, dict[str, Features]]:
    """The same graph with centred features of one size, and the factors of all tensors."""
    extents = feature_extents(run_all(model, inputs, names), names)
    shifts = centring_shifts(model, extents)
    moved = {
        name: Extent(seen.low + shifts.get(name, 0.0), seen.high + shifts.get(name, 0.0))
        for name, seen in extents.items()
    }
    factors = feature_factors(model, feature_sizes(moved), scaled)
    return equalised(centred(model, shifts), factors), factors


def _bound_layers(model: onnx.ModelProto, fixed: Collection[str], target: Target) -> set[str]:
    """Layers that read or yield what must be of 8 bits; on CPUs also depthwise ones, around which
    float costs two transpositions."""
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and (
            node.input[0] in fixed
            or node.output[0] in fixed
            or (target == "cpu" and not is_matrix(model.graph, node))
        )
    }


def _as_judged(
    model: onnx.ModelProto, ranges: Mapping[str, Range], layers: Collection[str], target: Target,
    rounded: Collection[str],
) -> onnx.ModelProto:  # fmt: skip
    """What onnxruntime can run of a graph in the making, whatever its target."""
    if target == "cpu":
        return quantised(model, ranges, layers, "cpu", rounded)
    return quantised(model, ranges, layers, "cpu", activations(model, layers, target))


def sensitivity(
    harm_of: Callable[[Collection[str]], float],
    layers: Sequence[str],
    cost: Mapping[str, int],
    bound: Collection[str] = (),
) -> tuple[dict[str, float], set[str]]:
    """The share of the error that each layer makes which may stay in float, and the layers that do:
    the most harmful ones for their arithmetic, within FLOAT_SHARE, and none of `bound`."""
    shares: dict[str, float] = {}
    kept: set[str] = set()
    room = FLOAT_SHARE * sum(cost.values())
    for least in HARMS:
        left = [name for name in layers if name not in kept]
        free = [n for n in left if n not in bound and cost[n] <= room]
        whole = harm_of(left)
        for name in free:
            without = harm_of([other for other in left if other != name])
            shares[name] = (whole - without) / max(whole, 1e-12)
        for name in sorted(free, key=lambda n: shares[n] / cost[n], reverse=True):
            if shares[name] >= least and cost[name] <= room:
                kept.add(name)
                room -= cost[name]
    return shares, kept


def spread(runs: Sequence[Inputs], count: int) -> Sequence[Inputs]:
    """So many of them, at even distances; all if there are no more."""
    return [runs[i] for i in range(0, len(runs), max(1, len(runs) // count))][:count]


def run(model: onnx.ModelProto, inputs: Inputs) -> dict[str, Array]:
    """All outputs of a graph, by name, on the CPU."""
    return next(run_each(model, [inputs]))


def run_each(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> Iterator[dict[str, Array]]:
    """`run` of several inputs."""
    return run_all(model, inputs, [value.name for value in model.graph.output])


def run_all(
    model: onnx.ModelProto, inputs: Sequence[Inputs], names: Sequence[str] | None
) -> Iterator[dict[str, Array]]:
    """Any tensors of a graph for each of its inputs, which count as tensors too; None: everything
    that a node yields."""
    ort = onnxruntime(CPU)
    made = [name for node in model.graph.node for name in node.output]
    given = {value.name for value in model.graph.input}
    wanted = [n for n in (made if names is None else names) if n not in given]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for one in inputs:
        found = dict(zip(wanted, session.run(wanted, dict(one)), strict=True))
        yield {**{n: one[n] for n in names or () if n in given}, **found}


def relative_error(
    expected: Sequence[Mapping[str, Array]],
    got: Sequence[Mapping[str, Array]],
    weights: Mapping[str, float] | None = None,
) -> float:
    """Squared error over variance, averaged over runs, and over outputs by their weights."""
    total, weight = 0.0, 0.0
    for one, other in zip(expected, got, strict=True):
        for name, value in one.items():
            error = np.square(other[name] - value).mean() / max(float(np.var(value)), 1e-12)
            share = 1.0 if weights is None else weights[name]
            total, weight = total + share * float(error), weight + share
    return total / weight
