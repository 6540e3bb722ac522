"""Weights of the `edge` model from the graphs and tables of a bundle of format 2.

The inverse of `dsin.export.edge.graphs` and, but for rounding, of
`dsin.calibration.integer_entropy`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsin.calibration.integer_entropy import RAW_UNITS, SCALES, UNSIGNED
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.entropy.hyper_codec import HyperTables
from dsin.runtime.entropy.hyper_kernels import CONTEXT_UNITS, MEAN_UNITS
from dsin.training.edge import fusion as edge_fusion
from dsin.training.edge.codec import (
    CENTRE,
    PIXELS,
    SPREAD,
    Block,
    EdgeDecoder,
    EdgeEncoder,
    RateGain,
)
from dsin.training.edge.entropy import ContextStep, EntropyModel, HyperDecoder, HyperEncoder
from dsin.training.edge.model import EdgeDsin

Arrays = Mapping[str, NDArray[Any]]
PEAK = 4.0
"""What the largest integer activation becomes; any value gives the same predictions."""
UNIT = PEAK / UNSIGNED[1]
DEAD = 50.0
"""Magnitude of weights that only features have which calibration never saw at work: their integers
have no scale. They come back as zeros; as they are, they would overflow when trained on."""


def restore(model: EdgeDsin, graphs: Mapping[str, Arrays], bundle: Bundle) -> None:
    """Fill the model, in place. Raises KeyError, ValueError or RuntimeError for other graphs."""
    _encoder(model.encoder, model.entropy.encoder, graphs["encoder"])
    _decoder(model.decoder, graphs["x_decoder"])
    _fusion(model.fusion, graphs["fusion"], model.preset.codec.fine)
    _entropy(model.entropy, graphs, bundle.hyper_tables)


def _encoder(encoder: EdgeEncoder, hyper: HyperEncoder, stored: Arrays) -> None:
    weight, bias = _shuffled(stored["stem_weight"]) * SPREAD, stored["stem_bias"]
    _fill(encoder.stem, weight, bias + CENTRE / SPREAD * weight.sum((1, 2, 3)))
    _blocks("fine", encoder.fine, stored)
    _gain("fine_gain", encoder.fine_gain, stored)
    _conv("down", encoder.down, stored)
    _gain("coarse_gain", encoder.coarse_gain, stored)
    _blocks("coarse", encoder.coarse, stored)
    _conv("out", encoder.out, stored)
    encoder.log_steps.copy_(_rows("steps", stored).log())
    for name in ("stem", "down0", "down1", "out"):
        _conv(f"hyper_{name}", getattr(hyper, name), stored)
    for name in ("block0", "block1"):
        _block(f"hyper_{name}", getattr(hyper, name), stored)


def _decoder(decoder: EdgeDecoder, stored: Arrays) -> None:
    decoder.log_steps.copy_(_rows("steps", stored).log())
    for name in ("stem", "up"):
        _conv(name, getattr(decoder, name), stored)
    for name in ("coarse", "fine"):
        _blocks(name, getattr(decoder, name), stored)
        _gain(f"{name}_gain", getattr(decoder, f"{name}_gain"), stored)
    _fill(decoder.out, stored["out_weight"] / SPREAD, (stored["out_bias"] - CENTRE) / SPREAD)


def _fusion(fusion: edge_fusion.EdgeFusion, stored: Arrays, fine: int) -> None:
    pictures = _shuffled(stored["stem_pictures_weight"]) * edge_fusion.SPREAD
    known, doubt = np.split(stored["stem_features_weight"], [fine], axis=1)
    assert pictures.shape[1] == 6 * PIXELS**2
    _fill(fusion.stem, np.concatenate([known, pictures, doubt], 1), stored["stem_pictures_bias"])
    _gain("gain", fusion.gain, stored)
    _blocks("blocks", fusion.blocks, stored)
    _fill(fusion.out, *(stored[f"out_{part}"] / edge_fusion.SPREAD for part in ("weight", "bias")))


def _entropy(model: EntropyModel, graphs: Mapping[str, Arrays], tables: HyperTables) -> None:
    _hyper_decoder(model.decoder, model.hyper_gain, graphs["hyper"])
    for number, step in enumerate(model.steps):
        assert isinstance(step, ContextStep)
        _step(step, graphs[f"step{number}"])
    model.log_z_scale.copy_(_tensor(np.log(SCALES[tables.z_scales])))


def _hyper_decoder(decoder: HyperDecoder, gain: RateGain, stored: Arrays) -> None:
    inputs: float = 1.0
    for number, name in enumerate(("stem", "up0", "middle")):
        _integer(getattr(decoder, name), stored, number, inputs, UNIT)
        inputs = UNIT
    # The last layer's rates differ by the gain alone.
    multiplier = stored["layer3_multiplier"][:, :, 0, 0].astype(np.float64)
    gain.factor.copy_(_tensor((multiplier / multiplier[:1])[:, ::4]))
    _integer(decoder.up1, stored, 3, UNIT, UNIT)


def _step(step: ContextStep, stored: Arrays) -> None:
    latent = step.out.out_channels // 2
    known = step.stem.in_channels - latent
    first = np.repeat([UNIT, 1 / CONTEXT_UNITS], (known, latent))
    _integer(step.stem, stored, 0, first, UNIT)
    _integer(step.depthwise, stored, 1, UNIT, UNIT)
    _integer(step.mix, stored, 2, UNIT, UNIT)
    _integer(step.out, stored, 3, UNIT, np.repeat([1 / MEAN_UNITS, 1 / RAW_UNITS], latent))


def _integer(
    conv: nn.Conv2d, stored: Arrays, number: int,
    inputs: float | NDArray[np.float64], outputs: float | NDArray[np.float64],
) -> None:  # fmt: skip
    """An integer layer, at rate 0; `inputs` and `outputs` are what 1 stands for."""
    weight, bias, multiplier = (
        stored[f"layer{number}_{part}"].astype(np.float64)
        for part in ("weight", "bias", "multiplier")
    )
    size = conv.kernel_size[0]
    if size > 1 and conv.groups == 1:
        # (outputs, shift by shift) to (outputs, inputs, k, k); see
        # `dsin.export.edge.integer_graph`.
        weight = weight.reshape(len(weight), size, size, -1).transpose(0, 3, 1, 2)
    factor = multiplier[0].ravel()
    scale = np.broadcast_to(inputs, weight.shape[1])
    out = np.broadcast_to(outputs, len(weight))
    units = weight * (factor * out)[:, None, None, None] / scale[None, :, None, None]
    offsets = (bias[0].ravel() * factor - 0.5) * out
    dead = np.maximum(np.abs(units).max((1, 2, 3)), np.abs(offsets)) > DEAD
    units[dead], offsets[dead] = 0, 0
    _fill(conv, units, offsets)


def _conv(name: str, conv: nn.Conv2d, stored: Arrays) -> None:
    weight = stored[f"{name}_weight"]
    strided = weight.shape[2] != conv.kernel_size[0]
    _fill(conv, _shuffled(weight) if strided else weight, stored[f"{name}_bias"])


def _block(name: str, block: nn.Module, stored: Arrays) -> None:
    assert isinstance(block, Block)
    for layer in ("inner", "depthwise", "outer", "expand", "shrink"):
        _conv(f"{name}_{layer}", getattr(block, layer), stored)


def _blocks(name: str, blocks: nn.Sequential, stored: Arrays) -> None:
    for number, block in enumerate(blocks):
        _block(f"{name}{number}", block, stored)


def _gain(name: str, gain: RateGain, stored: Arrays) -> None:
    gain.factor.copy_(_rows(name, stored))


def _rows(name: str, stored: Arrays) -> Tensor:
    return _tensor(stored[f"{name}_rows"][:, :, 0, 0])


def _shuffled(weight: NDArray[Any]) -> NDArray[Any]:
    """(outputs, channels, s, s) of stride s, as (outputs, channels · s², 1, 1)."""
    return weight.reshape(len(weight), -1, 1, 1)


def _fill(conv: nn.Conv2d, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    assert conv.bias is not None
    if conv.weight.shape != weight.shape:
        raise ValueError(f"a kernel is {weight.shape}, not {tuple(conv.weight.shape)}")
    conv.weight.copy_(_tensor(weight))
    conv.bias.copy_(_tensor(bias))


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))
