"""Training pictures as a few files that travel: `pack.json` and parts, which are plain tar files.

    pack.json      {"dsin_pack": 1, "licences": {source: text},
                    "parts": [{"file", "bytes", "sha256", "pictures"}…],
                    "pictures": [{"name", "kind", "split", "source", "part", "bytes", "height",
                                  "width", "side"}…]}
    part-0.tar …   the pictures as JPEG files, in the manifest's order

`kind` is left (of a pair, whose right picture is named by `side`), right or photo; `split` is train
or val. Both pictures of a pair lie in one part. What is packed depends on the pictures alone: equal
pictures give equal bytes. A pack can be used without some of its parts.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.files import write_bytes_atomically, write_json
from dsin.runtime.picture_files import decode_image, read_bytes
from dsin.runtime.pictures import Image
from dsin.training.edge.data import Picture, PicturePair, TrainingPictures

MANIFEST = "pack.json"
FORMAT = 1
MIB = 1 << 20
_TAR_END = 20 * 512
"""Most bytes that a tar file has after its last member."""


class Entry(NamedTuple):
    """A picture (`right` is None) or a pair to pack, by its names in the pack and its files."""

    source: str
    split: str
    left: tuple[str, Path]
    right: tuple[str, Path] | None = None


class Part(NamedTuple):
    """One file of a pack."""

    path: Path
    pictures: int


def write_pack(
    entries: Iterable[Entry], licences: Mapping[str, str], out: Path, *, max_mib: float = 60.0,
    quality: int = 95,
) -> list[Part]:  # fmt: skip
    """Pack pictures in their order into parts of at most `max_mib` MiB in the folder `out`.

    JPEG files are carried as they are; what is not JPEG is coded as JPEG of that quality (1 to
    100), with colour at full resolution. The manifest is written last. Raises FrameError for a
    picture that cannot be read or is not 8-bit colour, one that is larger than a part, and where
    `out` is a folder with files in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FrameError(f"{out} exists and is not empty: choose another folder for the pack")
    out.mkdir(parents=True, exist_ok=True)
    writer = _Writer(out, int(max_mib * MIB))
    for entry in entries:
        writer.add(entry, quality)
    return writer.finish(licences)


class _Writer:
    def __init__(self, out: Path, most: int) -> None:
        self._out, self._most = out, most
        self._members: list[tuple[str, bytes]] = []
        self._size = 0
        self._parts: list[dict[str, Any]] = []
        self._pictures: list[dict[str, Any]] = []

    def add(self, entry: Entry, quality: int) -> None:
        views = [("photo" if entry.right is None else "left", *entry.left)]
        if entry.right is not None:
            views.append(("right", *entry.right))
        coded = [(kind, name, *_as_jpeg(path, quality)) for kind, name, path in views]
        size = sum(len(_header(name, data)) + _whole(len(data)) for _, name, data, _ in coded)
        if size + _TAR_END > self._most:
            raise FrameError(f"{entry.left[1]} does not fit in a part of {self._most} bytes")
        if self._size + size + _TAR_END > self._most:
            self._close_part()
        self._size += size
        for kind, name, data, image in coded:
            self._members.append((name, data))
            self._pictures.append({
                "name": name, "kind": kind, "split": entry.split, "source": entry.source,
                "part": len(self._parts), "bytes": len(data), "height": image.shape[0],
                "width": image.shape[1],
                **({"side": coded[1][1]} if kind == "left" else {}),
            })  # fmt: skip

    def finish(self, licences: Mapping[str, str]) -> list[Part]:
        self._close_part()
        names = [picture["name"] for picture in self._pictures]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise FrameError(f"{twice} would be in the pack twice: name each picture once")
        content = {
            "dsin_pack": FORMAT, "licences": dict(licences), "parts": self._parts,
            "pictures": self._pictures,
        }  # fmt: skip
        write_json(self._out / MANIFEST, content)
        return [Part(self._out / part["file"], part["pictures"]) for part in self._parts]

    def _close_part(self) -> None:
        if not self._members:
            return
        data = _tar(self._members)
        name = f"part-{len(self._parts)}.tar"
        write_bytes_atomically(self._out / name, data)
        self._parts.append({
            "file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
            "pictures": len(self._members),
        })  # fmt: skip
        self._members, self._size = [], 0


