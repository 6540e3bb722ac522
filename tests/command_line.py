"""The command line, run in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from dsin.runtime import cli


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """What runs `dsin` with the arguments that it is given."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dsin", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run
