"""Picture files: whole and upright, or refused with one line."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.picture_files import read_image
from dsin.runtime.quiet_opencv import SILENT, quiet_opencv


def gradient() -> np.ndarray:
    """32×48, BGR: blue grows to the right, green grows downwards."""
    rows, columns = np.mgrid[:32, :48]
    return np.stack([5 * columns, 7 * rows, 0 * rows], 2).astype(np.uint8)


def jpeg(orientation: int | None = None) -> bytes:
    data = cv2.imencode(".jpg", gradient(), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    if orientation is None:
        return data
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_colours_are_in_the_order_of_rgb(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), gradient())
    assert read_image(tmp_path / "a.png")[31, 40].tolist() == [0, 217, 200]


@pytest.mark.parametrize(
    ("orientation", "shape", "bright_blue", "bright_green"),
    [
        (1, (32, 48, 3), "right", "bottom"),
        (2, (32, 48, 3), "left", "bottom"),
        (3, (32, 48, 3), "left", "top"),
        (6, (48, 32, 3), "bottom", "left"),
        (8, (48, 32, 3), "top", "right"),
    ],
)
def test_a_picture_is_upright(
    tmp_path: Path, orientation: int, shape: tuple[int, ...], bright_blue: str, bright_green: str
) -> None:
    (tmp_path / "turned.jpg").write_bytes(jpeg(orientation))
    image = read_image(tmp_path / "turned.jpg").astype(int)
    assert image.shape == shape
    for channel, side in ((2, bright_blue), (1, bright_green)):
        plane = image[:, :, channel]
        ends = {
            "left": plane[:, :4], "right": plane[:, -4:], "top": plane[:4], "bottom": plane[-4:],
        }  # fmt: skip
        assert max(ends, key=lambda end: ends[end].mean()) == side


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_picture_that_was_cut_off_is_refused(
    tmp_path: Path, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tif"):
        data = cv2.imencode(suffix, gradient())[1].tobytes()
        (tmp_path / f"cut{suffix}").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(FrameError, match="is not an image that OpenCV reads, or was cut off"):
            read_image(tmp_path / f"cut{suffix}")


def test_grey_becomes_colour(tmp_path: Path) -> None:
    grey = gradient()[:, :, 0]
    assert cv2.imwrite(str(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("name", "picture", "shape"),
    [
        ("deep.png", np.zeros((8, 8, 3), np.uint16), "8x8x3 uint16"),
        ("deep_grey.png", np.zeros((8, 9), np.uint16), "8x9 uint16"),
    ],
)
def test_other_pictures_are_refused(
    tmp_path: Path, name: str, picture: np.ndarray, shape: str
) -> None:
    assert cv2.imwrite(str(tmp_path / name), picture)
    with pytest.raises(FrameError, match=f"is {shape}: an 8-bit colour image is needed"):
        read_image(tmp_path / name)


def test_transparency_is_refused_with_advice(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "clear.png"), np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(FrameError, match=r"clear\.png has transparency.*-alpha off"):
        read_image(tmp_path / "clear.png")


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(FrameError, match="is not an image that OpenCV reads, or has too many"):
        read_image(tmp_path / "huge.png")


def test_names_need_not_be_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"stra\xdfe.jpg")
    path.write_bytes(jpeg())
    assert read_image(path).shape == (32, 48, 3)


def test_the_log_level_comes_back_when_the_last_thread_leaves() -> None:
    """Threads decode side by side: none may take another's silence for the level before."""
    logging = getattr(cv2.utils, "logging", cv2)
    before = logging.getLogLevel()
    first, second = quiet_opencv(), quiet_opencv()
    with first:
        second.__enter__()
    assert logging.getLogLevel() == SILENT
    second.__exit__(None, None, None)
    assert before != SILENT
    assert logging.getLogLevel() == before


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"there is no image .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(FrameError, match=r"cannot read .*: Is a directory"):
        read_image(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FrameError, match=r"cannot read .*: Not a directory"):
        read_image(tmp_path / "file" / "a.png")
    with pytest.raises(FrameError, match="is not an image that OpenCV reads"):
        read_image(tmp_path / "file")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_picture_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(FrameError):
        read_image(path)
