"""Options that would be ignored are refused, by every command and in one way.

The rules of a command are a table; whatever the table does not say is the command's own.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """Each of `options` needs one of `goes_with`, and none of `not_with`, to mean anything.

    All are written as on the command line: "--jpeg", or "--camera y" for a value that counts.
    """

    options: Sequence[str]
    goes_with: Sequence[str] = ()
    not_with: Sequence[str] = ()


RULES: Mapping[str, Sequence[Rule]] = {
    "demo": (
        Rule(["--rate"], not_with=["--kbps"]),
        Rule(["--source", "--side"], not_with=["--kitti"]),
    ),
    "profile": (Rule(["--source", "--side"], not_with=["--kitti"]),),
    "evaluate": (
        Rule(["--plot"], goes_with=["--against"]),
        Rule(["--root"], goes_with=["--pairs"]),
        Rule(["--kitti", "--source", "--side"], not_with=["--pairs"]),
        Rule(["--source", "--side"], not_with=["--kitti"]),
        Rule(["--side"], goes_with=["--source"]),
        Rule(["--frames"], goes_with=["--kitti", "--source"]),
    ),
    "benchmark": (Rule(["--root", "--crop"], goes_with=["--pairs"]),),
    "calibrate": (Rule(["--crop"], goes_with=["--val"]),),
    "replay": (
        Rule(["--panels"], goes_with=["--output"]),
        Rule(["--fps"], goes_with=["--video"]),
        Rule(["--live-side", "--repair-side"], not_with=["--no-side"]),
    ),
    "serve": (
        Rule(["--jpeg", "--panels"], goes_with=["--pictures"]),
        Rule(["--web-host"], goes_with=["--web", "--metrics", "--foxglove"]),
        Rule(
            ["--ray-address", "--replicas", "--replica-cpus", "--replica-gpus"],
            goes_with=["--ray"],
        ),
        Rule(["--workers"], not_with=["--ray"]),
        Rule(["--ca", "--cert", "--key"], not_with=["--plaintext"]),
    ),
    "stream": (
        Rule(["--rate"], not_with=["--kbps"]),
        Rule(
            ["--every"], not_with=["--start", "--fps", "--kbps auto", "--transport datagram"]
        ),
        Rule(
            [
                "--bundle", "--backend", "--precision", "--rate", "--kbps", "--transport",
                "--independent",
            ],
            goes_with=["--camera x"],
        ),
        Rule(["--quality"], goes_with=["--camera y"]),
        Rule(["--ca", "--cert", "--key"], not_with=["--plaintext"]),
    ),
    "onnx": (Rule(["--root"], goes_with=["--frames"]),),
    "int8": (Rule(["--root"], goes_with=["--frames"]),),
    "verify": (Rule(["--root"], goes_with=["--frames"]),),
}  # fmt: skip
"""By the name of the command, of `dsin` and `dsin-export`."""


WAITS: Mapping[str, str] = {
    "encode": "encoding",
    "decode": "decoding",
    "replay": "decoding the recording",
    "calibrate": "calibrating",
    "import-tf": "converting the checkpoint",
    "onnx": "exporting",
    "checkpoint": "restoring the checkpoint",
    "refit": "writing the bundle",
    "combine": "writing the bundle",
    "look": "writing the bundle",
    "int8": "calibrating",
    "trt": "building engines",
    "decoder": "exporting",
    "verify": "running every backend",
}
"""What a terminal is told meanwhile, of commands that show no progress of their own."""


class StrictCommand(TyperCommand):
    """A command that keeps its rules, takes finite numbers only, and tells that it is at work."""

    def invoke(self, ctx: Any) -> Any:
        """As click has it."""
        line = WAITS.get(self.name or "")
        if line is None or not sys.stderr.isatty():
            return super().invoke(ctx)
        from dsin.runtime.progress import waiting

        with waiting(line):
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click has it; wrong usage for what breaks a rule."""
        rest: list[str] = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            _check_numbers(ctx)
            for rule in RULES.get(self.name or "", ()):
                _check(rule, ctx)
        return rest


def command(app: typer.Typer, name: str | None = None) -> Callable[[_Function], _Function]:
    """`app.command`, for a strict one."""
    return app.command(name, cls=StrictCommand)


def _check_numbers(ctx: Any) -> None:
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{parameter.opts[0]} {value}: give a finite number")


def _check(rule: Rule, ctx: Any) -> None:
    for option in rule.options:
        if not _was_given(option, ctx):
            continue
        if rule.goes_with and not any(_holds(other, ctx) for other in rule.goes_with):
            raise typer.BadParameter(f"{option} goes with {' or '.join(rule.goes_with)}")
        for other in rule.not_with:
            if _holds(other, ctx):
                raise typer.BadParameter(f"give either {option} or {other}, and not both")


def _was_given(option: str, ctx: Any) -> bool:
    """Whether the command line, or a variable, has the option."""
    parameter, wanted = _parameter(option, ctx)
    source = ctx.get_parameter_source(parameter.name)
    value = ctx.params[parameter.name]
    given = source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
    return given and (wanted is None or bool(value) == wanted)


def _holds(condition: str, ctx: Any) -> bool:
    """Whether an option is set, or has the value that the condition names."""
    option, _, value = condition.partition(" ")
    parameter, _ = _parameter(option, ctx)
    found = ctx.params[parameter.name]
    if value:
        return str(getattr(found, "value", found)) == value
    return found is not None and found is not False and found != ""  # port 0 is a port


def _parameter(option: str, ctx: Any) -> tuple[Any, bool | None]:
    """Which parameter an option sets, and to what if it is a switch."""
    for parameter, name, switched in _spellings(ctx):
        if name == option:
            return parameter, switched
    raise ValueError(f"{ctx.command.name} has no option {option}")


def _spellings(ctx: Any) -> Iterator[tuple[Any, str, bool | None]]:
    for parameter in ctx.command.params:
        switch = getattr(parameter, "is_flag", False)
        for name in parameter.opts:
            yield parameter, name, True if switch else None
        for name in parameter.secondary_opts:
            yield parameter, name, False
