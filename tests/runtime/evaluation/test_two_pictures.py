"""`dsin try`: the figures of the page, the map of where y helped, and the page itself."""

import base64
import dataclasses
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.command_line import command_line

from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation import two_pictures as module
from dsin.runtime.evaluation.rivals import Rival
from dsin.runtime.evaluation.two_pictures import (
    BLOCK,
    Tried,
    help_map,
    quality,
    try_pictures,
    where_it_helped,
)
from dsin.runtime.evaluation.two_pictures_page import to_html, verdict
from dsin.runtime.files import write_image
from dsin.runtime.pictures import Image
from dsin.runtime.sources.synthetic_rig import SyntheticRig


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("try") / "blocks")


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    frame = SyntheticRig(width=192, height=176, frames=1).frame(0)
    write_image(folder / "left.png", frame.left)
    write_image(folder / "right.png", frame.right)
    return folder


@pytest.fixture(scope="module")
def tried(views: Path) -> Tried:
    """With the shipped weights, whose side image helps."""
    return try_pictures(views / "left.png", views / "right.png", "edge@float", 2, "cpu")


def pictures(page: str) -> list[Image]:
    """Those inside the page, decoded."""
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    files = (np.frombuffer(base64.b64decode(data), np.uint8) for data in found)
    return [np.asarray(cv2.imdecode(f, cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8) for f in files]


def test_figures_are_those_of_the_pictures(tried: Tried) -> None:
    result, alone = tried.result, tried.alone
    assert result.size == len(tried.packet) == alone.size
    assert result.bpp == 8 * result.size / (192 * 176)
    assert result.psnr_db > alone.psnr_db + 0.3
    assert tried.help.gain_db == result.psnr_db - alone.psnr_db
    assert [other.name for other in tried.others] == ["HEVC", "JPEG"]
    for other in tried.others:
        assert other.size > 0
        assert other.psnr_db > 10
    assert tried.packet.header.rate == 2
    assert (result.name, alone.name) == ("dsin", "dsin without the side image")
    assert (tried.left, tried.right, tried.bundle) == ("left.png", "right.png", "edge")
    assert (tried.networks, tried.backend) == ("float", "cpu")


def test_the_page_holds_its_pictures_and_nothing_from_elsewhere(tried: Tried) -> None:
    page = to_html(tried)
    xml.etree.ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert "<script" not in page
    assert re.findall(r"""(?:src|href)="(?!data:)""", page) == []
    assert "url(" not in page
    shown = pictures(page)
    assert len(shown) == 5 + 5 + 4
    assert np.array_equal(shown[0], tried.x)
    assert np.array_equal(shown[1], tried.decoded.image)
    assert np.array_equal(shown[2], tried.decoded.x_dec)
    assert np.array_equal(shown[10], tried.y)
    assert np.array_equal(shown[13], help_map(tried))
    for text in (f"{tried.result.psnr_db:.2f} dB", "HEVC", "JPEG", "The side image helped: +"):
        assert text in page


def test_what_the_page_says(tried: Tried) -> None:
    """All of its words in turn, with figures that were chosen."""
    result, alone, hevc, jpeg = (
        dataclasses.replace(each, name=name, size=size, bpp=size / 4224, psnr_db=psnr, ms_ssim=ssim)
        for each, name, size, psnr, ssim in zip(
            (tried.result, tried.alone, *tried.others),
            ("dsin", "dsin without the side image", "HEVC", "JPEG"),
            (1000, 1000, 1099, 1200), (25.5, 24.0, 22.25, 20.0), (0.9, 0.8, 0.7, None), strict=True,
        )
    )  # fmt: skip
    helped = dataclasses.replace(tried.help, gain_db=1.5, better=0.75)
    page = to_html(
        dataclasses.replace(
            tried, left="l.png", right="r.png", result=result, alone=alone, others=(hevc, jpeg),
            absent=("AV1 was not compared",), help=helped,
        )
    )  # fmt: skip
    body = re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)
    words = [text.strip() for text in re.findall(r">([^<>]+)<", body) if text.strip()]
    furthest = next(w for w in words if w.startswith("how far away each piece was found: blue 0"))
    version = next(word for word in words if word.startswith("192×176 pixels; "))
    assert version.startswith(
        "192×176 pixels; bundle edge, rate 2, networks in float on cpu, dsin "
    )
    notes = {
        "dsin": "1,000 bytes, 25.50 dB, MS-SSIM 0.9000",
        "dsin without the side image": "1,000 bytes, 24.00 dB, MS-SSIM 0.8000",
        "HEVC": "1,099 bytes, 22.25 dB, MS-SSIM 0.7000",
        "JPEG": "1,200 bytes (1.20 times ours: it has no setting nearer), 20.00 dB",
    }
    assert words == [
        "dsin: l.png", "l.png, seen again in r.png", version,
        "The side image helped: +1.50 dB, and 75 % of the picture is better.",
        "1,000 B", "of 101,376 uncompressed", "0.2367", "bits per pixel",
        "25.50 dB", "PSNR, 24.00 without the side image", "0.9000", "MS-SSIM, 0.8000 without",
        "At equal bytes", "codec", "bytes", "bits per pixel", "PSNR, dB", "MS-SSIM",
        "dsin", "1,000", "0.2367", "25.50", "0.9000",
        "dsin without the side image", "1,000", "0.2367", "24.00", "0.8000",
        "HEVC", "1,099", "0.2602", "22.25", "0.7000", "JPEG", "1,200", "0.2841", "20.00",
        "AV1 was not compared",
        "Pictures", "original", "what was encoded",
        *(part for pair in notes.items() for part in pair),
        "The same place, close up", "original", *notes,
        "The side image", "side image", "what the receiver sees itself", "matches", furthest,
        "y_syn", "the pieces, where they belong",
        "where it helped", "smaller error with the side image", "larger",
    ]  # fmt: skip
    assert '<p class="verdict yes">' in page


