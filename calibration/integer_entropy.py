"""The edge codec's entropy model in integers: hyper-decoder and context steps.

Activations are rounded to 10 bits with a scale for each channel, which the next layer's weights
take in; weights get the bits that then are left of 24, the room of an exact sum in float32. (With
8 bits for both, trained weights cost 3 to 6 % more bits than in float, and so 0.5 %.) Ranges come
from latents of real frames. The units of what goes in and out:

    z               whole numbers, clipped to -128..127
    decoded ŷ       sixteenths of a quantiser step, clipped to -1024..1023
    mean            64ths of a step, 16 bits
    raw scale       sixteenths, -128..127: a table turns it into the number of a scale
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.calibration.scale_tables import gaussian_tables
from dsin.runtime.entropy.hyper_codec import HyperTables
from dsin.runtime.entropy.hyper_kernels import CONTEXT, CONTEXT_UNITS, MEAN_UNITS, SIGNED
from dsin.runtime.entropy.integer_network import EXACT, IntegerLayer, sum_limits
from dsin.training.edge.entropy import (
    LARGEST,
    SMALLEST,
    ContextStep,
    EntropyModel,
    scale_of,
    turns,
)

RAW_UNITS = 16
SCALES = np.geomspace(SMALLEST, LARGEST, 64)
"""In quantiser steps; a table each."""
UNSIGNED = (0, 1023)
"""Range of activations."""
MEANS = (-(2**15), 2**15 - 1)
LARGEST_WEIGHT = 8191
ROOM = 0.9
"""Share of 2**24 that sums may reach before weights are rounded."""

Floats = NDArray[np.float64]


class IntegerEntropy(NamedTuple):
    """`hyper` turns z into features; each of `steps` those and ŷ into means and scales."""

    hyper: tuple[IntegerLayer, ...]
    steps: tuple[tuple[IntegerLayer, ...], ...]
    tables: HyperTables


class Predicted(NamedTuple):
    """Of each symbol (N, latent, h, w): mean in 64ths and the number of its scale, int64."""

    mean: Tensor
    scale: Tensor


def quantise_entropy(
    model: EntropyModel, latents: Sequence[tuple[Tensor, Tensor]]
) -> IntegerEntropy:
    """`latents` are pairs (y, rate) as the encoder yields them. Raises BundleError for a model
    whose sums could not be exact."""
    ranges = _ranges(model, latents)
    hyper: list[IntegerLayer] = []
    decoder = model.decoder
    scale = np.ones(decoder.stem.in_channels)
    gain = model.hyper_gain.factor.detach().double().numpy()
    for name, shuffle in (("stem", 1), ("up0", 2), ("middle", 1), ("up1", 2)):
        out = ranges[f"decoder.{name}"]
        rates = np.repeat(gain, 4, 1) if name == "up1" else None
        conv = getattr(decoder, name)
        inputs = _inputs(scale, UNSIGNED if hyper else SIGNED)
        units = np.repeat(out, shuffle**2)
        hyper.append(_layer(conv, inputs, units, UNSIGNED, shuffle, rates))
        scale = out
    steps = tuple(
        _step(step, scale, {n: ranges[f"steps.{k}.{n}"] for n in ("stem", "depthwise", "mix")})
        for k, step in enumerate(model.steps)
        if isinstance(step, ContextStep)
    )
    raw = torch.arange(SIGNED[0], SIGNED[1] + 1) / RAW_UNITS
    return IntegerEntropy(
        tuple(hyper),
        steps,
        HyperTables(
            gaussian_tables(SCALES),
            _nearest_scale(scale_of(raw).double().numpy()),
            _nearest_scale(model.log_z_scale.detach().double().exp().numpy()),
        ),
    )


def _step(step: ContextStep, hyper: Floats, out: dict[str, Floats]) -> tuple[IntegerLayer, ...]:
    latent = step.out.out_channels // 2
    first = _Inputs(
        np.concatenate([hyper, np.full(latent, 1 / CONTEXT_UNITS)]),
        np.repeat([UNSIGNED[0], CONTEXT[0]], (len(hyper), latent)),
        np.repeat([UNSIGNED[1], CONTEXT[1]], (len(hyper), latent)),
    )
    units = np.repeat([1 / MEAN_UNITS, 1 / RAW_UNITS], latent)
    stem, depthwise, mix = (_inputs(out[name], UNSIGNED) for name in ("stem", "depthwise", "mix"))
    return (
        _layer(step.stem, first, stem.scale, UNSIGNED),
        _layer(step.depthwise, stem, depthwise.scale, UNSIGNED),
        _layer(step.mix, depthwise, mix.scale, UNSIGNED),
        _layer(step.out, mix, units, MEANS),
    )


class _Inputs(NamedTuple):
    """Of each input channel: what 1 stands for, and the least and largest number."""

    scale: Floats
    low: NDArray[np.int64]
    high: NDArray[np.int64]


def _inputs(scale: Floats, limits: tuple[int, int]) -> _Inputs:
    return _Inputs(scale, *(np.full(len(scale), limit) for limit in limits))


def _layer(
    conv: nn.Conv2d, inputs: _Inputs, out: Floats, bounds: tuple[int, int], shuffle: int = 1,
    gain: Floats | None = None,
) -> IntegerLayer:  # fmt: skip
    """`out` is what 1 stands for in each output; `gain` (rates, outputs) multiplies them."""
    assert conv.bias is not None
    weight = conv.weight.detach().double().numpy()
    shape = (-1, 1, 1, 1) if conv.groups > 1 else (1, -1, 1, 1)
    units = weight * inputs.scale.reshape(shape)
    factors = np.ones((1, len(units))) if gain is None else gain
    # A rounding half of an output is part of the bias.
    offset = conv.bias.detach().double().numpy() + 0.5 * out / factors
    sums = sum_limits(units, inputs.low, inputs.high, conv.groups) + np.abs(offset).max(0)
    # As fine as the room of an exact sum allows, with some of it left for rounding.
    room = sums / (ROOM * EXACT)
    largest = np.abs(units).reshape(len(units), -1).max(1) / LARGEST_WEIGHT
    step = np.maximum(np.maximum(room, largest), 1e-12)
    multiplier = (step / out * factors).astype(np.float32)
    layer = IntegerLayer(
        np.rint(units / step[:, None, None, None]).astype(np.int16),
        np.rint(offset / step).astype(np.int32),
        multiplier,
        *bounds,
        groups=conv.groups,
        shuffle=shuffle,
    )
    layer.check(inputs.low, inputs.high)
    return layer


def _nearest_scale(scales: Floats) -> NDArray[np.uint8]:
    distance = np.abs(np.log(scales)[..., None] - np.log(SCALES))
    return np.asarray(distance.argmin(-1), np.uint8)


@torch.no_grad()
def _ranges(model: EntropyModel, latents: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Floats]:
    """For each layer, what 1 stands for in its channels once rectified (and shuffled)."""
    most: dict[str, Tensor] = {}
    with _watched(model, most):
        for y, rate in latents:
            model(y, rate)
    most["decoder.up1"] = most.pop("hyper_gain")
    return {
        name: (peak.clamp_min(1e-3 * float(peak.max()) + 1e-6) / UNSIGNED[1]).double().numpy()
        for name, peak in most.items()
    }


@contextmanager
def _watched(model: EntropyModel, most: dict[str, Tensor]) -> Iterator[None]:
    """Keep the peak of each channel of every layer in `most` while the model runs."""

    def watch(name: str) -> None:
        def keep(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            out = F.pixel_shuffle(out, 2) if ".up" in name else out
            peak = out.clamp_min(0).amax((0, 2, 3))
            most[name] = torch.maximum(most[name], peak) if name in most else peak

        hooks.append(model.get_submodule(name).register_forward_hook(keep))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        inside = name.startswith(("decoder.", "steps.")) and isinstance(module, nn.Conv2d)
        if (inside and name != "decoder.up1" and not name.endswith(".out")) or name == "hyper_gain":
            watch(name)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# The integer model on tensors: for measuring it; what codes runs the exported graphs.


def run_layers(layers: Sequence[IntegerLayer], x: Tensor, rate: int) -> Tensor:
    """Whole numbers in float32, (N, inputs, h, w)."""
    for layer in layers:
        row = min(rate, len(layer.bias) - 1)
        weight = torch.from_numpy(layer.weight).float()
        bias = torch.from_numpy(layer.bias[row]).float()
        x = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=layer.groups)
        factor = torch.from_numpy(layer.multiplier[row])[:, None, None]
        x = (x * factor).floor().clamp(layer.low, layer.high)
        x = F.pixel_shuffle(x, layer.shuffle) if layer.shuffle > 1 else x
    return x


@torch.no_grad()
def integer_bits(model: EntropyModel, integer: IntegerEntropy, y: Tensor, rate: int) -> float:
    """What a latent y (1, latent, h, w) costs under the integer model, in bits."""
    z = model.encoder(y).float().round()
    z_choice = np.repeat(integer.tables.z_scales[rate], z[0, 0].numel())
    bits = integer.tables.scales.bits(z.flatten().numpy().astype(np.int32), z_choice)
    hyper = run_layers(integer.hyper, z.clamp(*SIGNED), rate)
    decoded = torch.zeros_like(y)
    for layers, turn in zip(integer.steps, turns(y, len(integer.steps)), strict=True):
        predicted = _predict(integer, layers, hyper, decoded)
        mean = predicted.mean / MEAN_UNITS
        symbols = (y - mean).round()
        choice = predicted.scale[turn].numpy().astype(np.uint8)
        bits += integer.tables.scales.bits(symbols[turn].numpy().astype(np.int32), choice)
        decoded = decoded + torch.where(turn, symbols + mean, 0.0)
    return bits


def _predict(
    integer: IntegerEntropy, layers: Sequence[IntegerLayer], hyper: Tensor, decoded: Tensor
) -> Predicted:
    context = (decoded * CONTEXT_UNITS + 0.5).floor().clamp(*CONTEXT)
    mean, raw = run_layers(layers, torch.cat([hyper, context], 1), 0).long().chunk(2, 1)
    numbers = torch.from_numpy(integer.tables.scale_numbers).long()
    return Predicted(mean, numbers[raw.clamp(*SIGNED) - SIGNED[0]])
