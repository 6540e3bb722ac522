"""Another fusion for a bundle's packets: the codec stays, byte for byte, and so does its id.

    bundle ─► encoder, entropy model, x_decoder ─┐
    checkpoint ─► fusion, search ────────────────┴─► bundle of the same codec

What is trained is only what a server does with a packet, so devices need not know.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsin.export.bundle_files import copy_files, file_table, new_bundle, search_table
from dsin.export.edge.graphs import fusion_graph
from dsin.export.half_graph import read_graph
from dsin.export.restore import restore_model
from dsin.export.weights import save_graphs, store_as_half
from dsin.runtime.codec.bundle import FAITHFUL, Bundle, open_bundle
from dsin.runtime.errors import ExportError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.training.checkpoint import load_edge_checkpoint
from dsin.training.edge.model import EdgeDsin
from dsin.training.presets import preset_to_dict

WEIGHTS = "decoder.weights"
"""The file that x_decoder and fusion share."""


def refit_bundle(source: Path | str | None, checkpoint: Path, out: Path) -> None:
    """Write the bundle `source` with the fusion and the search of a checkpoint that was trained
    with `source`'s codec frozen. It has float networks only.

    Raises BundleError for what is no bundle, CheckpointError for what is no checkpoint of an edge
    model, ExportError where its codec is not the bundle's, for an 8-bit bundle, or where `out` is
    in the way; then nothing is left behind.
    """
    bundle = open_bundle(source)
    if bundle.family != "edge" or "calibration" in bundle.training or bundle.look != FAITHFUL:
        raise ExportError(
            f"bundle {bundle.path.name} cannot get another fusion: name a float edge bundle"
        )
    model, notes = load_edge_checkpoint(checkpoint)
    require_same_codec(bundle, model, checkpoint)
    with new_bundle(out) as partial:
        written = {bundle.graphs["x_decoder"], bundle.graphs["fusion"], WEIGHTS}
        copy_files(bundle, partial, but=written)
        fusion = fusion_graph(model)
        graphs = {"x_decoder": read_graph(bundle.graph_path("x_decoder")), "fusion": fusion}
        for graph in graphs.values():
            store_as_half(graph)
        save_graphs(partial, {WEIGHTS: graphs})
        write_json(partial / MANIFEST, _manifest(bundle, model, notes, partial))
        open_bundle(partial)


@torch.no_grad()
def require_same_codec(bundle: Bundle, model: EdgeDsin, checkpoint: Path) -> None:
    """Raise ExportError where a checkpoint's model codes otherwise than a bundle."""
    stored = restore_model(bundle)
    assert isinstance(stored, EdgeDsin)
    own = {
        name: weight for name, weight in stored.state_dict().items()
        if not name.startswith("fusion.")
    }  # fmt: skip
    given = model.state_dict()
    for name, weight in own.items():
        if name not in given or not _same(weight, given[name]):
            raise ExportError(
                f"{checkpoint} has another codec than bundle {bundle.path.name} ({name} differs): "
                "train the fusion alone, with freeze_codec, from dsin-export checkpoint"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    """But for rounding to float16."""
    return one.shape == other.shape and np.allclose(one, other, rtol=2e-3, atol=1e-4)


def _manifest(
    bundle: Bundle, model: EdgeDsin, notes: dict[str, Any], directory: Path
) -> dict[str, Any]:
    old = json.loads((bundle.path / MANIFEST).read_text())
    for name in ("int8", "looks"):  # of another fusion
        old.pop(name, None)
    training = {
        k: v for k, v in old.get("training", {}).items() if k not in ("export", "metrics", "looks")
    }
    fusion = {k: v for k, v in notes.items() if k != "weights_licence"}
    return {
        **old,
        "preset": preset_to_dict(model.preset),
        "search": search_table(model.preset.search),
        "graphs": {**old["graphs"], "x_decoder": "x_decoder.onnx", "fusion": "fusion.onnx"},
        "training": {**training, "fusion": fusion},
        "files": file_table(directory),
        "weights_licence": str(notes.get("weights_licence", bundle.weights_licence)),
    }
