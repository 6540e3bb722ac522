"""Side images from a camera that may send anything: what is accepted, and what it may cost."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.link.side_pictures import decode_picture, encode_picture, picture_size
from dsin.runtime.pictures import Image

SIZE = (16, 24)
START = b"\xff\xd8"


def scene(size: tuple[int, int] = SIZE) -> Image:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([8 * rows, 8 * columns, 4 * (rows + columns)], axis=2).astype(np.uint8)


def frame_header(height: int, width: int) -> bytes:
    """JPEG's, of three components."""
    return b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


def exif(orientation: int) -> bytes:
    """JPEG's segment that tells how a camera was held."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def test_a_picture_without_loss_comes_back_as_it_was() -> None:
    assert np.array_equal(decode_picture(encode_picture(scene()), SIZE), scene())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pixels_stay_where_the_sensor_has_them_however_the_camera_was_held(
    orientation: int,
) -> None:
    plain = encode_picture(scene(), 95)
    turned = START + exif(orientation) + plain[2:]
    assert np.array_equal(decode_picture(turned, SIZE), decode_picture(plain, SIZE))


@pytest.mark.parametrize("marker", [0x00, 0x01, 0xD0, 0xD8, 0xD9])
def test_a_jpeg_file_cannot_show_one_size_and_have_another(marker: int) -> None:
    """Markers without a length: who reads one for them looks past the real frame header."""
    hidden = frame_header(30000, 30000)
    decoy = frame_header(*SIZE)
    length = int.from_bytes(hidden[:2], "big")
    file = START + bytes([0xFF, marker]) + hidden
    file += bytes(4 + length - len(file)) + decoy + bytes(20)
    with pytest.raises(FrameError):
        picture_size(file)


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"IEND"])
@pytest.mark.parametrize("rest", [0, 3, 100])
def test_a_chunk_of_a_png_file_cannot_claim_more_than_was_sent(kind: bytes, rest: int) -> None:
    """OpenCV would allocate these 2 GiB."""
    start = encode_picture(scene())[:33]
    with pytest.raises(FrameError, match="cut short"):
        picture_size(start + struct.pack(">I4s", 2**31 - 1, kind) + bytes(rest))


@pytest.mark.parametrize("fill", range(4))
def test_bytes_that_fill_the_space_before_a_marker_are_skipped(fill: int) -> None:
    """However many there are (ITU-T T.81, B.1.1.2)."""
    plain = encode_picture(scene(), 95)
    assert picture_size(START + b"\xff" * fill + plain[2:]) == SIZE


@settings(max_examples=300, deadline=None)
@given(
    quality=st.sampled_from([None, 60]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6)), max_size=4),
    cut=st.integers(0, 2000),
)
def test_a_damaged_picture_is_one_of_that_size_or_refused(
    quality: int | None, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(encode_picture(scene(), quality))
    for place, change in changes:
        data[place % len(data) : place % len(data) + len(change)] = change
    del data[max(2, len(data) - cut) if cut % 3 == 0 else len(data) :]
    try:
        image = decode_picture(bytes(data), SIZE)
    except FrameError:
        return
    assert (image.shape, image.dtype) == ((*SIZE, 3), np.uint8)


@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n"]))
def test_any_bytes_have_a_size_or_are_refused(data: bytes, start: bytes) -> None:
    try:
        height, width = picture_size(start + data)
    except FrameError:
        return
    assert height >= 0
    assert width >= 0


def test_what_opencv_itself_refuses_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("too large")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(FrameError, match="damaged"):
        decode_picture(encode_picture(scene()), SIZE)
