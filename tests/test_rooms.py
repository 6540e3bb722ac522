"""The rooms of the package: what may import what, on every import that the code contains.

    runtime   …, gpu, patch_correlation, backends, entropy, codec, link, datagrams, sources,
              outputs, replay, device, server, fleet, web, profiling, diagnosis, evaluation,
              commands: each may import those before it
    training, export   `paper` and `edge` know nothing of each other; what they share lies beside

Imports within functions count, and so do names of modules in strings, as the command line has them.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("calibration", "export", "runtime", "training")
ROOMS = (
    "gpu", "patch_correlation", "backends", "entropy", "codec", "link", "datagrams", "sources",
    "outputs", "replay", "device", "server", "fleet", "web", "profiling", "diagnosis",
    "evaluation", "commands",
)  # fmt: skip
"""Of the runtime, from the bottom to the top. Below them are the modules beside them, and above
them what `dsin.runtime` itself offers."""
BELOW, ABOVE = -1, len(ROOMS)
TOP = "dsin.runtime.top"
"""The place in the tree of what is installed as `dsin` itself."""


class Import(NamedTuple):
    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


def modules_of(root: Path) -> dict[str, Path]:
    """Every module below `root`, by its name, packages included."""
    found = {}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.py"):
            if "__pycache__" not in path.parts:
                parts = ("dsin", *path.relative_to(root).with_suffix("").parts)
                name = ".".join(parts).removesuffix(".__init__")
                found["dsin" if name == TOP else name] = path
    return found


def named_modules(node: ast.AST) -> Iterator[str]:
    """The dotted names that an import or a string of code names, names of attributes included."""
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if re.fullmatch(r"dsin(\.\w+){2,}", node.value):
            yield node.value
        elif re.search(r"^\s*(from|import) dsin\b", node.value, re.MULTILINE):
            pattern = r"^\s*(?:from|import) (dsin(?:\.\w+){2,})"
            yield from re.findall(pattern, node.value, re.MULTILINE)


def imports_of(root: Path) -> list[Import]:
    """Every import of one module by another. A name stands for the module that it begins with."""
    modules, found = modules_of(root), []
    for importer, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            for name in named_modules(node):
                in_string = isinstance(node, ast.Constant)
                while name not in modules and "." in name:
                    name = name.rpartition(".")[0]
                # In a string, the name of a folder alone is a logger's or a resource's.
                if name in modules and name != importer and not (in_string and name.count(".") < 2):
                    found.append(Import(importer, name, node.lineno))  # type: ignore[attr-defined]
    return found


def height(module: str) -> int:
    """Of a module of the runtime: the place of its room in ROOMS."""
    parts = module.split(".")
    if len(parts) <= 2:
        return ABOVE
    return ROOMS.index(parts[2]) if parts[2] in ROOMS else BELOW


def family(module: str) -> str | None:
    """The room `paper` or `edge` of training and export that a module is in, if any."""
    parts = module.split(".")
    inside = parts[1:2] in (["training"], ["export"]) and parts[2:3] in (["paper"], ["edge"])
    return parts[2] if inside else None


def of_runtime(module: str) -> bool:
    """Whether it is a module of the runtime; `dsin` itself only offers what the runtime does."""
    return module == "dsin" or module.startswith("dsin.runtime")


def upwards(found: list[Import]) -> list[Import]:
    return [
        each for each in found
        if each.importer.startswith("dsin.runtime.") and of_runtime(each.imported)
        and height(each.imported) > height(each.importer)
    ]  # fmt: skip


def across(found: list[Import]) -> list[Import]:
    """Imports between the families, and those of the other folders by any but the commands."""
    families = [
        each for each in found
        if family(each.importer) and family(each.imported) not in (None, family(each.importer))
    ]  # fmt: skip
    return families + [
        each for each in found
        if each.importer.startswith("dsin.runtime.") and not of_runtime(each.imported)
        and height(each.importer) != ROOMS.index("commands")
    ]  # fmt: skip


def told(found: list[Import]) -> str:
    return "\n".join(map(str, found))


def test_every_folder_of_the_runtime_is_a_room_with_a_place() -> None:
    folders = {path.parent.name for path in (ROOT / "runtime").glob("*/*.py")}
    assert folders == {*ROOMS, "top"}
    for folder in ("training", "export"):
        assert {path.parent.name for path in (ROOT / folder).glob("*/*.py")} == {"paper", "edge"}


def test_rooms_import_downwards_only() -> None:
    found = imports_of(ROOT)
    assert len(found) > 500
    assert not upwards(found), told(upwards(found))


def test_paper_and_edge_do_not_know_each_other() -> None:
    assert not across(imports_of(ROOT)), told(across(imports_of(ROOT)))


def test_what_runs_on_a_device_needs_nothing_of_a_server() -> None:
    """Not even by way of others."""
    found = imports_of(ROOT)
    needed, new = (
        set(),
        {name for name in modules_of(ROOT) if name.startswith("dsin.runtime.device")},
    )
    while new:
        needed |= new
        new = {each.imported for each in found if each.importer in new} - needed
    rooms = {name.split(".")[2] for name in needed if name.startswith("dsin.runtime.")}
    assert "dsin" not in needed
    assert "codec" in rooms
    assert rooms.isdisjoint(
        {"server", "web", "fleet", "profiling", "evaluation", "diagnosis", "commands"}
    )


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("runtime/codec/module.py", "from dsin.runtime.server.pool import Pool"),
        ("runtime/codec/module.py", "from dsin.runtime.server import pool"),
        ("runtime/codec/module.py", "import dsin.runtime.server.pool"),
        ("runtime/codec/module.py", "def f():\n    from dsin.runtime.server.pool import Pool"),
        ("runtime/codec/module.py", "POOL = 'dsin.runtime.server.pool.Pool'"),
        ("runtime/codec/module.py", "CODE = '''\nimport sys\nimport dsin.runtime.server.pool\n'''"),
        ("runtime/codec/module.py", "from dsin.runtime import Encoder"),
        ("runtime/codec/module.py", "from dsin import Encoder"),
        ("runtime/module.py", "from dsin.runtime.server.pool import Pool"),
    ],
)
def test_an_import_upwards_would_be_noticed(tmp_path: Path, place: str, code: str) -> None:
    for name in ("runtime/__init__.py", "runtime/top/__init__.py", "runtime/server/__init__.py",
                 "runtime/server/pool.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "runtime" / "codec").mkdir()
    (tmp_path / place).write_text(code)
    assert upwards(imports_of(tmp_path))
    (tmp_path / place).write_text("LOG = 'dsin.runtime.codec', 'dsin.runtime'")
    assert not upwards(imports_of(tmp_path))


def test_an_import_across_would_be_noticed(tmp_path: Path) -> None:
    for name in ("training/edge/train.py", "training/train.py", "export/paper/bundle.py",
                 "runtime/codec/bundle.py", "runtime/commands/cli.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("train = 'dsin.training.edge.train'")
    found = across(imports_of(tmp_path))
    assert {each.importer for each in found} == {
        "dsin.export.paper.bundle",
        "dsin.runtime.codec.bundle",
    }
