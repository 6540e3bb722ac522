"""`dsin-export` looks and fails as `dsin` does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from dsin.export import cli as export_cli
from dsin.runtime import __version__
from dsin.runtime.commands import cli

APPS = {"dsin": cli, "dsin-export": export_cli}
EXPORT = ["checkpoint", "combine", "decoder", "int8", "look", "onnx", "refit", "trt", "verify"]


def commands(name: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(APPS[name].app)
    return dict(group.commands)


def run(name: str, *arguments: str) -> int:
    """The exit status, as a shell sees it."""
    try:
        APPS[name].main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *words: monkeypatch.setattr(sys, "argv", list(words))


@pytest.mark.parametrize("name", APPS)
def test_the_version_is_printed(
    name: str, arguments: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments(name, "--version")
    assert run(name) == 0
    assert capfd.readouterr().out == f"{name} {__version__}\n"


def test_the_commands_are_these() -> None:
    assert sorted(commands("dsin-export")) == EXPORT


@pytest.mark.parametrize("name", APPS)
def test_every_command_and_option_is_explained_in_a_sentence(name: str) -> None:
    for command, each in commands(name).items():
        texts = {"": each.help} | {p.name: p.help for p in each.params if p.name != "help"}
        for option, text in texts.items():
            assert text, f"{command} {option} is not explained"
            assert text[0].isupper(), f"{command} {option}: {text}"
            assert text[-1] == ".", f"{command} {option}: {text}"


@pytest.mark.parametrize("command", EXPORT)
def test_the_help_fits_80_columns(
    command: str,
    arguments: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments("dsin-export", command, "--help")
    assert run("dsin-export") == 0
    assert max(map(len, capfd.readouterr().out.splitlines())) <= 80


def test_an_error_of_several_lines_becomes_one(
    arguments: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no\nbundle"
    arguments("dsin-export", "decoder", str(missing), "-o", str(tmp_path / "decoder.onnx"))
    assert run("dsin-export") == 1
    told = capfd.readouterr().err
    assert told.startswith(f"dsin-export: there is no bundle {tmp_path}")
    assert told.count("\n") == 1


def test_what_building_engines_needs_is_named(
    arguments: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments("dsin-export", "trt", "edge", "--precision", "fp16")
    monkeypatch.delitem(sys.modules, "dsin.export.tensorrt_engine", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run("dsin-export") == 1
    assert capfd.readouterr().err == "dsin-export: onnx is missing: pip install 'dsin[tensorrt]'\n"


def test_a_module_of_ours_that_is_missing_is_no_mistake_of_the_user(
    arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments("dsin-export", "trt", "edge", "--precision", "fp16")
    monkeypatch.setitem(sys.modules, "dsin.export.tensorrt_engine", None)
    with pytest.raises(ModuleNotFoundError):
        run("dsin-export")


def test_the_help_loads_nothing_heavy() -> None:
    code = """import sys
from dsin.export.cli import main
sys.argv = ["dsin-export", "--help"]
try:
    main()
except SystemExit:
    print(*{name.partition(".")[0] for name in sys.modules})"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    assert loaded.isdisjoint({"numpy", "onnx", "torch", "onnxruntime", "tensorrt"})
