"""The float context model turned into exact integers (`dsin.runtime.entropy.context_model`).

Each activation gets a step, one per layer, and each filter a power of two that uses the 8 bits of
its weights: weight · input step / output step · 2**shift, rounded. The steps are searched: starting
from the range that the activations have on sample symbols, each in turn is scaled up and down, and
what keeps the probabilities closest to the float model's (in bits of cross-entropy between the two)
is kept. The symbols' own cost would be the wrong measure: it rewards clipping whatever a model that
is not fully trained is too sure of, on these samples.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dsin.runtime.entropy.context_model import (
    EXACT,
    MAX_EXPONENTIAL,
    MAX_LOGIT,
    IntegerContextModel,
    frequencies,
)
from dsin.runtime.errors import BundleError, ExportError
from dsin.training.paper.context_model import PADDING, ContextModel, bit_cost

Floats = NDArray[np.float64]
Symbols = NDArray[np.uint8]

LOGIT_STEP = 1 / 64
"""Nats per unit of the integer logits."""
FACTORS = (0.35, 0.5, 0.7, 0.85, 1.2)
"""Candidates in the search of a step, relative to the best so far."""
ROUNDS = 2
SEARCH_SYMBOLS = 200_000
"""Symbols that each candidate is measured on."""
SKIP_BITS = 1
"""The sum after the skip has steps of 2**SKIP_BITS hidden steps, for it is signed."""


@dataclass(frozen=True)
class _Layer:
    """A float layer: weights (outputs, inputs, 2, 3, 3), masked, and bias."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class _Steps:
    """Value of one unit in the input and in the three activations."""

    level: float
    hidden: float
    inner: float

    @property
    def outputs(self) -> tuple[float, float, float, float]:
        return self.hidden, self.inner, self.hidden * 2**SKIP_BITS, LOGIT_STEP

    @property
    def inputs(self) -> tuple[float, float, float, float]:
        return self.level, *self.outputs[:3]


def quantise_context(
    context: ContextModel, centers: Tensor, sample_symbols: list[Symbols]
) -> IntegerContextModel:
    """Integer tables of a float context model, tuned on symbols (C, h, w) of real frames.

    Raises ExportError where there are no samples, or the weights leave no exact integers.
    """
    if not sample_symbols:
        raise ExportError("the integer context model needs symbols of a few frames to tune on")
    layers = [_layer(m) for m in (context.conv0, context.conv1, context.conv2, context.logits)]
    values = centers.detach().double().numpy()
    if not all(np.isfinite(a).all() for a in (values, *(x.weight for x in layers))):
        raise ExportError("the context model has weights that are not finite: train it again")
    steps = _first_steps(context, centers, sample_symbols, values)
    sample = [
        (symbols, _probabilities(context, centers, symbols)) for symbols in _cut(sample_symbols)
    ]

    def build(candidate: _Steps) -> IntegerContextModel:
        return _build(layers, values, candidate, relu_on_logits=context.relu_on_logits)

    best = _search(build, steps, sample)
    return build(best)


def _float_logits(context: ContextModel, centers: Tensor, symbols: Symbols) -> Tensor:
    """Logits (C, h, w, L) of the float model for symbols (C, h, w)."""
    centers = centers.detach()
    with torch.no_grad():
        logits: Tensor = context(
            centers[torch.from_numpy(symbols.astype(np.int64))][None], centers[0]
        )
    return logits[0]


def _probabilities(context: ContextModel, centers: Tensor, symbols: Symbols) -> Floats:
    return _float_logits(context, centers, symbols).double().softmax(-1).numpy()


def float_bits(context: ContextModel, centers: Tensor, symbols: Symbols) -> float:
    """Cross-entropy in bits of symbols (C, h, w) under the float model."""
    logits = _float_logits(context, centers, symbols)
    return float(bit_cost(logits, torch.from_numpy(symbols.astype(np.int64))).double().sum())


def _layer(module: torch.nn.Conv3d) -> _Layer:
    mask = module.get_buffer("mask")
    weight = (module.weight * mask).detach().double().numpy()
    bias = np.zeros(len(weight)) if module.bias is None else module.bias.detach().double().numpy()
    return _Layer(weight, bias)


