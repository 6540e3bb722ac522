"""Which files of a folder are its pictures, and in which order."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from dsin.export.calibration_frames import read_frames
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.evaluation.pairs import Pair, read_pair_list
from dsin.runtime.sources.picture_folders import images_by_stem, natural_order, paired_images
from dsin.runtime.sources.recordings import open_recording
from dsin.training.data import list_photos

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
"""How the files begin that macOS leaves on other file systems."""


def write_pictures(folder: Path, *names: str) -> list[Path]:
    """Plain pictures whose red channel is their place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        assert cv2.imwrite(str(path), np.full((24, 32, 3), (7, 60, number), np.uint8))
    return paths


def add_hidden_files(folder: Path) -> None:
    (folder / "._5.png").write_bytes(APPLE_DOUBLE)
    (folder / ".hidden.jpg").write_bytes(b"no picture")


@pytest.fixture
def unpadded(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "frames", *(f"{number}.png" for number in range(5, 15)))
    add_hidden_files(tmp_path / "frames")
    return tmp_path / "frames"


class TestUnpaddedNumbers:
    def test_are_played_by_value(self, unpadded: Path) -> None:
        recording = open_recording(str(unpadded), "left")
        played = [int(recording.image(number)[0, 0, 0]) for number in range(len(recording))]
        assert played == list(range(10))

    def test_pair_up_by_value(self, unpadded: Path, tmp_path: Path) -> None:
        names = [f"{number}.png" for number in range(14, 4, -1)]
        write_pictures(tmp_path / "right", *names)
        lefts, rights = paired_images(unpadded, tmp_path / "right")
        assert [path.stem for path in lefts] == [str(n) for n in range(5, 15)]
        assert [path.stem for path in rights] == [str(n) for n in range(5, 15)]

    def test_train_and_calibrate_by_value(self, unpadded: Path) -> None:
        assert [path.stem for path in list_photos(unpadded)] == [str(n) for n in range(5, 15)]
        assert [int(frame[0, 0, 0]) for frame in read_frames(unpadded)] == list(range(10))

    def test_48_pictures_in_pairs_are_spread_over_all(self, tmp_path: Path) -> None:
        write_pictures(tmp_path, *(f"{number}.png" for number in range(150)))
        chosen = [int(frame[0, 0, 0]) for frame in read_frames(tmp_path)]
        assert chosen == [number for pair in range(0, 144, 6) for number in (pair, pair + 1)]


@pytest.mark.parametrize(
    "ordered",
    [
        ["9.png", "10.png"],
        ["09.png", "9.png", "10.png"],
        ["a2b9.png", "a2b10.png", "a10b1.png"],
        ["frame.png", "frame1.png"],
        ["x/log_2/m", "x/log_10/m"],
        ["1403636579763555584.png", "1403636579813555456.png"],
    ],
)
def test_natural_order(ordered: list[str]) -> None:
    assert [str(p) for p in sorted(map(Path, reversed(ordered)), key=natural_order)] == ordered


def test_a_folder_of_hidden_files_holds_no_pictures(tmp_path: Path) -> None:
    add_hidden_files(tmp_path)
    with pytest.raises(FrameError, match=r"holds no images \(.png, .jpg, .jpeg, .webp\)"):
        images_by_stem(tmp_path)
    with pytest.raises(FrameError, match=r"\(\*_l.png, \*_l.jpg, \*_l.jpeg, \*_l.webp\)"):
        images_by_stem(tmp_path, "_l")
    with pytest.raises(FrameError, match="is not a recording"):
        open_recording(str(tmp_path), "left")
    with pytest.raises(FrameError, match="has no pictures"):
        list_photos(tmp_path)


def test_a_mark_of_utf_8_is_no_part_of_the_first_path(tmp_path: Path) -> None:
    left, right = write_pictures(tmp_path, "left.png", "right.png")
    pairs = tmp_path / "pairs.txt"
    pairs.write_bytes(b"\xef\xbb\xbfleft.png\r\nright.png\r\n")
    assert read_pair_list(pairs, tmp_path) == [Pair(left, right)]
    assert len(read_frames(pairs)) == 2


def test_a_path_that_cannot_be_looked_at_is_named(tmp_path: Path) -> None:
    """Path's own methods raise here, as below a folder that one may not enter."""
    path = tmp_path / ("x" * 300)
    with pytest.raises(DsinError, match=r"cannot look at .*: File name too long"):
        read_pair_list(path, tmp_path)
    with pytest.raises(DsinError, match=r"cannot look at .*: File name too long"):
        open_recording(str(path), "left")


def test_no_path_is_looked_at_but_in_one_place() -> None:
    """`Path.is_file` and its like raise PermissionError before Python 3.14."""
    root = Path(__file__).resolve().parents[3] / "runtime"
    rooms = [path for path in root.rglob("*.py") if path.name not in ("files.py", "terminal.py")]
    calls = re.compile(r"\.(is_file|is_dir|exists)\(\)")
    found = {path.name: calls.findall(path.read_text("utf-8")) for path in rooms}
    assert {name: len(calls) for name, calls in found.items() if calls} == {"bundle.py": 2}
