"""Lists of pairs, and what is refused of them."""

from pathlib import Path

import numpy as np
import pytest

from dsin.runtime.errors import FrameError
from dsin.runtime.evaluation.pairs import Pair, read_pair, read_pair_list
from dsin.runtime.files import write_image


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Of 40×48 and 44×48; each row of x is of its number."""
    rows = np.arange(40, dtype=np.uint8)[:, None, None]
    write_image(tmp_path / "x.png", np.broadcast_to(rows, (40, 48, 3)).copy())
    write_image(tmp_path / "y.png", np.zeros((44, 48, 3), np.uint8))
    return Pair(tmp_path / "x.png", tmp_path / "y.png")


def test_x_and_y_are_one_below_the_other(pair: Pair, tmp_path: Path) -> None:
    """A mark of UTF-8, spaces and empty lines are no paths."""
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfx.png\r\n  y.png \n\ny.png\nx.png\n\n")
    assert read_pair_list(tmp_path / "list", tmp_path) == [pair, Pair(pair.y, pair.x)]


def test_a_list_that_cannot_be_used_is_refused_in_words(pair: Pair, tmp_path: Path) -> None:
    for content, complaint in (
        (b"", " has 0 paths: expected x and y in turn, one on each line"),
        (b"x.png\ny.png\nx.png", " has 3 paths: expected x and y in turn, one on each line"),
        (b"\xff\xfe\x00", " is not a text file: give a list of paths"),
        (b"x.png\nz.png",
         f" names {tmp_path / 'z.png'}, which does not exist: is --root right?"),
    ):  # fmt: skip
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(FrameError) as refused:
            read_pair_list(tmp_path / "list", tmp_path)
        assert str(refused.value) == f"{tmp_path / 'list'}{complaint}"
    with pytest.raises(FrameError) as refused:
        read_pair_list(tmp_path / "none", tmp_path)
    assert str(refused.value) == f"there is no pair list {tmp_path / 'none'}"


def test_a_list_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text("x.png\ny.png\n")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(FrameError) as refused:
        read_pair_list(tmp_path / "list", tmp_path)
    assert str(refused.value) == f"cannot read {tmp_path / 'list'}: Permission denied"


def test_pictures_of_two_sizes_need_a_crop(pair: Pair) -> None:
    with pytest.raises(FrameError) as refused:
        read_pair(pair, None)
    assert str(refused.value) == f"{pair.x} and {pair.y} differ in size: crop both with --crop HxW"
    x, y = read_pair(pair, (16, 32))
    assert (x.shape, y.shape) == ((16, 32, 3), (16, 32, 3))
    assert (x[0, 0, 0], x[-1, 0, 0]) == (12, 27)  # about its centre
