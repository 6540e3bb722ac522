"""`dsin pairs`: a recording as pictures and lists, as training and evaluation read them."""

from pathlib import Path

import numpy as np
import pytest

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.evaluation.pairs import Pair, read_pair_list
from dsin.runtime.files import write_image
from dsin.runtime.picture_files import read_image
from dsin.runtime.sources import pair_list
from dsin.runtime.sources.pair_list import WrittenPairs, write_pairs


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    """Ten frames of both cameras; each is of a grey level of its own."""
    for side, first in (("left", 0), ("right", 100)):
        (tmp_path / "rig" / side).mkdir(parents=True)
        for number in range(10):
            picture = np.full((40, 48, 3), first + number, np.uint8)
            write_image(tmp_path / "rig" / side / f"{number}.png", picture)
    return tmp_path / "rig"


def levels(listed: Path) -> list[tuple[int, int]]:
    def level(path: Path) -> int:
        return int(read_image(path)[0, 0, 0])

    return [(level(p.x), level(p.y)) for p in read_pair_list(listed, listed.parent)]


def test_lists_name_what_was_recorded_and_the_last_frames_validate(
    rig: Path, tmp_path: Path
) -> None:
    told: list[tuple[str, int]] = []
    out = tmp_path / "new" / "out"
    done = write_pairs(str(rig), out, validation=0.2, tell=lambda *line: told.append(line))
    assert done == WrittenPairs(8, 2)
    assert levels(out / "train.txt") == [(n, 100 + n) for n in range(8)]
    assert levels(out / "val.txt") == [(8, 108), (9, 109)]
    assert told[-1] == ("10 of 10 pairs", 10)
    (first, *_) = read_pair_list(out / "train.txt", out)
    assert first == Pair(out / "x" / "000000.png", out / "y" / "000000.png")


def test_fewer_frames(rig: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_pairs(str(rig), out, frames=7, every=3) == WrittenPairs(2, 1)
    assert levels(out / "train.txt") == [(0, 100), (3, 103)]
    assert levels(out / "val.txt") == [(6, 106)]


def test_a_side_camera_of_its_own(rig: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_pairs(str(rig / "left"), out, side=str(rig / "right"), validation=0)
    assert levels(out / "val.txt") == [(9, 109)], "there is always one"


def test_what_cannot_be_written_is_refused_before_anything_is(rig: Path, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="gives 1 pairs: two are needed"):
        write_pairs(str(rig), tmp_path / "out", every=10)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DsinError, match="has something in it"):
        write_pairs(str(rig), rig)
    (tmp_path / "file").touch()
    with pytest.raises(DsinError, match="has something in it"):
        write_pairs(str(rig), tmp_path / "file")
    with pytest.raises(DsinError, match="cannot"):
        write_pairs(str(rig), tmp_path / "file" / "below")


def test_lists_come_last(rig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, image: object) -> None:
        raise DsinError(f"cannot write {path}: no space left")

    monkeypatch.setattr(pair_list, "write_image", full)
    with pytest.raises(DsinError, match="no space"):
        write_pairs(str(rig), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.txt"))
