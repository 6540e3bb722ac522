"""The `edge` model's networks as ONNX graphs, node by node.

    encoder     x (1, 3, H, W), rate int64 (1,)  ─►  y (1, latent, H/16, W/16), z (…, H/64, W/64)
    x_decoder   y_hat, rate  ─►  x_dec (1, 3, H, W) in 0..255, features (1, fine, H/8, W/8)
    fusion      x_dec, features, y_flow, y_blocks, doubt (1, 2, H/8, W/8), rate  ─►  x_hat
       or       x_dec, features, y_syn, y_dec_syn, cost (1, 1, H/8, W/8), rate  ─►  x_hat

Space to depth with a pointwise convolution is one strided convolution, and the scaling of pixels is
part of its weights: what is left is Conv, Relu, Add, Mul and DepthToSpace, one Gather for each gain
of the rate, and the fusion's logarithm of the cost.
"""

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from dsin.export.graph_builder import GraphBuilder, Value
from dsin.training.edge import fusion as edge_fusion
from dsin.training.edge.codec import CENTRE, PIXELS, SPREAD, Block, RateGain
from dsin.training.edge.model import EdgeDsin

FLOAT = TensorProto.FLOAT
Floats = NDArray[np.floating[Any]]

RATE: Value = ("rate", TensorProto.INT64, [1])


def encoder_graph(model: EdgeDsin) -> onnx.ModelProto:
    """Analysis transform and hyper-encoder."""
    net = _Network()
    encoder, hyper = model.encoder, model.entropy.encoder
    weight, bias = _parts(encoder.stem)
    bias = bias - CENTRE / SPREAD * weight.sum((1, 2, 3))
    x = net.conv("stem", "x", _strided(weight, 3) / SPREAD, bias)
    x = net.blocks("fine", x, encoder.fine)
    x = net.gain("fine_gain", x, encoder.fine_gain)
    x = net.halved("down", x, encoder.down)
    x = net.gain("coarse_gain", x, encoder.coarse_gain)
    x = net.blocks("coarse", x, encoder.coarse)
    x = net.conv("out", x, *_parts(encoder.out))
    y = net.times("steps", x, encoder.log_steps.exp(), "y")
    x = net.block("hyper_block0", net.conv("hyper_stem", y, *_parts(hyper.stem)), hyper.block0)
    x = net.block("hyper_block1", net.halved("hyper_down0", x, hyper.down0), hyper.block1)
    x = net.relu(net.halved("hyper_down1", x, hyper.down1))
    net.named(net.conv("hyper_out", x, *_parts(hyper.out)), "z")
    config = model.preset.codec
    return net.graph.model(
        "encoder",
        [("x", FLOAT, [1, 3, "H", "W"]), RATE],
        [("y", FLOAT, [1, config.latent, "h", "w"]), ("z", FLOAT, [1, config.hyper, "hh", "ww"])],
    )


def x_decoder_graph(model: EdgeDsin) -> onnx.ModelProto:
    """Synthesis transform; x_dec is clipped to 0..255."""
    net = _Network()
    decoder = model.decoder
    x = net.times("steps", "y_hat", decoder.log_steps.exp())
    x = net.conv("stem", x, *_parts(decoder.stem))
    x = net.gain("coarse_gain", x, decoder.coarse_gain)
    x = net.blocks("coarse", x, decoder.coarse)
    x = net.enlarged(net.conv("up", x, *_parts(decoder.up)), 2)
    x = net.gain("fine_gain", x, decoder.fine_gain)
    features = net.named(net.blocks("fine", x, decoder.fine), "features")
    weight, bias = _parts(decoder.out)
    x = net.enlarged(net.conv("out", features, weight * SPREAD, bias * SPREAD + CENTRE), PIXELS)
    net.clipped(x, "x_dec")
    config = model.preset.codec
    return net.graph.model(
        "x_decoder",
        [("y_hat", FLOAT, [1, config.latent, "h", "w"]), RATE],
        [("x_dec", FLOAT, [1, 3, "H", "W"]), ("features", FLOAT, [1, config.fine, "hh", "ww"])],
    )


def side_inputs(flow: bool) -> tuple[str, str, str]:
    """Names of what the fusion sees of a side image: two pictures, and the doubt about them."""
    return ("y_flow", "y_blocks", "doubt") if flow else ("y_syn", "y_dec_syn", "cost")


