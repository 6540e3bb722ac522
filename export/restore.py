"""A bundle becomes a checkpoint again, to train further from shipped weights.

    bundle ─► graphs and integer tables ─► weights of the PyTorch model ─► checkpoint

What export folded stays folded: batch norms of the paper's model come back as scale 1 and the
bias, so train them on with `batch_norm = "settled"`. Integers of the entropy model come back as
what they stand for, in units of their own, since export keeps no others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from dsin.export.families import FAMILIES
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.errors import CheckpointError, ExportError
from dsin.training.checkpoint import load_model as load_checkpoint
from dsin.training.checkpoint import model_of, save_checkpoint
from dsin.training.edge.model import EdgeDsin
from dsin.training.paper.model import Dsin
from dsin.training.presets import preset_from_dict

Tensors = Mapping[str, NDArray[Any]]


def restore_checkpoint(source: Path | str | None, out: Path) -> None:
    """Write the checkpoint of a bundle, a directory or a shipped one's name (None: the default).

    Raises BundleError for what is not a bundle, ExportError for one that does not say how it was
    trained.
    """
    bundle = open_bundle(source)
    notes = {**bundle.training, "weights_licence": bundle.weights_licence}
    # These are of the bundle, not of what it will become.
    for own in ("export", "metrics"):
        notes.pop(own, None)
    save_checkpoint(out, restore_model(bundle), notes={**notes, "restored_from": bundle.path.name})


def load_model(source: Path | str | None = None) -> Dsin | EdgeDsin:
    """The PyTorch model of a shipped bundle's name, a bundle directory or a checkpoint file (None:
    the default bundle), in inference mode; calling it gives a picture and its bits.

        model = load_model("edge")
        picture, bits = model(x, y, rate=3)

    Raises BundleError for what is none of these, CheckpointError for a file that is not a
    checkpoint, ExportError for a bundle that does not say how it was trained.
    """
    if source is not None and Path(source).is_file():
        return load_checkpoint(Path(source))[0]
    return restore_model(open_bundle(source))


def restore_model(bundle: Bundle) -> Dsin | EdgeDsin:
    """The PyTorch model of a bundle, in inference mode. Raises ExportError."""
    try:
        preset = preset_from_dict(dict(bundle.preset))
    except CheckpointError as error:
        raise ExportError(f"bundle {bundle.path.name} has no usable preset: {error}") from error
    if preset.family != bundle.family:
        raise ExportError(f"bundle {bundle.path.name} has the preset of another model")
    model = model_of(preset)
    graphs = {name: tensors(bundle.graph_path(name)) for name in bundle.graphs}
    try:
        with torch.no_grad():
            FAMILIES[bundle.family].restore(model, graphs, bundle)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ExportError(
            f"bundle {bundle.path.name} does not have the weights that its preset names: {error}"
        ) from error
    return model.eval()


def tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All constants of a graph by name; float16 ones as float32, without their suffix.

    The exporter keeps one of several equal constants. So the n-th convolution's are there as
    `conv<n>.weight` and `conv<n>.bias` too, and its bias under the name that goes with its weight.
    """
    graph = onnx.load(path).graph
    found = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        half = array.dtype == np.float16
        found[tensor.name.removesuffix(".half")] = array.astype(np.float32) if half else array
    layers = (node for node in graph.node if node.op_type in ("Conv", "ConvTranspose"))
    for number, layer in enumerate(layers):
        weight, *bias = layer.input[1:]
        found[f"conv{number}.weight"] = found[weight]
        for name in bias:
            found[f"conv{number}.bias"] = found[name]
            if weight.endswith(".weight"):
                found[weight.removesuffix("weight") + "bias"] = found[name]
    return found