def _cut(sample_symbols: list[Symbols]) -> list[Symbols]:
    """Whole latents up to about SEARCH_SYMBOLS symbols, each cut to its share of rows."""
    rows = max(1, SEARCH_SYMBOLS // sum(s.shape[0] * s.shape[2] for s in sample_symbols))
    return [np.ascontiguousarray(s[:, :rows]) for s in sample_symbols]


def _first_steps(
    context: ContextModel, centers: Tensor, sample_symbols: list[Symbols], values: Floats
) -> _Steps:
    """Steps that just hold every activation of the samples."""
    centers = centers.detach()
    hidden, inner = 0.0, 0.0
    with torch.no_grad():
        for symbols in sample_symbols:
            q = centers[torch.from_numpy(symbols.astype(np.int64))][None, None] - centers[0]
            x = F.pad(q, (PADDING,) * 4 + (PADDING, 0)) + centers[0]
            h = F.relu(context.conv0(x))
            a = F.relu(context.conv1(h))
            s = context.conv2(a) + h[:, :, 2:, 2:-2, 2:-2]
            hidden = max(hidden, float(h.max()) / 255, float(s.abs().max()) / 127 / 2**SKIP_BITS)
            inner = max(inner, float(a.max()) / 255)
    return _Steps(level_step(values), hidden or 1.0, inner or 1.0)


def level_step(values: Floats) -> float:
    """The step under which the centres lie closest to integers, the largest between 64 and 127."""
    largest = float(np.abs(values).max()) or 1.0
    steps = largest / np.arange(64, 128)
    units = values[:, None] / steps
    error = np.abs((np.rint(units) - units) * steps).max(axis=0)
    return float(steps[error.argmin()])


def _search(
    build: Callable[[_Steps], IntegerContextModel],
    steps: _Steps,
    sample: list[tuple[Symbols, Floats]],
) -> _Steps:
    """Scale one step after the other, keeping what stays closest to the float probabilities."""

    def cost(candidate: _Steps) -> float:
        model = build(candidate)
        return -sum(
            float((probability * np.log2(frequencies(model, symbols))).sum())
            for symbols, probability in sample
        )

    best = cost(steps)
    for _ in range(ROUNDS):
        for name in ("hidden", "inner"):
            middle = getattr(steps, name)
            for factor in FACTORS:
                candidate = replace(steps, **{name: middle * factor})
                distance = cost(candidate)
                if distance < best:
                    steps, best = candidate, distance
    return steps


def _build(
    layers: list[_Layer], values: Floats, steps: _Steps, *, relu_on_logits: bool
) -> IntegerContextModel:
    """The tables for given steps. Raises ExportError where sums could reach 2**24."""
    weights, biases, shifts = [], [], []
    for i, layer in enumerate(layers):
        scale = steps.inputs[i] / steps.outputs[i]
        shift = _shifts(layer.weight * scale, layer.bias / steps.outputs[i], skip=i == 2)
        unit = np.exp2(shift)
        weight = np.rint(layer.weight * scale * unit[:, None, None, None, None])
        weights.append(np.clip(weight, -127, 127).astype(np.int8))
        half = np.where(shift > 0, unit / 2, 0)
        bias = np.rint(layer.bias / steps.outputs[i] * unit + half)
        biases.append(np.clip(bias, -EXACT, EXACT).astype(np.int32))
        shifts.append(shift.astype(np.int32))
    low = 0 if relu_on_logits else -MAX_LOGIT
    model = IntegerContextModel(
        weights=tuple(weights),
        biases=tuple(biases),
        shifts=tuple(shifts),
        bounds=np.array([(0, 255), (0, 255), (-128, 127), (low, MAX_LOGIT)], np.int32),
        skip_shift=shifts[2] - np.int32(SKIP_BITS),
        levels=np.clip(np.rint(values / steps.level), -127, 127).astype(np.int8),
        exponentials=_exponentials(),
    )
    try:
        return IntegerContextModel.from_arrays(model.to_arrays())
    except BundleError as error:
        raise ExportError(f"{error}: its weights are too large, train it again") from error


def _shifts(weight: Floats, bias: Floats, *, skip: bool) -> Floats:
    """The largest shift of each filter that keeps weights in 8 bits and bias and skip in 22."""
    outputs = len(weight)
    largest = np.maximum(np.abs(weight).reshape(outputs, -1).max(axis=1), 1e-9)
    room = np.minimum(127 / largest, 2.0**22 / np.maximum(np.abs(bias), 1e-9))
    least, most = (SKIP_BITS, SKIP_BITS + 14) if skip else (0, 20)
    shifts: Floats = np.clip(np.floor(np.log2(room)), least, most)
    return shifts


def _exponentials() -> NDArray[np.int32]:
    """exp(-n · LOGIT_STEP) in units of 2**-15, down to the first zero."""
    length = int(np.ceil(np.log(2 * MAX_EXPONENTIAL) / LOGIT_STEP)) + 1
    table = np.rint(MAX_EXPONENTIAL * np.exp(-LOGIT_STEP * np.arange(length)))
    return np.asarray(table, np.int32)
