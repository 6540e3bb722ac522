"""PyTorch modules to ONNX graphs: encoder, x_decoder and fusion, for inference.

Batch norm is folded into the convolutions first, so that the graphs consist of plain Conv,
ConvTranspose, Relu and Add. Height and width are dynamic, the batch is 1.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx.compose
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dsin.export import patch_correlation_op
from dsin.export.graph_notes import PICTURES, describe, padding, positions
from dsin.runtime.errors import ExportError
from dsin.training.paper.autoencoder import STRIDE, Down, ResidualBlock, Up
from dsin.training.paper.model import Dsin
from dsin.training.presets import Preset

OPSET = 18
LARGEST_HALF = 65504.0
"""The largest finite float16."""


class EncoderGraph(nn.Module):
    """`x` float32 (1, 3, H, W) RGB 0..255 to `symbols` uint8 (1, C, H/8, W/8)."""

    centers: Tensor

    def __init__(self, model: Dsin) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.register_buffer("centers", model.quantiser.centers.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        distance = (self.latent(x).unsqueeze(1) - self.centers.view(1, -1, 1, 1, 1)).square()
        # ArgMin takes the first of equal distances, as the quantiser does.
        return distance.argmin(1).to(torch.uint8)

    def latent(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x).z
        return z


class DecoderGraph(nn.Module):
    """`symbols` uint8 (1, C, h, w) to `x_dec` float32 (1, 3, 8h, 8w) in 0..255."""

    centers: Tensor

    def __init__(self, model: Dsin) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.register_buffer("centers", model.quantiser.centers.detach().clone())

    def forward(self, symbols: Tensor) -> Tensor:
        x_dec: Tensor = self.decoder(self.centers[symbols.long()])
        return x_dec


class FusionGraph(nn.Module):
    """`x_dec`, `y_syn` float32 (1, 3, H, W) in 0..255 to `x_hat` of the same kind."""

    def __init__(self, model: Dsin) -> None:
        super().__init__()
        self.fusion = model.fusion

    def forward(self, x_dec: Tensor, y_syn: Tensor) -> Tensor:
        x_hat: Tensor = self.fusion(x_dec, y_syn).clamp(0, 255)
        return x_hat


def fold(model: Dsin) -> Dsin:
    """A copy for inference whose convolutions contain their batch norms."""
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        if isinstance(module, Down | Up):
            transpose = isinstance(module, Up)
            module.conv = fuse_conv_bn_eval(module.conv, module.norm, transpose)
            module.norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, ResidualBlock):
            module.conv1 = fuse_conv_bn_eval(module.conv1, module.norm1)
            module.conv2 = fuse_conv_bn_eval(module.conv2, module.norm2)
            module.norm1 = module.norm2 = nn.Identity()  # type: ignore[assignment]
    return folded.requires_grad_(False)


def convolution_weights(model: Dsin) -> Iterator[tuple[str, Tensor]]:
    """The kernels of the graphs (not those of the context model): what float16 storage rounds."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield f"{name}.weight", module.weight


def round_to_half(model: Dsin) -> None:
    """Round the kernels of a folded model to float16 values, in place; they remain float32.

    Raises ExportError where a weight has no finite float16 neighbour.
    """
    for name, weight in convolution_weights(model):
        largest = float(weight.abs().max())
        if largest > LARGEST_HALF:
            raise ExportError(
                f"{name} reaches {largest:.3g}, beyond float16: use --weights float32"
            )
        weight.data = weight.data.half().float()


