"""Progress on a terminal (a pseudo terminal here) and elsewhere."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from dsin.runtime import compiled, progress
from dsin.runtime.progress import ProgressLine, track, waiting

PROGRAM = """
import sys
from dsin.runtime import progress
progress.INTERVAL_S = 0
with progress.ProgressLine({total}) as line:
    line.show("streaming [x]")
    line.show("0.0200 bpp", done=3)
    print("kept")
print("the table")
"""


def test_elsewhere_only_the_first_line_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(total=2) as line:
        line.show("streaming 2 frames")
        line.show("0.0200 bpp", done=1)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "streaming 2 frames\n")


def on_terminal(total: int | None) -> tuple[str, str]:
    """What the program writes to a terminal as stderr, and to a pipe as stdout."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(total=total)],
        stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True, check=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: all was read, a few thousand bytes at a time
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    return shown.decode(), done.stdout


def test_a_terminal_shows_a_bar_and_its_end_clears_the_line() -> None:
    shown, printed = on_terminal(total=4)
    assert "0/4 streaming [x] 0:00:0" in shown
    assert "3/4 0.0200 bpp 0:00:0" in shown
    assert shown.rstrip("\r").endswith("\x1b[2K")  # what was there is erased
    assert printed == "kept\nthe table\n"  # the bar is not in the way of what goes to a file


def test_without_a_total_there_is_no_bar() -> None:
    shown, _ = on_terminal(total=None)
    assert "streaming [x] 0:00:0" in shown
    assert "━" not in shown
    assert "/" not in shown


TRACK = """
from dsin.runtime import progress
progress.INTERVAL_S = 0
print(list(progress.track("abc", "letters {total}")))
"""


def test_items_are_counted_on_a_terminal_and_elsewhere_nothing_is_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", TRACK)
    shown, printed = on_terminal(total=None)
    for count in range(3):
        assert f"{count}/3 letters" in shown
    assert printed == "['a', 'b', 'c']\n"


def test_no_color_is_heeded() -> None:
    """Movements of the cursor may be there, colours may not."""
    shown, _ = on_terminal(total=4)
    assert "\x1b[" in shown
    assert re.search(r"\x1b\[[0-9;]*m", shown) is None


WAIT = """
import sys, time
from dsin.runtime import progress
progress.DELAY_S = {total}
with progress.waiting("encoding [x]"):
    deadline = time.monotonic() + 30
    while progress.DELAY_S == 0 and progress._waits._shown is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    if len(sys.argv) > 1:
        with progress.ProgressLine() as line:
            line.show("rate 3")
            assert progress._waits._shown is None
print("done")
"""


@pytest.mark.parametrize(("delay", "shows"), [(0, True), (60, False)])
def test_work_of_unknown_length_is_told_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, delay: int, shows: bool
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", WAIT)
    shown, printed = on_terminal(total=delay)
    assert ("encoding [x]" in shown) == shows
    assert printed == "done\n"


def test_a_line_of_its_own_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", "import sys; sys.argv.append('x')" + WAIT)
    shown, _ = on_terminal(total=0)
    assert shown.index("encoding [x]") < shown.index("rate 3")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("compiled_before", [True, False])
def test_a_first_run_tells_why_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, compiled_before: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    monkeypatch.setattr(progress, "has_kernels", lambda: compiled_before)
    monkeypatch.setitem(sys.modules, compiled.__name__, compiled)
    with waiting("encoding"):
        deadline = time.monotonic() + 30
        while "0:00:00" not in terminal.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    told = "encoding; the first run on a machine compiles, which takes up to a minute 0:00:00"
    assert (told in terminal.getvalue()) == (not compiled_before)
    assert ("encoding 0:00:00" in terminal.getvalue()) == compiled_before


def test_waiting_shows_nothing_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    with waiting("encoding"):
        pass
    assert capfd.readouterr() == ("", "")


def test_every_command_that_may_take_long_tells_something() -> None:
    """By a line, a bar, or what it prints as it goes; `info` alone is over at once."""
    from dsin.export.cli import app as export_app
    from dsin.runtime.commands.cli import app
    from dsin.runtime.commands.option_rules import WAITS

    own = {"demo", "profile", "evaluate", "train", "pairs", "serve", "stream", "try", "benchmark",
           "selftest", "doctor", "info"}  # fmt: skip
    names = {
        command.name or (command.callback and command.callback.__name__.replace("_", "-"))
        for each in (app, export_app) for command in each.registered_commands
    }  # fmt: skip
    assert names == own | WAITS.keys()
