"""The project's training pictures as a few files that travel to a machine with a GPU.

python tests/gpu/pack.py --data ../shared/data --out DIR [--max-mib 60] [--quality 95]

What to watch comes first, then KITTI's pairs, so that the first part alone can be trained on; the
pairs of other worlds and the photographs follow. `dsin train PRESET --pack DIR` reads it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation.pairs import read_pair_list
from dsin.training.data import list_photos
from dsin.training.edge.picture_pack import MIB, Entry, write_pack

KITTI = "KITTI, CC BY-NC-SA 3.0 (Geiger, Lenz, Stiller, Urtasun)"
LICENCES = {
    "kitti": KITTI,
    "pairs": f"20 pairs of {KITTI}; others (railway, indoor, Middlebury, Cityscapes, renderings) "
    "for research under their own terms",
    "images": f"BSDS500, CamVid, Urban100, Cityscapes and other driving stills for research under "
    f"their own terms; {KITTI}",
    "photos": "photographs of other domains, mostly for research, some unclear",
}


def entries(data: Path) -> Iterator[Entry]:
    """Everything to train on and to watch, in the order of the parts. Raises FrameError."""
    for split in ("val", "train"):
        yield from _pairs("kitti", split, data / "kitti", data / "kitti" / f"{split}.txt")
    yield from _pairs("pairs", "train", data / "pairs", data / "pairs" / "train.txt")
    for source in ("images", "photos"):
        for path in list_photos(data / source):
            yield Entry(source, "train", _named(source, path, data / source))


def _pairs(source: str, split: str, root: Path, pair_list: Path) -> Iterator[Entry]:
    for pair in read_pair_list(pair_list, root):
        yield Entry(source, split, _named(source, pair.x, root), _named(source, pair.y, root))


def _named(source: str, path: Path, root: Path) -> tuple[str, Path]:
    return f"{source}/{path.relative_to(root).with_suffix('.jpg').as_posix()}", path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with kitti, pairs, images and photos"
    )
    parser.add_argument("--out", type=Path, required=True, help="empty folder for the pack")
    parser.add_argument("--max-mib", type=float, default=60.0, help="most MiB of a part")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG, for what is not JPEG yet")
    options = parser.parse_args()
    try:
        parts = write_pack(
            entries(options.data), LICENCES, options.out, max_mib=options.max_mib,
            quality=options.quality,
        )  # fmt: skip
    except DsinError as error:
        sys.exit(f"pack.py: {error}")
    for part in parts:
        print(f"{part.path}: {part.path.stat().st_size / MIB:.1f} MiB, {part.pictures} pictures")


if __name__ == "__main__":
    main()
