"""One bundle of both precisions: a calibrated one's 8-bit networks beside the float ones."""

import json
from pathlib import Path
from typing import Any

from dsin.export.bundle_files import INT8_MARK, copy_files, file_table, new_bundle
from dsin.export.derived_weights import store_once
from dsin.export.half_graph import read_graph
from dsin.export.weights import save_graphs, store_as_half
from dsin.runtime.codec.bundle import INT8_GRAPHS, Bundle, open_bundle
from dsin.runtime.errors import ExportError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST

WEIGHTS = {
    "encoder": f"encoder{INT8_MARK}weights",
    "x_decoder": f"decoder{INT8_MARK}weights",
    "fusion": f"decoder{INT8_MARK}weights",
}
"""The files of the 8-bit graphs' weights."""


def combine_bundles(floats: Path | str, calibrated: Path | str, out: Path) -> None:
    """Write a bundle with the networks of both; `calibrated` came from `floats` by calibration.

    Raises BundleError for what is no bundle, ExportError for bundles that do not belong together,
    or where `out` is in the way; then nothing is left behind.
    """
    first, second = open_bundle(floats), open_bundle(calibrated)
    _require_pair(first, second)
    with new_bundle(out) as partial:
        copy_files(first, partial)
        files: dict[str, dict[str, Any]] = {}
        for name, file in WEIGHTS.items():
            graph = read_graph(second.graph_path(name))
            store_as_half(graph)
            files.setdefault(file, {})[name + INT8_MARK.rstrip(".")] = graph
        save_graphs(partial, files)
        store_once(partial)
        old = json.loads((first.path / MANIFEST).read_text())
        old.pop("looks", None)  # they have no 8-bit networks yet
        int8 = {
            **second.training["calibration"],
            "graphs": {name: f"{name}{INT8_MARK}onnx" for name in INT8_GRAPHS},
        }
        write_json(partial / MANIFEST, {**old, "int8": int8, "files": file_table(partial)})
        open_bundle(partial)


def _require_pair(floats: Bundle, calibrated: Bundle) -> None:
    if floats.int8 or "calibration" in floats.training:
        raise ExportError(f"bundle {floats.path.name} has 8-bit networks already: give a float one")
    if calibrated.training.get("calibration", {}).get("target") != "cpu":
        raise ExportError(
            f"bundle {calibrated.path.name} has no 8-bit networks for the CPU: make it with "
            "dsin calibrate"
        )
    if floats.codec_id != calibrated.codec_id or floats.search != calibrated.search:
        raise ExportError(
            f"bundles {floats.path.name} and {calibrated.path.name} are of different models: "
            "calibrate the float one"
        )