def _to_graph(
    module: nn.Module, inputs: dict[str, Tensor], output: str, stride: int
) -> onnx.ModelProto:
    """Export a module; axes 2 and 3 of all inputs are dynamic, in multiples of `stride`."""
    height, width = torch.export.Dim("h", min=2, max=4096), torch.export.Dim("w", min=2, max=4096)
    axes = {2: stride * height, 3: stride * width} if stride > 1 else {2: height, 3: width}
    with quiet("torch.onnx", "onnxscript"):
        program = torch.onnx.export(
            module.eval(),
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(inputs, axes),
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ExportError(f"torch.onnx exported nothing for {output}")
    graph = program.model_proto
    _strip(graph)
    return graph


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silence warnings, and loggers that comment on every export."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(graph: onnx.ModelProto) -> None:
    """Drop the exporter's notes: traces of source files, and value shapes that ORT infers."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*graph.graph.input, *graph.graph.output]:
        del value.metadata_props[:]
    for tensor in graph.graph.initializer:
        del tensor.metadata_props[:]


def encoder_graph(model: Dsin) -> onnx.ModelProto:
    """`x` to `symbols`, from a folded model."""
    x = torch.zeros(1, 3, 80, 96)
    graph = _to_graph(EncoderGraph(model), {"x": x}, "symbols", STRIDE)
    # Strided convolutions leave the exporter with nameless sizes.
    for axis, name in ((2, "h"), (3, "w")):
        graph.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = name
    return graph


def x_decoder_graph(model: Dsin) -> onnx.ModelProto:
    """`symbols` to `x_dec`, from a folded model."""
    symbols = torch.zeros(1, model.preset.autoencoder.channels, 10, 12, dtype=torch.uint8)
    return _to_graph(DecoderGraph(model), {"symbols": symbols}, "x_dec", 1)


def fusion_graph(model: Dsin) -> onnx.ModelProto:
    """`x_dec` and `y_syn` to `x_hat`, from a folded model."""
    images = {name: torch.zeros(1, 3, 80, 96) for name in ("x_dec", "y_syn")}
    return _to_graph(FusionGraph(model), images, "x_hat", STRIDE)


def decoder_graph(
    x_decoder: onnx.ModelProto, fusion: onnx.ModelProto, preset: Preset
) -> onnx.ModelProto:
    """The whole decoder: both graphs around one PatchCorrelation node.

    `symbols`, `y_dec`, `y` to `x_hat`, `x_dec`, `y_syn`, `row`, `col`, `score`; its metadata
    says what they are. Made of the very nodes and weights of the cut graphs, so that whole and cut
    cannot drift apart.
    """
    first, last = (
        onnx.compose.add_prefix(graph, prefix, rename_inputs=False, rename_outputs=False).graph
        for graph, prefix in ((x_decoder, "x_decoder/"), (fusion, "fusion/"))
    )
    search = patch_correlation_op.node(preset.search)
    side = [onnx.ValueInfoProto() for _ in range(2)]
    for value, name in zip(side, ("y_dec", "y"), strict=True):
        value.CopyFrom(first.output[0])
        value.name = name
    y_syn = next(value for value in last.input if value.name == "y_syn")
    graph = onnx.helper.make_graph(
        [*first.node, search, *last.node],
        "decoder",
        [*first.input, *side],
        [*last.output, *first.output, y_syn, *patch_correlation_op.positions()],
        [*first.initializer, *last.initializer],
    )
    model = onnx.helper.make_model(
        graph,
        functions=patch_correlation_op.functions(preset.search.measure),
        opset_imports=[
            onnx.helper.make_opsetid("", OPSET),
            onnx.helper.make_opsetid(patch_correlation_op.DOMAIN, 1),
        ],
        ir_version=x_decoder.ir_version,
        producer_name="dsin",
    )
    describe(model, _decoder_notes(preset))
    return model


def _decoder_notes(preset: Preset) -> dict[str, str]:
    patch = preset.search.patch
    multiple = math.lcm(STRIDE, patch[0]), math.lcm(STRIDE, patch[1])
    return {
        "symbols": f"indices of centers, 0 to {preset.autoencoder.centers - 1}; h and w are the "
        f"height and width of the padded picture over {STRIDE}",
        **PICTURES,
        **positions(patch),
        "padding": padding(multiple),
    }
