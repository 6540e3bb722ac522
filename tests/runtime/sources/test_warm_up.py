"""Warming up: afterwards no frame waits for a compiler."""

import subprocess
import sys

PROGRAM = '''
import gc
from numba.core.registry import CPUDispatcher

def specialised():
    """Kernels by types of arguments that this process has, compiled now or loaded."""
    return sum(len(each.overloads) for each in gc.get_objects() if isinstance(each, CPUDispatcher))

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
    before = specialised()
    for number, (x, y) in enumerate(pairs):
        for rate in (0, 7) if number < 2 else (2,):
            packet = encoder.encode(x, rate)
            decoder.decode(packet, decoder.prepare_side(y, rate=rate))
    decoder.decode(bytes(packet), None)
print(before, specialised() - before)
'''


def specialised(warm_up: str) -> tuple[int, int]:
    """Kernels that a process has before the first frame, and what frames of all kinds add. Each
    would be compiled on a new installation; here most are kept from an earlier run."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{warm_up}", warm_up)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    before, after = map(int, done.stdout.split())
    return before, after


def test_no_frame_of_any_kind_needs_a_further_kernel() -> None:
    before, after = specialised("warm_up(encoder, size, decoder)")
    assert before > 10
    assert after == 0


def test_without_warming_up_frames_need_kernels() -> None:
    assert specialised("pass")[1] > 10
