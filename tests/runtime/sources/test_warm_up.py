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

import numpy as np
from dsin.runtime import Decoder, Encoder
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.sources.warm_up import warm_up

size = (192, 480)
rng = np.random.default_rng(1)
scene = SyntheticRig(width=size[1], height=size[0], frames=3)
left, right = scene.view(2, "left"), scene.view(2, "right")
noise = rng.integers(0, 256, (*size, 3), np.uint8)
flat = np.full((*size, 3), 90, np.uint8)
other = np.ascontiguousarray(right[::-1])
tiles = np.kron(rng.integers(0, 2, (24, 60, 1)), np.ones((8, 8, 3))).astype(np.uint8) * 255
pairs = [(left, right), (left, noise), (noise, right), (flat, right), (left, flat), (left, other),
         (tiles, right), (left, tiles), (left, left)]

with Encoder() as encoder, Decoder() as decoder:
    {warm_up}
    before = len(compiled)
    for number, (x, y) in enumerate(pairs):
        for rate in (0, 7) if number < 2 else (2,):
            packet = encoder.encode(x, rate)
            decoder.decode(packet, decoder.prepare_side(y, rate=rate))
    decoder.decode(bytes(packet), None)
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


def test_no_frame_of_any_kind_compiles_anything(tmp_path: Path) -> None:
    before, after = compiled("warm_up(encoder, size, decoder)", tmp_path / "cache")
    assert before > 50
    assert after == 0
