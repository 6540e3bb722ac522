"""`dsin train`: finds the preset and the pictures, and trains with the loop of its family."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsin.runtime.codec.bundle import FamilyName
from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation.pairs import Pair, read_pair_list
from dsin.training.data import list_photos
from dsin.training.edge.data import TrainingPictures, pictures_of_files
from dsin.training.edge.picture_pack import open_pack
from dsin.training.edge.train import EdgeOptions, train_edge
from dsin.training.paper.train import train
from dsin.training.presets import EdgePreset, Preset, load_preset


@dataclass(frozen=True)
class PictureOptions:
    """Where pictures come from: a pack, or lists of pairs below `root`, and a folder of
    photographs."""

    pairs: Path | None = None
    validation: Path | None = None
    root: Path | None = None
    photos: Path | None = None
    pack: Path | None = None


def train_preset(
    preset: str, pictures: PictureOptions, out: Path | None, options: EdgeOptions
) -> Path:
    """Train a preset, by its name or file; `out` is runs/<its name> unless given. Returns the
    checkpoint to go on with.

    Raises DsinError for a combination of options that makes no sense, and whatever the loop of the
    family raises.
    """
    loaded = load_preset(preset)
    if not loaded.phases:
        raise DsinError(f"preset {loaded.name} has no phases to train")
    return _LOOPS[loaded.family](loaded, pictures, out or Path("runs") / loaded.name, options)


def _train_edge(
    preset: EdgePreset, pictures: PictureOptions, folder: Path, options: EdgeOptions
) -> Path:
    return train_edge(preset, _edge_pictures(pictures, options.say), folder, options)


def _train_paper(
    preset: Preset, pictures: PictureOptions, folder: Path, options: EdgeOptions
) -> Path:
    _check_paper(preset, pictures, options)
    pairs, validation = _lists(pictures)
    return train(
        preset, pairs, validation, folder, start_from=options.start_from, resume=options.resume,
        devices=options.devices, nodes=options.nodes,
    )  # fmt: skip


_LOOPS: dict[FamilyName, Callable[[Any, PictureOptions, Path, EdgeOptions], Path]] = {
    "paper": _train_paper,
    "edge": _train_edge,
}


def _edge_pictures(pictures: PictureOptions, say: Callable[[str], None]) -> TrainingPictures:
    if pictures.pack is None:
        pairs, validation = _lists(pictures)
        photos = list_photos(pictures.photos) if pictures.photos else []
        return pictures_of_files(pairs, photos, validation)
    given = [pictures.pairs, pictures.validation, pictures.root, pictures.photos]
    if any(path is not None for path in given):
        raise DsinError(
            "--pack contains all pictures: leave out --pairs, --val, --root and --photos"
        )
    return open_pack(pictures.pack, say)


def _lists(pictures: PictureOptions) -> tuple[list[Pair], list[Pair]]:
    if pictures.pairs is None or pictures.validation is None or pictures.root is None:
        raise DsinError("training needs --pairs, --val and --root, or for edge presets --pack")
    lists = pictures.pairs, pictures.validation
    pairs, validation = (read_pair_list(path, pictures.root) for path in lists)
    return pairs, validation


def _check_paper(preset: Preset, pictures: PictureOptions, options: EdgeOptions) -> None:
    """Raise for options that only the loop of edge knows."""
    if pictures.photos is not None:
        raise DsinError(f"preset {preset.name} trains on pairs only: leave out --photos")
    for name, given in {
        "--pack": pictures.pack, "--budget-s": options.budget_s, "--json": options.json_path,
    }.items():  # fmt: skip
        if given is not None:
            raise DsinError(
                f"preset {preset.name} is not an edge preset, and only those take {name}"
            )
    if not options.graphs:
        raise DsinError(
            f"preset {preset.name} is not an edge preset, and only those take --no-graphs"
        )
