"""Progress on a terminal (a pseudo terminal here) and elsewhere."""

import os
import pty
import re
import subprocess
import sys

import pytest

from dsin.runtime.progress import ProgressLine, track

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
    with ProgressLine(total=2) as progress:
        progress.show("streaming 2 frames")
        progress.show("0.0200 bpp", done=1)
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
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    return shown, done.stdout


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