def fusion_graph(model: EdgeDsin) -> onnx.ModelProto:
    """Fusion; x_hat is clipped to 0..255."""
    net = _Network()
    fusion, config = model.fusion, model.preset.codec
    graph, (first, second, doubt) = net.graph, side_inputs(fusion.flow)
    colours = 3 * PIXELS**2
    weight, bias = _parts(fusion.stem)
    known, one, two, doubtful = np.split(weight, np.cumsum([config.fine, colours, colours]), axis=1)
    pairs = (first, "x_dec"), ((second, "x_dec") if fusion.flow else (first, second))
    seen = [
        graph.add("Sub", list(pair), name)
        for name, pair in zip(("first_in", "second_in"), pairs, strict=True)
    ]
    pictures = np.concatenate([_strided(one, 3), _strided(two, 3)], axis=1)
    both = graph.add("Concat", seen, "pictures", axis=1)
    x = net.conv("stem_pictures", both, pictures / edge_fusion.SPREAD, bias)
    bounded = graph.add("Min", [doubt, net.number("worst_cost", edge_fusion.WORST_COST)], "bound")
    log = graph.add("Log", [graph.add("Add", [bounded, net.number("one", 1)], "cost_1")], "log")
    scale = net.number("cost_scale", 1 / edge_fusion.COST_SPREAD)
    rest = ["features", graph.add("Mul", [log, scale], "doubt_in")]
    rest_of = np.concatenate([known, doubtful], axis=1)
    rest_in = graph.add("Concat", rest, "known", axis=1)
    x = graph.add("Add", [x, net.conv("stem_features", rest_in, rest_of)], "stem")
    x = net.blocks("blocks", net.gain("gain", x, fusion.gain), fusion.blocks)
    weight, bias = _parts(fusion.out)
    correction = net.conv("out", x, weight * edge_fusion.SPREAD, bias * edge_fusion.SPREAD)
    total = graph.add("Add", ["x_dec", net.enlarged(correction, PIXELS)], "total")
    net.clipped(total, "x_hat")
    picture: list[int | str] = [1, 3, "H", "W"]
    return graph.model(
        "fusion",
        [
            *((name, FLOAT, picture) for name in ("x_dec", first, second)),
            ("features", FLOAT, [1, config.fine, "h", "w"]),
            (doubt, FLOAT, [1, 2 if fusion.flow else 1, "h", "w"]),
            RATE,
        ],
        [("x_hat", FLOAT, picture)],
    )


class _Network:
    """Layers on a graph in the making; each method returns the name of its output."""

    def __init__(self) -> None:
        self.graph = GraphBuilder()

    def conv(
        self, name: str, source: str, weight: Floats, bias: Floats | None = None, groups: int = 1
    ) -> str:
        size = weight.shape[2]
        # 3×3 kernels see their neighbours; larger ones of even size are strided.
        strided = size % 2 == 0
        inputs = [source, self.graph.constant(f"{name}_weight", weight.astype(np.float32))]
        if bias is not None:
            inputs.append(self.graph.constant(f"{name}_bias", bias.astype(np.float32)))
        return self.graph.add(
            "Conv", inputs, name, group=groups, strides=[size if strided else 1] * 2,
            pads=[0 if strided else size // 2] * 4,
        )  # fmt: skip

    def halved(self, name: str, source: str, conv: nn.Conv2d) -> str:
        """Space to depth by 2, and a pointwise convolution."""
        weight, bias = _parts(conv)
        return self.conv(name, source, _strided(weight, weight.shape[1] // 4), bias)

    def enlarged(self, source: str, factor: int) -> str:
        return self.graph.add(
            "DepthToSpace", [source], f"{source}_large", blocksize=factor, mode="CRD"
        )

    def relu(self, source: str) -> str:
        return self.graph.add("Relu", [source], f"{source}_relu")

    def block(self, name: str, source: str, block: nn.Module) -> str:
        assert isinstance(block, Block)
        x = self.relu(self.conv(f"{name}_inner", source, *_parts(block.inner)))
        x = self.conv(
            f"{name}_depthwise", x, *_parts(block.depthwise), groups=block.inner.out_channels
        )
        x = self.conv(f"{name}_outer", x, *_parts(block.outer))
        middle = self.graph.add("Add", [source, x], f"{name}_middle")
        x = self.relu(self.conv(f"{name}_expand", middle, *_parts(block.expand)))
        x = self.conv(f"{name}_shrink", x, *_parts(block.shrink))
        return self.graph.add("Add", [middle, x], name)

    def blocks(self, name: str, source: str, blocks: nn.Sequential) -> str:
        for number, block in enumerate(blocks):
            source = self.block(f"{name}{number}", source, block)
        return source

    def gain(self, name: str, source: str, gain: RateGain) -> str:
        return self.times(name, source, gain.factor)

    def times(self, name: str, source: str, factor: Tensor, output: str | None = None) -> str:
        """Multiply by the row of (rates, channels) that the rate names."""
        rows = self.graph.constant(f"{name}_rows", _array(factor)[:, :, None, None])
        row = self.graph.add("Gather", [rows, "rate"], f"{name}_row", axis=0)
        return self.graph.add("Mul", [source, row], output or name)

    def number(self, name: str, value: float) -> str:
        return self.graph.constant(name, np.array(value, np.float32))

    def clipped(self, source: str, output: str) -> str:
        ends = [self.number("black", 0), self.number("white", 255)]
        return self.graph.add("Clip", [source, *ends], output)

    def named(self, source: str, output: str) -> str:
        return self.graph.add("Identity", [source], output)


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().float().numpy(), np.float32)


def _parts(conv: nn.Conv2d) -> tuple[Floats, Floats]:
    assert conv.bias is not None
    return _array(conv.weight), _array(conv.bias)


def _strided(weight: Floats, channels: int) -> Floats:
    """(outputs, channels · s², 1, 1) after space to depth, as (outputs, channels, s, s)."""
    side = int(np.sqrt(weight.shape[1] // channels))
    return weight.reshape(len(weight), channels, side, side)


@torch.no_grad()
def round_to_half(model: EdgeDsin) -> None:
    """Round the kernels of the graphs (not those of the entropy model, which become integers) to
    float16 values, in place; they remain float32."""
    for part in (model.encoder, model.entropy.encoder, model.decoder, model.fusion):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.half().float())
