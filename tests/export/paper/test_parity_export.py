"""The original's weights through the whole product: export, PNG files, packet, PNG file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsin.export.paper.bundle import export_model
from dsin.runtime.files import write_image
from dsin.runtime.picture_files import read_image


def dsin(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "dsin.runtime.commands.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "case", ["case_a_80x96", pytest.param("case_b_160x240", marks=pytest.mark.slow)]
)
def test_encode_and_decode_give_the_originals_picture(original, golden_pictures, tmp_path, case):
    """The original's PNG is its result clipped, then truncated to 8 bits."""
    arrays = golden_pictures(case)
    x, y = (np.ascontiguousarray(arrays[k][0].transpose(1, 2, 0)) for k in ("x", "y"))
    export_model(
        original,
        tmp_path / "bundle",
        weights="float32",
        calibration_frames=[x, y],
        name="original",
        notes={},
    )
    write_image(tmp_path / "x.png", x)
    write_image(tmp_path / "y.png", y)
    bundle = ("--bundle", tmp_path / "bundle")
    dsin("encode", tmp_path / "x.png", "-o", tmp_path / "x.dsin", *bundle)
    side = ("--side", tmp_path / "y.png")
    dsin("decode", tmp_path / "x.dsin", *side, "-o", tmp_path / "out.png", *bundle)
    theirs = arrays["x_with_si"][0].clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    difference = np.abs(read_image(tmp_path / "out.png").astype(int) - theirs)
    assert difference.max() <= 1
