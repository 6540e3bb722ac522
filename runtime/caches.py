"""Where compiled code is kept between two runs."""

import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path


def cache_folder() -> Path:
    """The folder of all that dsin keeps: $XDG_CACHE_HOME/dsin, by default ~/.cache/dsin.

    Where neither can be written to, or the user has no home, a temporary folder that belongs to
    this user alone.
    """
    chosen = _usual_folder()
    return chosen if chosen is not None and _is_writable(chosen) else _temporary_folder()


def kernel_folder(package: Path, chosen: str) -> str:
    """Where numba is to keep the kernels of a package: its CACHE_DIR, "" for beside each module.

    `chosen` is what it has now, $NUMBA_CACHE_DIR. Where neither that nor the package can be written
    to, numba would take a folder of its own below the home, or without one refuse to work.
    """
    if chosen and _is_writable(Path(chosen)):
        return chosen
    if _is_writable(package / "__pycache__"):
        return ""
    return str(cache_folder() / "kernels")


def _usual_folder() -> Path | None:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "dsin"
    try:
        return Path.home() / ".cache" / "dsin"
    except RuntimeError:  # neither $HOME nor an entry in the password file
        return None


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there, folder included. Permissions alone do not tell: file
    systems may be read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@cache
def _temporary_folder() -> Path:
    """One folder for all processes of a user; where another user has made it, one of our own:
    compiled code is run, so nobody else may put any there."""
    shared = Path(tempfile.gettempdir()) / f"dsin-{os.getuid()}"
    with suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        found = shared.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_mode & 0o077 == 0
        if private and found.st_uid == os.getuid():
            return shared
    return Path(tempfile.mkdtemp(prefix="dsin-"))
