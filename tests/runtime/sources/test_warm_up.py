"""Warming up: afterwards no frame waits for a compiler."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event): pass
    def on_end(self, event): compiled.append(str(event.data["dispatcher"]))
event.register("numba:compile", Listener())

from dsin.runtime import Decoder, Encoder
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.sources.warm_up import warm_up

with Encoder() as encoder, Decoder() as decoder:
    size = (192, 480)
    {warm_up}
    before = len(compiled)
    frame = SyntheticRig(width=size[1], height=size[0], frames=3)
    decoder.decode(encoder.encode(frame.view(2, "left")), frame.view(2, "right"))
print(before, len(compiled) - before)
"""


def compiled(warm_up: str, cache: Path) -> tuple[int, int]:
    """Functions compiled before the first frame, and for it, as on a new installation."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{warm_up}", warm_up)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    before, after = map(int, done.stdout.split())
    return before, after


def test_the_first_frame_compiles_nothing(tmp_path: Path) -> None:
    before, after = compiled("warm_up(encoder, size, decoder)", tmp_path / "cache")
    assert before > 50
    assert after == 0
