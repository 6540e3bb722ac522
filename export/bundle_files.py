"""What every bundle needs when it is written: a directory that appears whole, hashes, frames."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dsin.export.verify import Comparison
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.errors import ExportError
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.pictures import Image, middle, to_planes
from dsin.training.checkpoint import licence_of
from dsin.training.edge.model import EdgeDsin
from dsin.training.paper.model import Dsin
from dsin.training.presets import preset_to_dict

INT8_MARK = ".int8."
"""In the names of files of 8-bit networks beside float ones."""

LOOK_MARK = "fusion_"
"""In front of the name of a look, in the names of its files."""

Precision = Literal["float32", "float16"]
FRAME = "a calibration frame"


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """A directory to fill, which replaces `out` at the end unless something is raised.

    Raises ExportError where `out` exists and is not a bundle, or cannot be written.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise ExportError(f"{out} exists and is not a bundle: choose another directory")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        _replace(out, partial)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, new: Path) -> None:
    """Put the directory `new` at `out`, whose old bundle goes only then."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(new, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def file_table(directory: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file, for the manifest."""
    return {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(directory.iterdir())
    }


def copy_files(bundle: Bundle, directory: Path, but: Collection[str] = ()) -> None:
    """Copy a bundle's files without some, and without those of its 8-bit networks and its looks,
    which belong to the others as they are."""
    for name in bundle.file_bytes:
        if name not in but and INT8_MARK not in name and not name.startswith(LOOK_MARK):
            shutil.copy2(bundle.path / name, directory / name)


def write_tables(path: Path, tables: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write integer tables as a compressed .npz file without pickles."""
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **tables)


def model_id(model: nn.Module) -> str:
    """sha256 over names, shapes and little-endian float32 values of all weights, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.numpy().astype("<f4")
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def search_table(search: SearchOptions) -> dict[str, Any]:
    """As the manifest has it."""
    return {
        "patch": list(search.patch),
        "measure": search.measure,
        "prior": search.prior,
        "stretched_patches": search.stretched,
        "off_centre_prior": search.off_centre,
        **({"flow": True} if search.flow else {}),
    }


def manifest_of(
    model: Dsin | EdgeDsin,
    directory: Path,
    name: str,
    notes: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a filled directory; `own` are the keys that only its format's writer knows.

    Raises ExportError for notes that do not fit into JSON.
    """
    preset = model.preset
    training = {key: value for key, value in notes.items() if key != "weights_licence"}
    training["export"] = [asdict(comparison) for comparison in comparisons]
    manifest = {
        **own,
        "model": name,
        "preset": preset_to_dict(preset),
        "search": search_table(preset.search),
        "model_id": model_id(model),
        "graphs": {path.stem: path.name for path in sorted(directory.glob("*.onnx"))},
        "files": file_table(directory),
        "training": training,
        "weights_licence": licence_of(notes) or "unspecified",
    }
    try:
        json.dumps(manifest, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the checkpoint's notes do not fit into JSON: {error}") from error
    return manifest


def whole_frames(frames: Sequence[Image], multiple: tuple[int, int]) -> list[torch.Tensor]:
    """The middles of frames, cropped to whole multiples: float32 (1, 3, H, W).

    Raises FrameError for frames that are too small or not 8-bit colour.
    """
    return [_planes(middle(frame, multiple, what=FRAME)) for frame in frames]


def some_pairs(
    frames: Sequence[Image], multiple: tuple[int, int], most: tuple[int, int], count: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Neighbours of one size, at most `most` (height, width) of their middles; a frame without a
    partner is paired with its shifted self."""
    pairs = []
    some = [_planes(middle(f, multiple, most, what=FRAME)) for f in frames[: 2 * count]]
    for first in range(0, len(some), 2):
        x = some[first]
        y = some[first + 1] if first + 1 < len(some) else x
        pairs.append((x, y if y.shape == x.shape and y is not x else x.roll(5, 3)))
    return pairs


def _planes(image: Image) -> torch.Tensor:
    return torch.from_numpy(to_planes(image))