def decoded(image: Image, x_dec: Image, *, used: bool = True) -> Decoded:
    return Decoded(image, x_dec, None, None, used, None, {})


def test_the_map_is_green_where_it_helped_and_orange_where_not() -> None:
    """Blocks at the edge are cut: 40 is no multiple of 16."""
    x = np.full((40, 48, 3), 100, np.uint8)
    alone, result = x + 10, x + 10
    result[:16, :16] = 100
    result[32:, 32:] = 130
    found = where_it_helped(x, decoded(result, alone))
    assert found.gain.shape == (3, 3)
    assert (found.gain[0, 0], found.gain[1, 1], found.gain[2, 2]) == (100, 0, -800)
    assert found.better == pytest.approx(1 / 9)
    assert found.gain_db < 0
    packet = Packet(PacketHeader(b"123456", 48, 40), b"")
    tried = Tried(
        "l", "r", x, x, "edge", "float", "cpu", packet, decoded(result, alone), (20, 24),
        quality("dsin", result, x, 9), quality("alone", alone, x, 9), (), (), found,
    )  # fmt: skip
    shown = help_map(tried).astype(int)
    assert shown.shape == x.shape
    assert shown[0, 0, 1] > shown[0, 0, 0]  # green
    assert shown[39, 47, 0] > shown[39, 47, 2] + 50  # orange
    # One block of nine is beyond the 0.95 quantile of 0, 100 and 800, which is 520: full colour.
    # Three quarters of orange (230, 110, 30), and sqrt(100 / 520) of that of green (38, 166, 91).
    assert shown[39, 47].tolist() == [198, 108, 48]
    assert shown[0, 0].tolist() == [80, 122, 97]
    assert shown[20, 20].tolist() == [100, 100, 100]
    assert verdict(tried)[0] == "no"
    assert "did not help: -" in verdict(tried)[1]
    unused = dataclasses.replace(tried, decoded=decoded(alone, alone, used=False))
    assert verdict(unused) == ("no", "The side image was not used: it seems to show another scene.")
    assert "where it helped" not in to_html(unused)
    assert BLOCK == 16


def test_it_tells_what_it_does_and_refuses_a_page_first(
    blocks: Path, views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "RIVALS", ("jpeg",))
    found = module.try_pictures(
        views / "left.png", views / "right.png", str(blocks), 0, "cpu", told.append
    )
    assert told == ["encoding and decoding", f"JPEG at {found.result.size} bytes"]
    with pytest.raises(DsinError, match="its folder does not exist"):
        module.run_try(tmp_path / "none.png", tmp_path / "none.png", tmp_path / "none" / "p.html")


def test_the_command(
    blocks: Path, views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    dsin = command_line(monkeypatch, capfd)
    monkeypatch.setattr(module, "RIVALS", ())
    left, right, page = views / "left.png", views / "right.png", tmp_path / "<page>.html"
    done = dsin("try", left, right, "-o", page, "--bundle", blocks, "--rate", 0)
    assert done.status == 0
    assert f"{page}: " in done.out
    assert "rate 0" in page.read_text()
    small = tmp_path / "small.png"
    write_image(small, np.zeros((40, 48, 3), np.uint8))
    done = dsin("try", left, small, "-o", page, "--bundle", blocks)
    assert (done.status, done.out) == (1, "")
    assert "is 192x176 and" in done.err
    assert "is 48x40: give two pictures of one size" in done.err
    done = dsin("try", left, right, "-o", tmp_path / "none" / "p.html", "--bundle", blocks)
    assert (done.status, done.out) == (1, "")
    assert dsin("try", left, tmp_path / "none.png", "-o", page).status == 1


def test_a_rival_that_is_not_installed_is_said_on_the_page(
    blocks: Path, views: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("av", "imagecodecs"):
        monkeypatch.setitem(sys.modules, name, None)
    found = try_pictures(views / "left.png", views / "right.png", str(blocks), None, "cpu")
    assert found.others == ()
    page = to_html(found)
    for codec, package in (("HEVC", "av"), ("JPEG", "imagecodecs")):
        assert f"{codec} was not compared: {package} is not installed" in page
    assert "pip install" in page


def test_a_codec_that_has_no_such_few_bytes_says_so(
    blocks: Path, views: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def code(picture: Image, setting: float) -> tuple[int, Image]:
        return 10**6, picture

    monkeypatch.setattr(module, "rivals", lambda names: [Rival(names[0], (1,), (1,), code)])
    found = try_pictures(views / "left.png", views / "right.png", str(blocks), None, "cpu")
    assert "times ours: it has no setting nearer" in to_html(found)


def test_names_of_files_are_text(tried: Tried) -> None:
    page = to_html(dataclasses.replace(tried, left="<b>&.png"))
    assert "<b>&.png" not in page
    assert "&lt;b&gt;&amp;.png" in page


def test_a_wide_picture_is_made_smaller_and_its_cuts_are_not(tried: Tried) -> None:
    wide = np.tile(tried.x, (1, 10, 1))
    same = quality("dsin", wide, wide, 9)
    page = to_html(
        dataclasses.replace(
            tried, x=wide, y=wide, result=same, alone=same, others=(),
            decoded=decoded(wide, wide, used=False),
        )
    )  # fmt: skip
    shown = pictures(page)
    assert shown[0].shape == (147, 1600, 3)
    assert shown[3].shape == (160, 400, 3)
