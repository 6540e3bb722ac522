"""The proof that aarch64 and x86-64 code to the same bytes: its parts always, itself on request."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from aarch64 import vectors

from dsin.runtime.codec.bundle import Bundle, open_bundle

SCRIPT = Path(__file__).parent / "aarch64" / "run.sh"
SKIPPED = 77


def run_script(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT], env=os.environ | environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def edge() -> Bundle:
    return open_bundle("edge")


@pytest.fixture(scope="module")
def made(edge: Bundle, tmp_path_factory: pytest.TempPathFactory) -> vectors.Arrays:
    frames = tmp_path_factory.mktemp("frames") / "frames.npz"
    vectors.write_frames(frames, drive=None)
    return vectors.make(edge, dict(np.load(frames)))


def unmet(edge: Bundle, made: vectors.Arrays) -> list[str]:
    return [text for met, text in vectors.check(edge, made) if not met]


def only(case: str, made: vectors.Arrays) -> vectors.Arrays:
    return {key: array for key, array in made.items() if key.startswith(f"{case}/")}


def test_a_machine_agrees_with_itself(edge: Bundle, made: vectors.Arrays) -> None:
    assert not unmet(edge, made)


def test_random_vectors_reach_beyond_the_tables(edge: Bundle, made: vectors.Arrays) -> None:
    assert np.abs(made["random, rate 0/coded y"]).max() > 128
    assert np.abs(made["rig, rate 2/coded y"]).max() < 128


def test_another_payload_is_noticed(edge: Bundle, made: vectors.Arrays) -> None:
    other = only("random, rate 0", made)
    coder = vectors.Coder(edge)
    coded = {name: other[f"random, rate 0/coded {name}"].copy() for name in ("y", "z")}
    coded["y"][0, 0, 0] += 1
    payload = np.frombuffer(coder.encode(coded, 0), np.uint8)
    failed = unmet(edge, other | {"random, rate 0/payload": payload})
    assert len(failed) == 2
    assert "same payload" in failed[0]
    assert "same latent" in failed[1]


def test_another_picture_is_noticed(edge: Bundle, made: vectors.Arrays) -> None:
    other = only("rig, rate 2", made)
    x_dec = other["rig, rate 2/x_dec"].copy()
    x_dec[7, 7, 1] ^= 4
    (failed,) = unmet(edge, other | {"rig, rate 2/x_dec": x_dec})
    assert "x_dec differs by 4 grey levels" in failed


def test_what_is_missing_is_said() -> None:
    done = run_script(PYTHON="false")
    assert done.returncode == SKIPPED
    assert done.stderr.startswith("skipped: ")


@pytest.mark.skipif(
    os.environ.get("DSIN_AARCH64") != "1",
    reason="emulating an aarch64 device takes a quarter of an hour: set DSIN_AARCH64=1",
)
def test_aarch64_and_x86_64_code_to_the_same_bytes() -> None:
    done = run_script(PYTHON=sys.executable)
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the machines agree\n")