def open_pack(folder: Path, say: Callable[[str], None]) -> TrainingPictures:
    """The pictures of all parts that are there; `say` is told of those that are not.

    Raises FrameError where there is no manifest or no part, or naming a part that is cut off or
    altered. The pictures are decoded later: `Picture.read` raises for one that cannot be.
    """
    manifest = _manifest(folder)
    present = {
        number: _members(folder, part)
        for number, part in enumerate(manifest["parts"])
        if (folder / part["file"]).is_file()
    }
    absent = [p for n, p in enumerate(manifest["parts"]) if n not in present]
    if not present:
        raise FrameError(f"{folder} has none of the {len(absent)} parts that {MANIFEST} names")
    for part in absent:
        lost = f"training without its {part['pictures']} pictures"
        say(f"{folder / part['file']} is not there: {lost}")

    def picture(entry: Mapping[str, Any]) -> Picture:
        name = f"{entry['name']} of {folder / manifest['parts'][entry['part']]['file']}"
        data = present[entry["part"]].get(entry["name"])
        if data is None:
            raise FrameError(f"{name} is not in that part: make the pack again")
        return Picture(name, partial(decode_image, data, name))

    there = {e["name"]: e for e in manifest["pictures"] if e["part"] in present}
    pairs = {
        split: tuple(
            PicturePair(picture(e), picture(there[e["side"]]))
            for e in there.values() if e["kind"] == "left" and e["split"] == split
        )
        for split in ("train", "val")
    }  # fmt: skip
    photos = tuple(picture(e) for e in there.values() if e["kind"] == "photo")
    notes = {
        "pack": [part["sha256"] for n, part in enumerate(manifest["parts"]) if n in present],
        "licences": {
            source: text
            for source, text in manifest["licences"].items()
            if source in {entry["source"] for entry in there.values()}
        },
    }
    return TrainingPictures(pairs["train"], photos, pairs["val"], notes)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise FrameError(f"{folder} has no {MANIFEST}: it is not a pack of pictures")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["dsin_pack"] != FORMAT:
            raise FrameError(f"{path} has another format: make the pack again")
        for part in content["parts"]:
            if Path(part["file"]).name != part["file"]:
                raise FrameError(f"{path} names {part['file']}, which is not in the same folder")
            _ = part["bytes"], part["sha256"], part["pictures"]
        for entry in content["pictures"]:
            _ = entry["name"], entry["kind"], entry["split"], entry["source"]
            _ = content["parts"][entry["part"]]
        lefts = [entry for entry in content["pictures"] if entry["kind"] == "left"]
        if not {e["side"] for e in lefts} <= {e["name"] for e in content["pictures"]}:
            raise FrameError(f"{path} has a left picture without its right one")
        _ = content["licences"].items()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FrameError(f"{path} is damaged: make the pack again") from error
    return dict(content)


def _members(folder: Path, part: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of one part, by name."""
    path = folder / part["file"]
    data = path.read_bytes()
    if len(data) != part["bytes"]:
        raise FrameError(f"{path} has {len(data)} of {part['bytes']} bytes: copy it again")
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise FrameError(f"{path} has another SHA-256 than {MANIFEST} says: copy it again")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = ((member.name, tar.extractfile(member)) for member in tar.getmembers())
        return {name: file.read() for name, file in files if file is not None}


def _as_jpeg(path: Path, quality: int) -> tuple[bytes, Image]:
    """The bytes of a JPEG file, and what they show."""
    data = read_bytes(path)
    image = decode_image(data, path)
    if data[:3] == b"\xff\xd8\xff":
        return data, image
    full_colour = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [
        cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full_colour,
        cv2.IMWRITE_JPEG_OPTIMIZE, 1,
    ]  # fmt: skip
    _, coded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), options)
    return coded.tobytes(), image


def _tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            # Without owner and time, so that equal pictures make equal files.
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def _header(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT)


def _whole(size: int) -> int:
    """As it lies in a tar file, in blocks of 512 bytes."""
    return -(-size // 512) * 512
