"""`dsin try`: two pictures of one's own, coded and decoded, beside HEVC and JPEG at equal bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.decoder import Decoded, Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import Packet
from dsin.runtime.codec.precision import precision_of
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.evaluation.crops import at_bytes
from dsin.runtime.evaluation.rivals import rivals
from dsin.runtime.evaluation.similarity import similarity
from dsin.runtime.files import check_target, write_bytes_atomically
from dsin.runtime.metrics import psnr_db
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image
from dsin.runtime.progress import ProgressLine
from dsin.runtime.terminal import say

RIVALS = ("hevc", "jpeg")
BLOCK = 16
"""Rows and columns of the squares in which the pictures with and without y are compared."""


@dataclass(frozen=True)
class Quality:
    """A picture and what it took; `ms_ssim` is None for pictures under 161 pixels a side."""

    name: str
    picture: Image
    size: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None


@dataclass(frozen=True)
class Help:
    """Where the side image helped: by how much the squared error of each block of BLOCK pixels a
    side fell, (rows, columns), in grey levels squared; `better` is the share of the picture where
    it did, `gain_db` the PSNR that all of it is worth."""

    gain: npt.NDArray[np.float64]
    better: float
    gain_db: float


@dataclass(frozen=True)
class Tried:
    """Everything that the page shows. `absent` are rivals that could not be compared, and why."""

    left: str
    right: str
    x: Image
    y: Image
    bundle: str
    networks: str
    backend: Backend
    packet: Packet
    decoded: Decoded
    patch: tuple[int, int]
    result: Quality
    alone: Quality
    others: tuple[Quality, ...]
    absent: tuple[str, ...]
    help: Help


def run_try(
    left: Path, right: Path, page: Path, *, bundle: str | None = None, rate: int | None = None,
    backend: Backend = "cpu",
) -> Tried:  # fmt: skip
    """Code the left picture, decode it with the right one, and write the page.

    Raises FrameError for pictures that cannot be used or differ in size, BundleError, BackendError
    and DsinError as an encoder does, and DsinError for a page that cannot be written.
    """
    from dsin.runtime.evaluation.two_pictures_page import to_html

    check_target(page)
    with ProgressLine() as progress:
        tried = try_pictures(left, right, bundle, rate, backend, progress.show)
        progress.show("writing the page")
        write_bytes_atomically(page, to_html(tried).encode())
    say(f"{page}: {tried.result.size} bytes, {tried.result.psnr_db:.2f} dB, "
        f"{tried.help.gain_db:+.2f} dB by the side image")  # fmt: skip
    return tried


def try_pictures(
    left: Path, right: Path, bundle: str | None, rate: int | None, backend: Backend,
    tell: Callable[[str], None] = lambda line: None,
) -> Tried:  # fmt: skip
    """The same without the page; `tell` gets what is going on."""
    x, y = read_image(left), read_image(right)
    if x.shape != y.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (x, y)]
        raise FrameError(
            f"{left} is {sizes[0]} and {right} is {sizes[1]}: give two pictures of one size"
        )
    tell("encoding and decoding")
    with Encoder(bundle, backend) as encoder, Decoder(bundle, backend) as decoder:
        packet = encoder.encode(x, rate)
        decoded = decoder.decode(bytes(packet), y)
        opened = decoder.bundle
    others, absent = [], []
    for name in RIVALS:
        tell(f"{name.upper()} at {len(packet)} bytes")
        try:
            (rival,) = rivals([name])
        except DsinError as error:
            absent.append(f"{name.upper()} was not compared: {error}")
            continue
        found = at_bytes(rival, x, len(packet))
        others.append(quality(name.upper(), found.picture, x, found.size))
    return Tried(
        left.name, right.name, x, y, opened.path.name, precision_of(opened), backend, packet,
        decoded, opened.search.patch,
        quality("dsin", decoded.image, x, len(packet)),
        quality("dsin without the side image", decoded.x_dec, x, len(packet)),
        tuple(others), tuple(absent), where_it_helped(x, decoded),
    )  # fmt: skip


def quality(name: str, picture: Image, original: Image, size: int) -> Quality:
    """Of a picture that was coded with that many bytes."""
    pixels = original.shape[0] * original.shape[1]
    return Quality(
        name, picture, size, 8 * size / pixels, psnr_db(picture, original),
        similarity(picture, original),
    )  # fmt: skip


def where_it_helped(x: Image, decoded: Decoded) -> Help:
    """Errors of the result against those of x_dec."""
    with_y, alone = (_errors(picture, x) for picture in (decoded.image, decoded.x_dec))
    gain = alone - with_y
    return Help(
        gain=gain,
        better=float(np.mean(gain > 0)),
        gain_db=psnr_db(decoded.image, x) - psnr_db(decoded.x_dec, x),
    )


def _errors(picture: Image, x: Image) -> npt.NDArray[np.float64]:
    """Mean squared error of each block, in grey levels squared; those at the edge may be cut."""
    squared = np.square(picture.astype(np.float64) - x).mean(axis=2)
    rows, columns = (range(0, length, BLOCK) for length in squared.shape)
    areas = np.outer(*(np.minimum(BLOCK, length - np.arange(0, length, BLOCK))
                       for length in squared.shape))  # fmt: skip
    sums = np.add.reduceat(np.add.reduceat(squared, list(rows), 0), list(columns), 1)
    return np.asarray(sums / areas, np.float64)


def help_map(tried: Tried) -> Image:
    """x in grey; green where y lowered the error, orange where it raised it, full colour at the
    gain that one block in twenty exceeds."""
    gain, (height, width) = tried.help.gain, tried.x.shape[:2]
    full = max(float(np.quantile(np.abs(gain), 0.95)), 1e-9)
    level = np.clip(gain / full, -1, 1)
    green, orange = np.array((38, 166, 91)), np.array((230, 110, 30))
    colour = np.where(level[..., None] > 0, green, orange)
    alpha = 0.75 * np.sqrt(np.abs(level))[..., None]
    size = gain.shape[1] * BLOCK, gain.shape[0] * BLOCK
    tint, share = (
        cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        for plane in (colour, alpha)
    )
    grey = cv2.cvtColor(tried.x, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    shares = share[:height, :width, None]
    mixed = grey * (1 - shares) + tint[:height, :width] * shares
    return np.asarray(np.rint(mixed), np.uint8)
