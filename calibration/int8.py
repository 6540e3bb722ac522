"""A float graph becomes an 8-bit one, decided by what each step does to its outputs.

    runs on real inputs ─► ranges of every activation, several candidates each
      one activation at a time in 8 bits ─► the candidate that hurts the outputs least
      all layers but one in 8 bits      ─► the layers that do most of the harm stay in float

The harm is the squared error of the outputs against the float graph, relative to their variance;
outputs count by the weights that they are given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dsin.calibration.qdq import (
    Range,
    Target,
    activation_scale,
    activations,
    convolutions,
    multiplications,
    quantised,
    with_activations,
)
from dsin.calibration.ranges import candidates, observe

Array = NDArray[Any]
Inputs = Mapping[str, Array]

JUDGED_RUNS = 2
"""Runs that candidates and layers are judged on."""
HARM = 0.01
"""A layer that makes this share of all the error may stay in float,"""
FLOAT_SHARE = 0.06
"""as long as float layers have at most this share of the arithmetic."""


@dataclass(frozen=True)
class Layer:
    """What 8 bits do in one Conv node: `harm` is the share of the error that goes if it alone
    stays in float, `gmac` its multiplications in billions."""

    name: str
    harm: float
    gmac: float
    in_float: bool


@dataclass(frozen=True)
class Quantised:
    """An 8-bit graph and how it came about. `methods` names the chosen range of each activation;
    errors are relative to the variance of the outputs, before and after layers were left out."""

    model: onnx.ModelProto
    ranges: dict[str, Range]
    methods: dict[str, str]
    layers: tuple[Layer, ...]
    error_all: float
    error: float


def quantise_graph(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    target: Target = "cpu",
    weights: Mapping[str, float] | None = None,
) -> Quantised:
    """Rewrite a graph for these inputs, each a run at real values.

    `model` has its weights inside (`dsin.export.half_graph.read_graph`). `weights` says how
    much each output counts, by name (None: all alike).
    """
    layers = convolutions(model)
    names = activations(model, layers)
    runs = [run_all(model, one, names) for one in inputs]
    seen = observe(runs, names)
    sizes = {name: value.shape for name, value in run_all(model, inputs[0], None).items()}
    judged = inputs[:JUDGED_RUNS]
    expected = [run(model, one) for one in judged]

    def harm(candidate: onnx.ModelProto) -> float:
        return relative_error(expected, [run(candidate, one) for one in judged], weights)

    ranges, methods = {}, {}
    for name in names:
        found = _different(candidates(seen[name]))
        tried = {
            method: harm(with_activations(model, {name: activation_scale(range_, "cpu")}))
            for method, range_ in found.items()
        }
        methods[name] = min(tried, key=lambda method: tried[method])
        ranges[name] = found[methods[name]]
    whole = harm(quantised(model, ranges, layers, "cpu"))
    shares = {}
    for name in layers:
        without = harm(quantised(model, ranges, [n for n in layers if n != name], "cpu"))
        shares[name] = (whole - without) / max(whole, 1e-12)
    cost = multiplications(model, sizes)
    kept = _left_in_float(shares, cost)
    final = [name for name in layers if name not in kept]
    report = tuple(Layer(n, shares[n], cost[n] / 1e9, n in kept) for n in layers)
    judged_final = harm(quantised(model, ranges, final, "cpu"))
    return Quantised(
        quantised(model, ranges, final, target), ranges, methods, report, whole, judged_final
    )


def _different(found: dict[str, Range]) -> dict[str, Range]:
    """Candidates without those that equal an earlier one to a per cent."""
    kept: dict[str, Range] = {}
    for name, range_ in found.items():
        width = max(range_.high - range_.low, 1e-12)
        if all(np.abs(np.subtract(range_, other)).max() > 0.01 * width for other in kept.values()):
            kept[name] = range_
    return kept


def _left_in_float(harm: Mapping[str, float], cost: Mapping[str, int]) -> set[str]:
    """The most harmful layers for their arithmetic, within FLOAT_SHARE."""
    room = FLOAT_SHARE * sum(cost.values())
    kept: set[str] = set()
    for name in sorted(harm, key=lambda n: harm[n] / cost[n], reverse=True):
        if harm[name] >= HARM and sum(cost[n] for n in kept) + cost[name] <= room:
            kept.add(name)
    return kept


def run(model: onnx.ModelProto, inputs: Inputs) -> dict[str, Array]:
    """All outputs of a graph, by name, on the CPU."""
    return run_all(model, inputs, [value.name for value in model.graph.output])


def run_all(
    model: onnx.ModelProto, inputs: Inputs, names: Sequence[str] | None
) -> dict[str, Array]:
    """Any tensors of a graph, inputs included; None: everything that a node yields."""
    import onnxruntime

    made = [name for node in model.graph.node for name in node.output]
    wanted = [n for n in (made if names is None else names) if n not in inputs]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = dict(zip(wanted, session.run(wanted, dict(inputs)), strict=True))
    return {**{n: inputs[n] for n in names or () if n in inputs}, **found}


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
