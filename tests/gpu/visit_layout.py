"""The package `dsin` from a checkout that is not installed.

folder/dsin/runtime  ─► checkout/runtime      and so on for its other three packages
folder/dsin/__init__.py  ─► checkout/runtime/top/__init__.py
folder/dsin-0.1.0.dist-info/METADATA          so that importlib.metadata knows the version
"""

import os
import re
from pathlib import Path

PACKAGES = ("calibration", "export", "runtime", "training")
CHECKOUT = Path(__file__).resolve().parents[2]


def lay_out(folder: Path, checkout: Path = CHECKOUT) -> None:
    """Make the package in a folder, which is made too. Raises OSError, and ValueError where the
    checkout lacks a package or its version."""
    package = folder / "dsin"
    package.mkdir(parents=True)
    for name in PACKAGES:
        if not (checkout / name / "__init__.py").is_file():
            raise ValueError(f"{checkout} is no checkout of dsin: it has no {name}/__init__.py")
        (package / name).symlink_to(checkout / name, target_is_directory=True)
    (package / "__init__.py").symlink_to(checkout / "runtime" / "top" / "__init__.py")
    version = _version(checkout / "pyproject.toml")
    info = folder / f"dsin-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dsin\nVersion: {version}\n")


def environment(folder: Path, cache: Path) -> dict[str, str]:
    """For stages: the package of `folder` first, then the tests' helpers; compiled kernels are
    kept in `cache`, so that one stage compiles for the next."""
    tests = CHECKOUT / "tests"
    paths = [folder, tests / "gpu", tests, tests / "benchmarks"]
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(cache),
    }


def bundles(checkout: Path = CHECKOUT) -> list[str]:
    """Names of the bundles that are in the checkout: some may have been left out of a copy."""
    return sorted(path.parent.name for path in checkout.glob("runtime/codec/bundles/*/bundle.json"))


def _version(pyproject: Path) -> str:
    # tomllib is there from Python 3.11 on only.
    found = re.search(r'^version = "([^"]+)"$', pyproject.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{pyproject} names no version")
    return found[1]
