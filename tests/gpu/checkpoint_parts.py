"""A checkpoint in parts that fit where files have at most 16 MiB.

    checkpoint.json      {"name", "bytes", "sha256", "parts": [{"file", "bytes", "sha256"}…]}
    checkpoint.part0 …   the file's bytes in order

    python tests/gpu/checkpoint_parts.py FOLDER      joins them to FOLDER/<name>

Without Python, `cat FOLDER/checkpoint.part* > NAME` joins them as well, only unchecked.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

from visit_results import write_json

MIB = 1 << 20
PART_BYTES = 15 * MIB
MOST_PARTS = 3
MANIFEST = "checkpoint.json"


class PartsError(Exception):
    """Parts that cannot be made or joined; the message says why."""


def split(source: Path, folder: Path, *, part_bytes: int = PART_BYTES) -> list[Path]:
    """Copy a checkpoint into parts in `folder`, in place of those of an earlier one, the manifest
    last. Raises PartsError for one that does not fit into three parts, OSError."""
    data = source.read_bytes()
    pieces = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
    if len(pieces) > MOST_PARTS:
        raise PartsError(
            f"{source.name} has {len(data) / MIB:.1f} MiB, more than the "
            f"{MOST_PARTS * part_bytes / MIB:.0f} that fit beside the results"
        )
    names = [f"checkpoint.part{n}" for n in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        (folder / f".{name}").write_bytes(piece)
    parts = [folder / name for name in names]
    for part in parts:
        os.replace(part.with_name(f".{part.name}"), part)
    write_json(
        folder / MANIFEST,
        {
            "name": source.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
            "parts": [
                {"file": n, "bytes": len(p), "sha256": hashlib.sha256(p).hexdigest()}
                for n, p in zip(names, pieces, strict=True)
            ],
        },
    )  # fmt: skip
    for stale in set(folder.glob("checkpoint.part*")) - set(parts):
        stale.unlink()
    return parts


def join(folder: Path, out: Path | None = None) -> Path:
    """Write the checkpoint, by default under its own name in `folder`. Raises PartsError, naming
    the part that is missing, cut off or altered; then nothing is written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        target = out or folder / Path(manifest["name"]).name
        pieces = [_piece(folder, part) for part in manifest["parts"]]
        whole = b"".join(pieces)
        if hashlib.sha256(whole).hexdigest() != manifest["sha256"]:
            raise PartsError(f"the parts in {folder} are of different checkpoints: copy all again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PartsError(f"{folder} has no usable {MANIFEST}: {error}") from error
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(whole)
    os.replace(partial, target)
    return target


def _piece(folder: Path, part: dict[str, object]) -> bytes:
    path = folder / Path(str(part["file"])).name
    if not path.is_file():
        raise PartsError(f"{path} is missing: copy it too")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise PartsError(f"{path} is cut off or altered: copy it again")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description="Join a checkpoint from its parts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="the file to write [FOLDER/<its name>]")
    given = parser.parse_args()
    try:
        print(join(given.folder, given.out))
    except (PartsError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
