"""Names of files that are made while frames come: safe for any rig, never one that exists."""

from pathlib import Path
from urllib.parse import quote

from dsin.runtime.files import exists


def rig_name_in_paths(rig: str) -> str:
    """A rig's name as one part of a path or topic; `urllib.parse.unquote` gives it back.

    Letters, digits and _.-~ stay, everything else is percent-encoded, a leading dot too.
    """
    quoted = quote(rig, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted or "%00"


def unused_path(path: Path) -> Path:
    """`path`, or with a number before its suffix (drive.2.mcap) where that exists already."""
    candidate, number = path, 1
    while exists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate
