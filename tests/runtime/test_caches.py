"""Caches of users who cannot write where we would, and of those who have no home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsin.runtime import caches
from dsin.runtime.caches import KERNEL_ROOMS, cache_folder, kernel_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, and no XDG_CACHE_HOME."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    caches._temporary_folder.cache_clear()
    return folder


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home, who is not in the password file either."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)


def unwritable(folder: Path) -> Path:
    """A folder in which nobody can make anything, root included."""
    folder.write_text("a file")
    return folder / "below"


def test_the_cache_is_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dsin"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other" / "dsin"


def test_without_a_writable_home_it_is_temporary(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = temporary / f"dsin-{os.getuid()}"
    monkeypatch.setenv("HOME", str(unwritable(tmp_path / "home")))
    assert cache_folder() == expected
    homeless(monkeypatch)
    assert cache_folder() == expected
    assert expected.stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_others_can_write_to_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless(monkeypatch)
    open_to_all = temporary / f"dsin-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    chosen = cache_folder()
    assert chosen != open_to_all
    assert chosen.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == chosen


def test_kernels_are_kept_beside_their_modules_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    package = tmp_path / "package"
    assert kernel_folder(package, ["room"], "").parent == package / "__pycache__"
    chosen = tmp_path / "chosen"
    assert kernel_folder(package, ["room"], str(chosen)).parent == chosen
    fixed = unwritable(tmp_path / "fixed")
    kept = kernel_folder(fixed, ["room"], "")
    assert kept.parent == tmp_path / "home" / ".cache" / "dsin"
    assert kernel_folder(fixed, ["room"], str(fixed)) == kept


def test_kernels_of_other_sources_are_not_taken(tmp_path: Path) -> None:
    """numba itself does not see that a module which a kernel's module imports has changed."""
    room = tmp_path / "package" / "room"
    room.mkdir(parents=True)
    (room / "kernels.py").write_text("one")
    first = kernel_folder(room.parent, ["room"], "")
    first.mkdir()
    assert kernel_folder(room.parent, ["room"], "") == first
    (room / "helpers.py").write_text("")
    second = kernel_folder(room.parent, ["room"], "")
    (room / "helpers.py").write_text("two")
    third = kernel_folder(room.parent, ["room"], "")
    assert len({first, second, third}) == 3
    assert not first.exists()  # nobody will need it again


def test_all_kernels_lie_in_the_rooms_that_are_watched() -> None:
    watched = {ROOT / "runtime" / room for room in KERNEL_ROOMS}
    marks = ("entry_point(", "@kernel(", "@intrinsic", "njit(")
    homes = {
        path.parent for path in (ROOT / "runtime").rglob("*.py")
        if path.name != "compiled.py" and any(mark in path.read_text() for mark in marks)
    }  # fmt: skip
    assert homes == watched


def test_a_read_only_installation_works_without_a_home(tmp_path: Path) -> None:
    """Every container with a user of its own: once this was a traceback of numba's."""
    package = tmp_path / "installed" / "dsin"
    shutil.copytree(
        ROOT / "runtime",
        package / "runtime",
        ignore=shutil.ignore_patterns("bundles", "__pycache__"),
    )
    shutil.copy(ROOT / "runtime" / "top" / "__init__.py", package)
    for folder in (package, *package.rglob("*/")):
        (folder / "__pycache__").write_text("no folder can be made here")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, dsin.runtime.compiled as compiled\n"
        "from dsin.runtime.entropy import rans\n"
        "assert compiled.__file__.startswith(sys.argv[1]), compiled.__file__\n"
        "symbols = np.array([0, 1, 1], np.uint8)\n"
        "frequencies = np.full((3, 2), rans.TOTAL // 2, np.uint16)\n"
        "assert rans.decode(rans.encode(symbols, frequencies), frequencies).tolist() == [0, 1, 1]\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    hidden = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HOME": "/proc/none", "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(package.parent)], env=environment, cwd=work,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "temporary" / f"dsin-{os.getuid()}"
    assert list(kept.rglob("*.nbi"))
    assert list(work.iterdir()) == []
