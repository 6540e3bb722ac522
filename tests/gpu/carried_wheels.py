"""Packages that a machine without a registry lacks, from wheels that were carried there."""

import importlib
import subprocess
import sys
from pathlib import Path

from stage import NotCarriedError, Orders, UnfitError


def install(orders: Orders, *names: str) -> Path:
    """Install the newest wheel of each distribution into a folder of the visit, which modules are
    found in first from now on. Raises NotCarriedError naming those that were not brought,
    UnfitError where pip refuses one."""
    site = orders.work / "wheels" / orders.stage
    wheels = [wheel_of(orders.wheels, name) for name in names]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-compile", "--target", str(site), *map(str, wheels),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UnfitError(f"pip does not install the wheels: {(said or ['no reason'])[0]}")
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    return site


def wheel_of(folder: Path | None, name: str) -> Path:
    """The last wheel of a distribution by file name."""
    if folder is None:
        raise NotCarriedError(f"{name}: no wheels were given, --wheels DIR names them")
    found = sorted(folder.glob(f"{name.replace('-', '_')}-*.whl"))
    if not found:
        raise NotCarriedError(f"{name}: {folder.name} has no wheel of it")
    return found[-1]
