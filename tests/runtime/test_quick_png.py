"""PNG files that are written quickly."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from dsin.runtime.errors import DsinError
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image
from dsin.runtime.quick_png import encoded_png, write_quickly
from dsin.runtime.sources.synthetic_rig import SyntheticRig


def decoded(data: bytes) -> Image:
    """As OpenCV has it, RGB."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image[:, :, ::-1], np.uint8)


@settings(deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    levels=st.sampled_from([1, 2, 20, 256]),
    seed=st.integers(0, 9),
)
def test_every_picture_comes_back(height: int, width: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, levels, (height, width, 3), np.uint8)
    assert np.array_equal(decoded(encoded_png(picture)), picture)


def test_another_reader_takes_it_too_and_it_is_not_much_larger(tmp_path: Path) -> None:
    picture = SyntheticRig(width=320, height=160, frames=1).view(0, "left")
    path = tmp_path / "x.png"
    write_quickly(path, picture[:, ::2])  # not contiguous
    with PillowImage.open(path) as image:
        assert np.array_equal(np.asarray(image), picture[:, ::2])
    usual = cv2.imencode(".png", picture)[1].size
    assert len(encoded_png(picture)) < 1.2 * usual
    assert usual < 0.8 * picture.size


def test_other_formats_are_written_as_usual(tmp_path: Path) -> None:
    picture = SyntheticRig(width=64, height=48, frames=1).view(0, "left")
    write_quickly(tmp_path / "x.jpg", picture)
    assert read_image(tmp_path / "x.jpg").shape == picture.shape
    assert (tmp_path / "x.jpg").read_bytes().startswith(b"\xff\xd8")
    with pytest.raises(DsinError, match="cannot write"):
        write_quickly(tmp_path / "none" / "x.png", picture)
