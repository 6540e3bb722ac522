"""A further fusion in a bundle, for the same packets: another look that a server may choose.

bundle ─────────────────────────────┐
checkpoint ─► fusion ─► fusion_LOOK ┴─► bundle with that look
              └─► 8 bits, where the bundle has 8-bit networks, calibrated on frames
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from dsin.export.bundle_files import INT8_MARK, LOOK_MARK, file_table, new_bundle
from dsin.export.derived_weights import store_once
from dsin.export.edge.graphs import fusion_graph, round_to_half
from dsin.export.edge.refit import require_same_codec
from dsin.export.int8_bundle import (
    Features8,
    features_in_bundle,
    graph_inputs,
    integer_graph,
    quantise_fusion,
)
from dsin.export.weights import save_graphs, store_as_half
from dsin.runtime.codec.bundle import FAITHFUL, Bundle, Look, open_bundle, with_look
from dsin.runtime.codec.bundle import LEVELS as BYTES
from dsin.runtime.codec.precision import float_networks
from dsin.runtime.errors import ExportError, FrameError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.pictures import Image
from dsin.training.checkpoint import load_edge_checkpoint
from dsin.training.edge.model import EdgeDsin


def add_look(
    source: Path | str | None, look: Look, checkpoint: Path, frames: Sequence[Image], out: Path
) -> None:
    """Write the bundle `source` with the fusion of a checkpoint, trained with `source`'s codec
    frozen, as a look beside its own. `frames`, RGB H×W×3 uint8 whose neighbours serve as pairs,
    are what 8-bit networks are calibrated on; without such networks they are not looked at.

    Raises BundleError for what is no bundle, CheckpointError for what is no checkpoint of an edge
    model, FrameError where frames are needed and there are none, ExportError where codec or search
    are not the bundle's, or where `out` is in the way; then nothing is left behind.
    """
    bundle = open_bundle(source)
    if bundle.look != FAITHFUL or look == FAITHFUL:
        raise ExportError("a look goes beside a bundle's own fusion, which is faithful")
    model, notes = load_edge_checkpoint(checkpoint)
    graphs = _graphs(bundle, model, checkpoint, frames)
    with new_bundle(out) as partial:
        for name in bundle.file_bytes:
            if not name.startswith(f"{LOOK_MARK}{look}."):
                shutil.copy2(bundle.path / name, partial / name)
        files = {}
        for kind, graph in graphs.items():
            mark = INT8_MARK if kind == "int8" else "."
            name = f"{LOOK_MARK}{look}{mark}"
            save_graphs(partial, {f"{name}weights": {name.rstrip("."): graph}})
            files[kind] = f"{name}onnx"
        store_once(partial)
        write_json(partial / MANIFEST, _manifest(bundle, look, files, notes, partial))
        with_look(open_bundle(partial), look)


def _manifest(
    bundle: Bundle, look: Look, files: dict[str, str], notes: dict[str, Any], directory: Path
) -> dict[str, Any]:
    old = json.loads((bundle.path / MANIFEST).read_text())
    training = old.get("training", {})
    known = {k: v for k, v in notes.items() if k != "weights_licence"}
    return {
        **old,
        "looks": {**old.get("looks", {}), look: files},
        "training": {**training, "looks": {**training.get("looks", {}), look: known}},
        "files": file_table(directory),
    }


def _graphs(
    bundle: Bundle, model: EdgeDsin, checkpoint: Path, frames: Sequence[Image]
) -> dict[str, onnx.ModelProto]:
    """The fusion of a checkpoint, "fusion", and where the bundle has such networks "int8"."""
    if bundle.family != "edge" or "calibration" in bundle.training:
        raise ExportError(f"bundle {bundle.path.name} cannot get a look: name a float edge bundle")
    require_same_codec(bundle, model, checkpoint)
    if model.preset.search != bundle.search:
        raise ExportError(f"{checkpoint} was trained for another search than {bundle.path.name}'s")
    # 8-bit weights follow from those that are stored.
    round_to_half(model.requires_grad_(False))
    graph = fusion_graph(model)
    store_as_half(graph)
    if not bundle.int8:
        return {"fusion": graph}
    if not frames:
        raise FrameError(f"bundle {bundle.path.name} has 8-bit networks: give frames to calibrate")
    runs = graph_inputs(float_networks(bundle), frames)
    quantised = quantise_fusion(fusion_graph(model), runs["fusion"], _features(bundle), "cpu")
    return {"fusion": graph, "int8": integer_graph(quantised.model, "cpu")}


def _features(bundle: Bundle) -> Features8:
    """How the bundle's 8-bit decoder yields its features."""
    if bundle.int8.get("pictures") != BYTES:
        raise ExportError(
            f"bundle {bundle.path.name} has 8-bit networks of an earlier version: make them anew "
            "with dsin-export int8"
        )
    return features_in_bundle(bundle.path / bundle.int8["graphs"]["x_decoder"])
