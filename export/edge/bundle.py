"""A checkpoint of the `edge` model becomes a bundle of format 2.

checkpoint ─► (round to float16) ─┬─► encoder, x_decoder, fusion
                                  └─► latents of frames ─► integer entropy model ─► hyper, step…
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsin.calibration.integer_entropy import IntegerEntropy, integer_bits, quantise_entropy
from dsin.export.bundle_files import (
    Precision,
    manifest_of,
    new_bundle,
    some_pairs,
    whole_frames,
    write_tables,
)
from dsin.export.calibration_frames import synthetic_pictures
from dsin.export.edge import graphs as edge_graphs
from dsin.export.edge.integer_graph import hyper_graph, step_graph
from dsin.export.edge.verify import verify_edge
from dsin.export.verify import Comparison, require
from dsin.export.weights import save_graphs, store_as_half
from dsin.runtime.codec.bundle import HYPERPRIOR
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.pictures import Image
from dsin.training.edge.codec import STRIDE
from dsin.training.edge.model import MULTIPLE, EdgeDsin

VERIFIED_PAIRS = 2
VERIFIED_SIZE = (320, 640)
MEASURED_FRAMES = 8
"""Frames whose bits give the rate points their names."""
DEFAULT_BPP = 0.06
"""The default rate point is the one nearest to this."""
MULTIPLES = (MULTIPLE, MULTIPLE)


def export_edge_model(
    model: EdgeDsin,
    out: Path,
    *,
    weights: Precision,
    calibration_frames: Sequence[Image] | None,
    name: str,
    notes: Mapping[str, Any],
) -> list[Comparison]:
    """As `dsin.export.write_bundle.write_bundle`, for a model in memory; `notes` go to the
    manifest."""
    rounded = copy.deepcopy(model).eval().requires_grad_(False)
    if weights == "float16":
        edge_graphs.round_to_half(rounded)
    with new_bundle(out) as partial:
        pictures = calibration_frames or synthetic_pictures()
        frames = whole_frames(pictures, MULTIPLES)
        latents = _latents(rounded, frames)
        integer = quantise_entropy(rounded.entropy, latents)
        write_edge_graphs(rounded, integer, partial, half=weights == "float16")
        pairs = some_pairs(pictures, MULTIPLES, VERIFIED_SIZE, VERIFIED_PAIRS)
        comparisons = verify_edge(partial, rounded, integer, pairs)
        require(comparisons)
        rates = _bits_per_pixel(rounded, integer, frames[:MEASURED_FRAMES])
        own = {
            "format": HYPERPRIOR,
            "channels": model.preset.codec.latent,
            "stride": STRIDE,
            "frame_multiple": list(MULTIPLES),
            "rate_points": [
                {"index": index, "target_bpp": round(bpp, 4)} for index, bpp in enumerate(rates)
            ],
            "default_rate": int(np.abs(np.array(rates) - DEFAULT_BPP).argmin()),
            "entropy_tables": "entropy.npz",
            "truncate_to_uint8": False,
        }
        manifest = manifest_of(rounded, partial, name, notes, comparisons, own)
        write_json(partial / MANIFEST, manifest)
    return comparisons


def write_edge_graphs(
    model: EdgeDsin, integer: IntegerEntropy, directory: Path, *, half: bool
) -> None:
    """Write all graphs, weights and tables into an existing directory."""
    networks = {
        "encoder": edge_graphs.encoder_graph(model),
        "x_decoder": edge_graphs.x_decoder_graph(model),
        "fusion": edge_graphs.fusion_graph(model),
    }
    if half:
        for graph in networks.values():
            store_as_half(graph)
    # Half of a float32 has no use for the exact graphs: their weights have up to 13 bits.
    entropy = {"hyper": hyper_graph(integer.hyper)}
    entropy |= {f"step{n}": step_graph(layers) for n, layers in enumerate(integer.steps)}
    weights = {"encoder.weights": {"encoder": networks.pop("encoder")}}
    weights |= {"decoder.weights": networks, "entropy.weights": entropy}
    save_graphs(directory, weights)
    write_tables(directory / "entropy.npz", integer.tables.to_arrays())


@torch.no_grad()
def _latents(
    model: EdgeDsin, frames: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Latents of all frames, at three rates each."""
    count = model.preset.codec.rates
    return [
        (model.encoder(frame, rate), rate)
        for number, frame in enumerate(frames)
        for rate in (torch.tensor([(3 * number + k) % count]) for k in range(3))
    ]


@torch.no_grad()
def _bits_per_pixel(
    model: EdgeDsin, integer: IntegerEntropy, frames: Sequence[torch.Tensor]
) -> list[float]:
    """What the frames cost on average at each rate."""
    means = []
    for rate in range(model.preset.codec.rates):
        index = torch.tensor([rate])
        costs = [
            integer_bits(model.entropy, integer, model.encoder(frame, index), rate)
            / frame[0, 0].numel()
            for frame in frames
        ]
        means.append(float(np.mean(costs)))
    return means
