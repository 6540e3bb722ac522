"""What calibration is given: which pictures are read, and the hash that names them."""

from pathlib import Path

import numpy as np
import pytest

from dsin.export.calibration_frames import read_frames, set_sha256
from dsin.runtime.errors import FrameError


def test_what_has_no_pictures_is_refused(tmp_path: Path) -> None:
    def refusal(source: Path) -> str:
        with pytest.raises(FrameError) as caught:
            read_frames(source)
        return str(caught.value)

    names = tmp_path / "names.txt"
    assert refusal(names) == f"there is no folder or list {names}"
    names.write_text("\n \n")
    cure = "has no pictures: give a folder or a list with some"
    assert refusal(names) == f"{names} {cure}"
    assert refusal(tmp_path) == f"{tmp_path} {cure}"
    names.write_bytes(b"\xff\xd8\xff\xe0")
    assert refusal(names) == f"{names} is not a list of paths: give a folder or a list"


def test_a_set_is_named_by_its_pixels_sizes_and_order() -> None:
    a, b = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 9, np.uint8)
    sets = [[a, b], [b, a], [a], [a, a], [a.reshape(3, 2, 3), b], [a, b + 1]]
    assert len({set_sha256(frames) for frames in sets}) == len(sets)
    turned = np.asfortranarray(b)
    assert set_sha256([a, turned]) == set_sha256([a, b])
