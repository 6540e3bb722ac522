"""The command line, run in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from dsin.runtime.commands import cli

_HEEDS_INTERRUPTS = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def interruptible(*command: object) -> list[str]:
    """That command, but it heeds SIGINT.

    A shell lets what it starts in the background ignore this signal, tests included. The child
    itself changes that: gRPC may have run here, and then `preexec_fn` can crash the child.
    """
    return [sys.executable, "-c", _HEEDS_INTERRUPTS, *map(str, command)]


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
