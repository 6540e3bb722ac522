"""A checkpoint of the paper's model becomes a bundle of format 1.

checkpoint ─► fold batch norm ─► (round to float16) ─┬─► encoder, x_decoder, fusion ─► decoder
                                                     └─► symbols of frames ─► integer context
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from dsin.calibration.integer_context import quantise_context
from dsin.export import graphs
from dsin.export.bundle_files import (
    Precision,
    manifest_of,
    new_bundle,
    some_pairs,
    whole_frames,
    write_tables,
)
from dsin.export.calibration_frames import synthetic_pictures
from dsin.export.paper.context_graph import context_graph
from dsin.export.verify import Comparison, Frames, require, verify
from dsin.export.weights import save_graphs, store_as_half
from dsin.runtime.codec.bundle import CAUSAL
from dsin.runtime.entropy.context_model import IntegerContextModel
from dsin.runtime.errors import ExportError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.pictures import Image
from dsin.training.paper.autoencoder import STRIDE
from dsin.training.paper.model import Dsin
from dsin.training.presets import Preset

MOST_CENTERS = 255
VERIFIED_PAIRS = 2
"""Pairs of frames on which the graphs are compared with the model."""
VERIFIED_SIZE = (240, 624)
"""At most this much of their middle: the portable search costs the square of the area."""


def export_model(
    model: Dsin,
    out: Path,
    *,
    weights: Precision,
    calibration_frames: Sequence[Image] | None,
    name: str,
    notes: Mapping[str, Any],
) -> list[Comparison]:
    """As `dsin.export.write_bundle.write_bundle`, for a model in memory; `notes` go to the
    manifest."""
    _check_exportable(model.preset)
    folded = graphs.fold(model)
    if weights == "float16":
        graphs.round_to_half(folded)
    multiple = model.multiple
    with new_bundle(out) as partial:
        pictures = calibration_frames or synthetic_pictures()
        frames = whole_frames(pictures, multiple)
        context = _context(folded, frames)
        reference = folded if weights == "float16" else model
        write_graphs(folded, context, partial, half=weights == "float16")
        pairs = some_pairs(pictures, multiple, VERIFIED_SIZE, VERIFIED_PAIRS)
        comparisons = verify(partial, reference, context, [Frames(x, y) for x, y in pairs])
        require(comparisons)
        own = {
            "format": CAUSAL,
            "channels": model.preset.autoencoder.channels,
            "centers": model.preset.autoencoder.centers,
            "stride": STRIDE,
            "frame_multiple": list(multiple),
            "rate_points": [{"index": 0, "target_bpp": model.preset.loss.rate_target}],
            "default_rate": 0,
            "context_tables": "context.npz",
            "truncate_to_uint8": model.preset.quirks.truncate_to_uint8,
        }
        manifest = manifest_of(folded, partial, name, notes, comparisons, own)
        write_json(partial / MANIFEST, manifest)
    return comparisons


def write_graphs(
    folded: Dsin, context: IntegerContextModel, directory: Path, *, half: bool
) -> None:
    """Write all graphs, weights and tables of a folded model into an existing directory."""
    encoder = graphs.encoder_graph(folded)
    x_decoder, fusion = graphs.x_decoder_graph(folded), graphs.fusion_graph(folded)
    if half:
        for graph in (encoder, x_decoder, fusion):
            store_as_half(graph)
    decoder = graphs.decoder_graph(x_decoder, fusion, folded.preset)
    decoders = {"x_decoder": x_decoder, "fusion": fusion, "decoder": decoder}
    save_graphs(directory, {"encoder.weights": {"encoder": encoder}, "decoder.weights": decoders})
    onnx.save(context_graph(context), directory / "context.onnx")
    write_tables(directory / "context.npz", context.to_arrays())


def _check_exportable(preset: Preset) -> None:
    if preset.autoencoder.centers > MOST_CENTERS:
        raise ExportError(f"symbols are 8-bit: use at most {MOST_CENTERS} centers")
    if preset.search.measure == "l2" and preset.quirks.l2_prefers_far:
        raise ExportError("quirk l2_prefers_far is for training only: switch it off to export")


@torch.no_grad()
def _context(folded: Dsin, frames: Sequence[torch.Tensor]) -> IntegerContextModel:
    encoder = graphs.EncoderGraph(folded).eval()
    symbols = [encoder(frame)[0].numpy() for frame in frames]
    return quantise_context(folded.context, folded.quantiser.centers.detach(), symbols)
