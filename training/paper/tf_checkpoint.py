"""Weights of the original TensorFlow implementation in, a checkpoint of this package out.

The original saves TensorFlow 1 checkpoints (tensor bundles: `prefix.index` and
`prefix.data-00000-of-00001`). Reading them needs TensorFlow, which the extra `tf-import` installs;
translating names and layouts does not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsin.runtime.errors import CheckpointError
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.checkpoint import save_checkpoint
from dsin.training.paper.model import Dsin
from dsin.training.presets import Preset, Quirks

Array = npt.NDArray[Any]

ORIGINAL_QUIRKS = Quirks(**{f.name: True for f in fields(Quirks)})
ORIGINAL_SEARCH = SearchOptions(stretched=True, off_centre=True)
"""Everything the original does by habit: with them its weights give its picture."""

ENCODER = "encoder/encoder_body/encoder_body/autoencoder/encoder/"
DECODER = "decoder/autoencoder/decoder/"
CONTEXT = "imgcomp/probclass3d/logits/"
FUSION = "siNetwork/"

BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
CONTEXT_LAYERS = {
    "conv0": "conv3d_conv0_mask",
    "conv1": "res1/conv3d_conv1_mask",
    "conv2": "res1/conv3d_conv2_mask",
    "logits": "conv3d_conv2_mask",
}
OPTIMISER_SLOTS = ("Adam", "Adam_1", "beta1_power", "beta2_power", "global_step", "Momentum")


def original_preset() -> Preset:
    """The sizes of the published models with every quirk on."""
    return Preset(name="original", search=ORIGINAL_SEARCH, quirks=ORIGINAL_QUIRKS)


def original_to_state_dict(
    variables: Mapping[str, Array], preset: Preset | None = None
) -> dict[str, Tensor]:
    """Variables under their TensorFlow names as the state_dict of `Dsin(preset)`.

    Layouts are TensorFlow's: convolutions [kh, kw, in, out], transposed [kh, kw, out, in], 3-D
    [d, h, w, in, out]. State of the optimisers is left out.
    Raises CheckpointError naming the first variable that is missing, unknown or of another shape.
    """
    model = Dsin(preset or original_preset())
    expected = model.state_dict()
    names = original_names(model)
    weights = {n: v for n, v in variables.items() if not _of_optimiser(n)}
    _refuse_first(sorted(set(names.values()) - set(weights)), "has no variable")
    _refuse_first(sorted(set(weights) - set(names.values())), "has an unknown variable")
    state = {k: v for k, v in expected.items() if k not in names}  # batch counters, all zero
    for key, name in names.items():
        state[key] = _to_torch(weights[name])
        if state[key].shape != expected[key].shape:
            have, want = tuple(state[key].shape), tuple(expected[key].shape)
            raise CheckpointError(
                f"the original's {name} has shape {have} in torch's layout: expected {want}"
            )
    return state


def original_names(model: Dsin) -> dict[str, str]:
    """The TensorFlow name of every weight of the model, keyed by its state_dict name."""
    return dict(_names(model))


def _names(model: Dsin) -> Iterator[tuple[str, str]]:
    yield "quantiser.centers", ENCODER + "centers"
    for key in model.state_dict():
        part, _, rest = key.partition(".")
        if key.endswith("num_batches_tracked") or part == "quantiser":
            continue
        layer, _, leaf = rest.rpartition(".")
        if part == "context":
            yield key, f"{CONTEXT}{CONTEXT_LAYERS[layer]}/{_leaf(leaf)}"
        elif part == "fusion":
            number = "_last" if layer == "last" else str(int(layer.rpartition(".")[2]) + 1)
            yield key, f"{FUSION}g_conv{number}/{_leaf(leaf)}"
        else:
            root, short = (ENCODER, "enc") if part == "encoder" else (DECODER, "dec")
            yield key, root + _autoencoder_layer(layer, short) + _leaf(leaf, layer)


def _autoencoder_layer(layer: str, short: str) -> str:
    """`trunk.groups.1.2.conv1` to `res_block_enc_1/enc_1_3/conv1/`, `h1.norm` to `h1/`."""
    parts = layer.split(".")
    if parts[0] != "trunk":
        return parts[0] + "/"
    convolution = parts[-1].replace("norm", "conv")
    if parts[1] == "final":
        block = "res_block_enc_final" if short == "enc" else "dec_after_res"
    else:
        group, number = int(parts[2]), int(parts[3]) + 1
        block = f"res_block_{short}_{group}/{short}_{group}_{number}"
    return f"{block}/{convolution}/"


def _leaf(leaf: str, layer: str = "") -> str:
    if layer.rpartition(".")[2].startswith("norm"):
        return "BatchNorm/" + BATCH_NORM[leaf]
    return {"weight": "weights", "bias": "biases"}[leaf]


def _of_optimiser(name: str) -> bool:
    return any(part in OPTIMISER_SLOTS for part in name.split("/")) or "_power" in name


def _to_torch(value: Array) -> Tensor:
    """TensorFlow's layout to torch's; transposed convolutions take the same permutation."""
    array = np.asarray(value, np.float32)
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 5:
        array = array.transpose(4, 3, 0, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array).copy())


def _refuse_first(names: list[str], problem: str) -> None:
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise CheckpointError(f"the original's checkpoint {problem} {names[0]}{more}")


def import_tf(ckpt: Path, out: Path) -> Path:
    """Convert a checkpoint of the original implementation; returns `out`.

    `ckpt` is the prefix (`model-100`), its `.index` file, or a folder with a `checkpoint` file.
    Raises CheckpointError where it is absent, unreadable or of another model, and where
    TensorFlow is not installed.
    """
    prefix = _prefix(ckpt)
    preset = original_preset()
    model = Dsin(preset)
    model.load_state_dict(original_to_state_dict(_read_variables(prefix), preset))
    notes = {"source": f"TensorFlow checkpoint {prefix.name} of the original implementation"}
    save_checkpoint(out, model, notes=notes)
    return out


def _prefix(ckpt: Path) -> Path:
    if ckpt.is_dir():
        return _latest(ckpt)
    prefix = ckpt.with_suffix("") if ckpt.suffix == ".index" else ckpt
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise CheckpointError(
            f"there is no TensorFlow checkpoint {ckpt}: give its prefix, its .index file, "
            "or a folder that holds a file named 'checkpoint'"
        )
    return prefix


def _latest(folder: Path) -> Path:
    """The newest checkpoint of a folder by TensorFlow's own note, the text file `checkpoint`."""
    note = folder / "checkpoint"
    lines = note.read_text(errors="replace").splitlines() if note.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            # An absolute path there is one of the machine that trained: only the name counts.
            return _prefix(folder / Path(value.strip().strip('"')).name)
    raise CheckpointError(
        f"{folder} has no file 'checkpoint' that names one: give the checkpoint's prefix"
    )


def _read_variables(prefix: Path) -> dict[str, Array]:
    try:
        from tensorflow.errors import OpError
        from tensorflow.train import load_checkpoint
    except ImportError as error:
        raise CheckpointError(
            "reading the original's checkpoints needs TensorFlow: pip install 'dsin[tf-import]'"
        ) from error
    try:
        reader = load_checkpoint(str(prefix))
        names = reader.get_variable_to_shape_map()
        return {n: reader.get_tensor(n) for n in names if not _of_optimiser(n)}
    except (OpError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"{prefix} is not a readable TensorFlow checkpoint: {first}"
        ) from error
