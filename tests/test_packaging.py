"""The package as it is installed: layout, direction of imports, a thin runtime."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("calibration", "export", "runtime", "training")
ALLOWED = {
    "runtime": {"runtime"},
    "training": {"training", "runtime"},
    "export": {"export", "calibration", "training", "runtime"},
    "calibration": {"calibration", "training", "runtime"},
}
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "lightning")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every absolute import of a module: its name, and whether it is at module level."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.module, id(node) in top))
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_depend_in_one_direction_only(room: str) -> None:
    for path in (ROOT / room).glob("*.py"):
        for name, _ in imports(path):
            if name.startswith("dsin."):
                assert name.split(".")[1] in ALLOWED[room], f"{path.name} imports {name}"


def test_the_runtime_imports_no_framework_at_module_level() -> None:
    for path in (ROOT / "runtime").glob("*.py"):
        for name, at_top in imports(path):
            assert not (at_top and name.split(".")[0] in HEAVY), f"{path.name} imports {name}"


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that are in memory after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_runtime_loads_neither_torch_nor_tensorrt() -> None:
    modules = ", ".join(f"dsin.runtime.{p.stem}" for p in (ROOT / "runtime").glob("[!_]*.py"))
    assert loaded_by(f"import {modules}").isdisjoint(HEAVY)


def test_the_test_above_can_fail() -> None:
    assert "torch" in loaded_by("import dsin.training.autoencoder")


def test_every_package_of_the_tree_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    in_tree = {f"dsin.{p.parent.name}" for p in ROOT.glob("*/__init__.py")}
    assert set(listed) == in_tree - {"dsin.tests"}
    for room in ROOMS:
        assert (ROOT / room / "py.typed").is_file()


def test_folders_are_flat() -> None:
    for room in ROOMS:
        assert not [p for p in (ROOT / room).glob("*/**/*.py") if "__pycache__" not in p.parts]
