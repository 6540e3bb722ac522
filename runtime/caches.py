"""Where compiled code is kept between two runs."""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

KERNEL_ROOMS = ("entropy", "patch_correlation")
"""Where all kernels lie."""


def cache_folder() -> Path:
    """The folder of all that dsin keeps: $XDG_CACHE_HOME/dsin, by default ~/.cache/dsin.

    Where neither can be written to, or the user has no home, a temporary folder that belongs to
    this user alone.
    """
    chosen = _usual_folder()
    return chosen if chosen is not None and _is_writable(chosen) else _temporary_folder()


def own_kernels() -> Path:
    """Where numba is to keep the kernels of this package."""
    return kernel_folder(Path(__file__).parent, KERNEL_ROOMS, os.environ.get("NUMBA_CACHE_DIR", ""))


def has_kernels(room: str = "") -> bool:
    """Whether kernels are kept from an earlier run, of that one of KERNEL_ROOMS or of any; without,
    the first frame compiles them."""
    return next(own_kernels().glob(f"{room}*/*.nbi"), None) is not None


def kernel_folder(package: Path, rooms: Sequence[str], chosen: str) -> Path:
    """Where numba is to keep the kernels of a package, which lie in its folders `rooms`.

    `chosen` is $NUMBA_CACHE_DIR. Where neither that nor the package can be written
    to, numba would take a folder of its own below the home, or without one refuse to work.

    numba compiles a kernel anew when the file that it is called from has changed, but not for a
    change in another file that it calls. So each state of the sources has a folder of its own.
    """
    state = f"kernels-{_digest(package, rooms)}"
    if chosen and _is_writable(Path(chosen)):
        return Path(chosen) / state
    beside = package / "__pycache__"
    if not _is_writable(beside):
        return cache_folder() / state
    for old in beside.glob("kernels-*"):
        if old.name != state:
            shutil.rmtree(old, ignore_errors=True)
    return beside / state


def _digest(package: Path, rooms: Sequence[str]) -> str:
    """Of all modules of these folders."""
    sources = [source for room in rooms for source in sorted((package / room).glob("*.py"))]
    known = hashlib.sha256()
    for source in sources:
        known.update(source.name.encode() + source.read_bytes())
    return known.hexdigest()[:12]


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
