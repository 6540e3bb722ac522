"""The 8-bit networks of a bundle of both precisions, made or stored anew: also those of its looks.

What dsin makes of such networks gets faster and smaller with its versions; codec and float networks
stay.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from dsin.export.bundle_files import INT8_MARK, LOOK_MARK, file_table, new_bundle
from dsin.export.derived_weights import store_once, store_whole
from dsin.export.edge.combine import WEIGHTS
from dsin.export.half_graph import read_graph
from dsin.export.int8_bundle import (
    calibration_note,
    features_of,
    graph_inputs,
    integer_graph,
    quantise_fusion,
    quantised_graphs,
    require_frames,
)
from dsin.export.weights import save_graphs
from dsin.runtime.codec.bundle import FAITHFUL, INT8_GRAPHS, Bundle, open_bundle
from dsin.runtime.codec.precision import float_networks
from dsin.runtime.errors import ExportError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.pictures import Image


def recalibrate_bundle(source: Path | str | None, frames: Sequence[Image], out: Path) -> None:
    """Write the bundle `source` with new 8-bit networks, calibrated on `frames` (RGB H×W×3 uint8,
    neighbours serve as pairs).

    Raises BundleError for what is not a bundle, FrameError for too few or unfit frames, ExportError
    for a bundle without 8-bit networks beside its float ones, or where `out` is in the way; then
    nothing is left behind.
    """
    bundle = _open_both(source)
    require_frames(frames)
    models = _networks(bundle, frames)
    names = {name: f"{name}{INT8_MARK}onnx" for name in INT8_GRAPHS}
    looks = {
        look: {**files, "int8": f"{LOOK_MARK}{look}{INT8_MARK}onnx"}
        for look, files in bundle.looks.items()
    }
    with new_bundle(out) as partial:
        for name in bundle.file_bytes:
            if INT8_MARK not in name:
                shutil.copy2(bundle.path / name, partial / name)
        save_graphs(partial, models)
        store_once(partial)
        manifest: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text())
        manifest["int8"] = {**calibration_note("cpu", frames), "graphs": names}
        if looks:
            manifest["looks"] = looks
        write_json(partial / MANIFEST, {**manifest, "files": file_table(partial)})
        open_bundle(partial)


def repack_bundle(source: Path | str | None, out: Path) -> None:
    """Write the bundle `source` with the 8-bit networks that it has, their weights stored in as
    little space as this version can: packets and pictures stay.

    Raises as `recalibrate_bundle` does.
    """
    bundle = _open_both(source)
    with new_bundle(out) as partial:
        for name in bundle.file_bytes:
            shutil.copy2(bundle.path / name, partial / name)
        store_whole(partial)
        store_once(partial)
        manifest: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text())
        write_json(partial / MANIFEST, {**manifest, "files": file_table(partial)})
        open_bundle(partial)


def _open_both(source: Path | str | None) -> Bundle:
    bundle = open_bundle(source)
    if not bundle.int8 or bundle.look != FAITHFUL:
        raise ExportError(
            f"bundle {bundle.path.name} must be one with float and 8-bit networks, without a look: "
            "make it with dsin calibrate and dsin-export combine"
        )
    return bundle


def _networks(bundle: Bundle, frames: Sequence[Image]) -> dict[str, dict[str, onnx.ModelProto]]:
    """8-bit graphs by the names of their files, in those of their weights."""
    mark = INT8_MARK.rstrip(".")
    floats = float_networks(bundle)
    runs = graph_inputs(floats, frames)
    graphs = quantised_graphs(floats, runs, "cpu")
    files: dict[str, dict[str, onnx.ModelProto]] = {}
    for name, graph in graphs.items():
        files.setdefault(WEIGHTS[name], {})[f"{name}{mark}"] = integer_graph(graph.model, "cpu")
    features = features_of(graphs["x_decoder"])
    for look, of in bundle.looks.items():
        path = bundle.path / of["fusion"]
        fusion = quantise_fusion(read_graph(path), runs["fusion"], features, "cpu")
        name = f"{LOOK_MARK}{look}{mark}"
        files[f"{name}.weights"] = {name: integer_graph(fusion.model, "cpu")}
    return files
