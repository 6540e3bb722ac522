"""Caches of users who cannot write where we would, and of those who have no home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsin.runtime import caches
from dsin.runtime.caches import cache_folder, kernel_folder

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
    assert kernel_folder(package, "") == ""
    assert kernel_folder(package, str(tmp_path / "chosen")) == str(tmp_path / "chosen")
    fixed = unwritable(tmp_path / "fixed")
    assert kernel_folder(fixed, "") == str(tmp_path / "home" / ".cache" / "dsin" / "kernels")
    assert kernel_folder(fixed, str(fixed)) == kernel_folder(fixed, "")


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
    kept = tmp_path / "temporary" / f"dsin-{os.getuid()}" / "kernels"
    assert list(kept.rglob("*.nbi"))
    assert list(work.iterdir()) == []
