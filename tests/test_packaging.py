"""The package as it is installed: layout, direction of imports, a thin runtime."""

import ast
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import dsin
import dsin.runtime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("calibration", "export", "runtime", "training")
TOP = "runtime/top"
"""The package `dsin` itself."""
ALLOWED = {
    "runtime": {"runtime"},
    "training": {"training", "runtime"},
    "export": {"export", "calibration", "training", "runtime"},
    "calibration": {"calibration", "training", "runtime"},
}
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "lightning")


def modules_of(room: str) -> list[Path]:
    """Every module of a top folder, those in folders within it too."""
    found = [p for p in (ROOT / room).rglob("*.py") if "__pycache__" not in p.parts]
    assert found
    return found


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
    for path in modules_of(room):
        for name, _ in imports(path):
            if name.startswith("dsin."):
                assert name.split(".")[1] in ALLOWED[room], f"{path} imports {name}"


def test_the_runtime_imports_no_framework_at_module_level() -> None:
    for path in modules_of("runtime"):
        for name, at_top in imports(path):
            assert not (at_top and name.split(".")[0] in HEAVY), f"{path} imports {name}"


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that are in memory after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_runtime_loads_neither_torch_nor_tensorrt() -> None:
    paths = [path for path in modules_of("runtime") if path.name != "__init__.py"]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    assert loaded_by("import " + ", ".join(f"dsin.{name}" for name in names)).isdisjoint(HEAVY)


def test_the_package_itself_offers_the_main_names_of_the_runtime() -> None:
    """Without loading them, however the package is installed."""
    assert dsin.__version__ == metadata.version("dsin")
    for name in dsin.__all__:
        assert getattr(dsin, name) is getattr(dsin.runtime, name)
    assert set(dsin.__all__) - {"__version__"} <= set(dsin.runtime.__all__)
    assert loaded_by("import dsin").isdisjoint({*HEAVY, "numpy", "numba", "grpc"})


def test_evaluation_needs_no_framework(tmp_path: Path) -> None:
    """A PSNR is not worth two gigabytes of PyTorch."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "lightning", "onnx")))  # importing them fails
from pathlib import Path
from dsin.runtime.evaluation.evaluate import evaluate_list
from dsin.runtime.files import write_image
from dsin.runtime.sources.synthetic_rig import SyntheticRig
folder = Path({str(tmp_path)!r})
frame = SyntheticRig(width=192, height=176, frames=1).frame(0)
write_image(folder / "x.png", frame.left)
write_image(folder / "y.png", frame.right)
(folder / "list").write_text("x.png\\ny.png\\n")
evaluate_list(folder / "list", folder, bundle="edge", rate=0, json_path=folder / "report.json")
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    mean = json.loads((tmp_path / "report.json").read_text())["mean"]
    assert 0.5 < mean["ms_ssim"] < 1
    assert mean["psnr_db"] > 20
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = " ".join(extras["optional-dependencies"]["evaluate"])
    assert not any(name in needed for name in ("torch", "train", "export", "lightning"))


def test_the_test_above_can_fail() -> None:
    assert "torch" in loaded_by("import dsin.training.paper.autoencoder")


def packages_in_tree(root: Path) -> set[str]:
    folders = {path.parent for room in ROOMS for path in (root / room).rglob("*.py")}
    return {
        "dsin" if folder == root / TOP else ".".join(("dsin", *folder.relative_to(root).parts))
        for folder in folders
        if "__pycache__" not in folder.parts
    }


def test_every_package_of_the_tree_is_listed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(setup["packages"]) == packages_in_tree(ROOT)
    assert setup["package-dir"] == {"dsin": TOP} | {f"dsin.{room}": room for room in ROOMS}
    for folder in (*ROOMS, TOP):
        assert (ROOT / folder / "py.typed").is_file()


def test_a_room_that_is_not_listed_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "runtime" / "cellar" / "corner").mkdir(parents=True)
    for folder in ("runtime", "runtime/cellar/corner"):
        (tmp_path / folder / "module.py").touch()
    assert packages_in_tree(tmp_path) == {"dsin.runtime", "dsin.runtime.cellar.corner"}
