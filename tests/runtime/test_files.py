"""Files that appear whole or not at all."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.files import entries, is_folder, write_bytes_atomically, write_image, write_json


def test_bytes_arrive_and_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first", b"second"):
        write_bytes_atomically(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes_atomically(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_keeps_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_bytes_atomically(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"data"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_bytes_atomically(Path(os.devnull), b"data")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("name", ["absent/file", "folder", "plain/file", "x" * 300, "loop"])
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_bytes(b"before")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DsinError, match="cannot write") as caught:
        write_bytes_atomically(tmp_path / name, b"data")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "plain").read_bytes() == b"before"


def test_a_rename_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DsinError, match="No space left on device"):
        write_bytes_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_comes_back_as_it_was(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    write_image(tmp_path / "a.png", image)
    back = cv2.imread(str(tmp_path / "a.png"))
    assert back is not None
    assert np.array_equal(back[:, :, ::-1], image)


@pytest.mark.parametrize("name", ["a", "a.xyz", ".png.", "a.txt"])
def test_a_picture_needs_a_known_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(DsinError, match=r"use a suffix such as \.png"):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_json_is_indented_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"größe": 1.5})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n "größe": 1.5\n}\n'


def test_paths_that_cannot_be_looked_at_are_told_as_the_caller_wants(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=f"^cannot read {tmp_path / 'absent'}: No such file"):
        entries(tmp_path / "absent", FrameError)
    with pytest.raises(FrameError, match=r"^'a.x00b' is not a path$"):
        is_folder(Path("a\0b"), FrameError)
    with pytest.raises(FrameError, match=r"^cannot look at x+: File name too long$"):
        is_folder(Path("x" * 300), FrameError)
    assert not is_folder(tmp_path / "absent")
