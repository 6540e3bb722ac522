"""Options that mean nothing without another, or beside another: refused, never ignored."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer
from support.command_line import Run, command_line

from dsin.export import cli as export_cli
from dsin.runtime.commands import cli, option_rules
from dsin.runtime.commands.option_rules import RULES, StrictCommand

STREAM = "stream 127.0.0.1:1 --plaintext"
SERVE = "serve 127.0.0.1:0 --plaintext"
CALIBRATE = "calibrate edge --frames DIR -o OUT"


@pytest.fixture
def dsin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capfd)


def commands() -> Iterator[tuple[str, Any]]:
    """All commands of both programs."""
    for app in (cli.app, export_cli.app):
        group: Any = typer.main.get_command(app)
        yield from group.commands.items()


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (f"{STREAM} --every --start 10:00:00", "either --every or --start"),
        (f"{STREAM} --every --fps 5", "either --every or --fps"),
        (f"{STREAM} --every --transport datagram", "either --every or --transport datagram"),
        (f"{STREAM} --camera y --transport grpc", "--camera x"),
        (f"{STREAM} --every --kbps auto", "either --every or --kbps auto"),
        (f"{STREAM} --kbps fast", "give a finite number of kbit/s, or auto"),
        (f"{STREAM} --kbps nan", "give a finite number of kbit/s, or auto"),
        (f"{STREAM} --rate 0 --kbps auto", "either --rate or --kbps"),
        (f"{STREAM} --rate 0 --kbps 100", "either --rate or --kbps"),
        (f"{STREAM} --camera y --backend cpu", "--backend goes with --camera x"),
        (f"{STREAM} --camera y --bundle edge", "--bundle goes with --camera x"),
        (f"{STREAM} --camera y --precision int8", "--precision goes with --camera x"),
        (f"{STREAM} --camera y --rate 1", "--rate goes with --camera x"),
        (f"{STREAM} --camera y --kbps 1", "--kbps goes with --camera x"),
        (f"{STREAM} --quality 90", "--quality goes with --camera y"),
        (f"{STREAM} --ca ca.pem", "either --ca or --plaintext"),
        (f"{SERVE} --replicas 2", "--replicas goes with --ray"),
        (f"{SERVE} --replica-cpus 2", "--replica-cpus goes with --ray"),
        (f"{SERVE} --replica-gpus 1", "--replica-gpus goes with --ray"),
        (f"{SERVE} --ray-address a:1", "--ray-address goes with --ray"),
        (f"{SERVE} --workers 2 --ray", "either --workers or --ray"),
        (f"{SERVE} --web-host 0.0.0.0", "--web-host goes with --web or --metrics"),
        (f"{SERVE} --jpeg", "--jpeg goes with --pictures"),
        (f"{SERVE} --panels", "--panels goes with --pictures"),
        (f"{SERVE} --key key.pem", "either --key or --plaintext"),
        ("replay a.mcap --panels", "--panels goes with --output"),
        ("replay a.mcap --fps 5", "--fps goes with --video"),
        ("replay a.mcap --no-side --live-side", "either --live-side or --no-side"),
        (f"{CALIBRATE} --crop 80x96", "--crop goes with --val"),
        ("evaluate --pairs L", "give --pairs LIST and --root DIR, or --kitti"),
        ("evaluate --pairs L --root D --plot a.png", "--plot goes with --against"),
        ("evaluate --root D", "--root goes with --pairs"),
        ("evaluate --pairs L --root D --kitti d", "either --kitti or --pairs"),
        ("evaluate --pairs L --root D --source d", "either --source or --pairs"),
        ("evaluate --kitti d --source d", "either --source or --kitti"),
        ("evaluate --kitti d --side d", "either --side or --kitti"),
        ("evaluate --pairs L --root D --frames 2", "--frames goes with --kitti or --source"),
        ("evaluate", "give --pairs LIST and --root DIR, or --kitti DRIVE, or --source SOURCE"),
        ("demo --rate 1 --kbps 100", "either --rate or --kbps"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(dsin: Run, line: str, refusal: str) -> None:
    done = dsin(*line.split())
    assert done.status == 2
    assert re.sub(r"[\s│]+", " ", done.err).find(refusal) >= 0, done.err


@pytest.mark.parametrize(
    "line",
    [
        "stream 127.0.0.1:1 --camera y --quality 90",
        "stream 127.0.0.1:1 --every --loop --backend cpu",
        "serve 127.0.0.1:0 --ray --replicas 2 --ray-address a:1",
        "serve 127.0.0.1:0 --metrics 0 --web-host 0.0.0.0",
    ],
)
def test_what_means_something_is_not(dsin: Run, line: str) -> None:
    """Then certificates are what is missing."""
    done = dsin(*line.split())
    assert done.status == 1
    assert "--ca, --cert and --key" in done.err


def test_calibrate_takes_a_root_with_a_list_only(dsin: Run, tmp_path: Any) -> None:
    done = dsin("calibrate", "edge", "--frames", tmp_path, "-o", "OUT", "--root", tmp_path)
    assert done.status == 1
    assert "--root is where the paths of a list start" in done.err


def float_options() -> Iterator[tuple[str, str, list[str]]]:
    """Command, option, and the arguments that the command needs beside it."""
    needed = {
        "calibrate": ["edge", "--frames", "x", "-o", "x"],
        "evaluate": ["--pairs", "x", "--root", "x"],
        "replay": ["x"], "stream": ["x"], "train": ["x"],
    }  # fmt: skip
    for registered in cli.app.registered_commands:
        assert registered.callback is not None
        name = registered.name or registered.callback.__name__
        for parameter, hint in get_type_hints(registered.callback, include_extras=True).items():
            if get_origin(hint) is Annotated and float in (
                get_args(hint)[0], *get_args(get_args(hint)[0]),
            ):  # fmt: skip
                spelling = next(iter(get_args(hint)[1].param_decls or ()), None)
                option = spelling or "--" + parameter.replace("_", "-")
                yield name, option, needed.get(name, [])


def test_every_number_is_finite(dsin: Run) -> None:
    options = list(float_options())
    assert len(options) > 12
    for name, option, arguments in options:
        for number in ("nan", "inf"):
            done = dsin(name, *arguments, option, number)
            assert done.status == 2, (name, option, done)
            assert option in done.err


def test_every_command_is_strict() -> None:
    names = [name for name, command in commands() if isinstance(command, StrictCommand)]
    assert sorted(names) == sorted(name for name, _ in commands())
    assert RULES.keys() <= set(names)


def test_help_that_says_with_another_option_is_true() -> None:
    """What reads "With --pictures, …" is refused without it."""
    told = [
        (name, option.opts, found[1])
        for name, command in commands()
        for option in command.params
        if (found := re.match(r"With (--?[\w-]+),", getattr(option, "help", None) or ""))
    ]
    assert len(told) > 5
    for name, spellings, other in told:
        needed = {"-o": "--output"}.get(other, other)
        rules = [rule for rule in RULES.get(name, ()) if set(rule.options) & set(spellings)]
        assert any(needed in rule.goes_with for rule in rules), (name, spellings, other)


def test_a_rule_about_an_option_that_is_none_is_a_fault() -> None:
    found: Any = dict(commands())["serve"]
    context = typer.Context(found, info_name="serve")
    with pytest.raises(ValueError, match=r"^serve has no option --nothing$"):
        option_rules._parameter("--nothing", context)
