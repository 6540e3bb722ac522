"""What programs that embed the codec import, and what they are told when they misuse it."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.block_bundle import write_block_bundle

import dsin.runtime
from dsin.runtime import (
    BundleError,
    Decoder,
    DsinError,
    Encoder,
    FrameError,
    PacketError,
    RateController,
    errors,
    open_bundle,
    shipped_bundles,
)

EXPORTED = [
    "BackendError",
    "BundleError",
    "CheckpointError",
    "Decoded",
    "DecodedFrames",
    "Decoder",
    "DsinError",
    "Encoder",
    "ExportError",
    "FrameError",
    "Packet",
    "PacketError",
    "RateController",
    "RecordingError",
    "ReferenceMissingError",
    "SentFrames",
    "StreamError",
    "match",
    "open_bundle",
    "shipped_bundles",
]
FRAME = np.zeros((40, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("api") / "blocks")


def test_the_package_exports_this_and_no_more() -> None:
    assert dsin.runtime.__all__ == EXPORTED
    assert {name: getattr(dsin.runtime, name).__doc__ for name in EXPORTED}.keys() == set(EXPORTED)
    assert all(getattr(dsin.runtime, name).__doc__ for name in EXPORTED)


@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("device", ["Device", "PacketMaker", "PictureMaker", "PushSource"]),
        ("link", ["Certificates"]),
        ("outputs", ["Sink"]),
        ("patch_correlation", ["Matches", "match", "patch_correlation"]),
        ("server", ["serving"]),
        ("sources", ["open_camera"]),
    ],
)
def test_a_room_exports_this_and_no_more(room: str, names: list[str]) -> None:
    module = importlib.import_module(f"dsin.runtime.{room}")
    assert module.__all__ == names
    assert set(names) <= set(dir(module))
    for name in names:
        assert getattr(module, name).__name__ == name
        assert getattr(module, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'none_of_it'"):
        _ = module.none_of_it


def test_rooms_without_exports_have_none() -> None:
    folders = Path(dsin.runtime.__file__).parent.glob("*/__init__.py")
    rooms = {path.parent.name for path in folders if "__all__" in path.read_text()} - {"top"}
    assert rooms == {"device", "link", "outputs", "patch_correlation", "server", "sources"}


def test_importing_a_room_loads_nothing_that_it_exports() -> None:
    rooms = ("device", "link", "outputs", "server", "sources")
    code = f"""import sys, {", ".join(f"dsin.runtime.{room}" for room in rooms)}
print(*sorted(name for name in sys.modules if name.startswith(("dsin.", "numpy.", "grpc."))))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {
        "dsin.runtime",
        "dsin.runtime.errors",
        "dsin.runtime.lazy_exports",
        "dsin.runtime.quiet_packages",
    }
    assert set(done.stdout.split()) == own | {f"dsin.runtime.{room}" for room in rooms}


def test_the_version_is_that_of_the_installed_package() -> None:
    assert dsin.runtime.__version__ == metadata.version("dsin")


def test_every_error_is_exported() -> None:
    raised = {name for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert raised == {name for name in EXPORTED if name.endswith("Error")}


def test_bundles_of_the_package_can_be_opened_by_name() -> None:
    assert shipped_bundles() == ["edge", "edge-structure", "paper"]


@pytest.mark.parametrize("rate", [0.5, 1.0, True, "1", np.float32(1)])
def test_a_rate_is_a_whole_number(blocks: Path, rate: Any) -> None:
    with (
        Encoder(blocks) as encoder,
        pytest.raises(DsinError, match="a rate is a whole number, the index of a rate point, not"),
    ):
        encoder.encode(FRAME, rate)


def test_a_rate_may_come_from_numpy(blocks: Path) -> None:
    with Encoder(blocks) as encoder:
        assert encoder.encode(FRAME, np.int64(1)).header.rate == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [[[0, 0, 0]], "left.png", None, Path("left.png")])
def test_a_frame_is_an_array(blocks: Path, frame: Any) -> None:
    kind = type(frame).__name__
    with Encoder(blocks) as encoder, Decoder(blocks) as decoder:
        with pytest.raises(FrameError, match=f"frame is of type {kind}: an array of 8-bit colour"):
            encoder.encode(frame)
        with pytest.raises(FrameError, match=f"side image is of type {kind}"):
            decoder.prepare_side(frame)
        if frame is not None:  # which says that there is no side image
            with pytest.raises(FrameError, match=f"side image is of type {kind}"):
                decoder.decode(encoder.encode(FRAME), frame)


@pytest.mark.parametrize("packet", ["text", None, 3, [1, 2]])
def test_a_packet_is_bytes(blocks: Path, packet: Any) -> None:
    with (
        Decoder(blocks) as decoder,
        pytest.raises(PacketError, match=f"a packet is bytes, not {type(packet).__name__}"),
    ):
        decoder.decode(packet, None)


@pytest.mark.parametrize("stamp", [{"frame_number": 1.5}, {"timestamp_ns": "now"}])
def test_numbers_of_a_frame_are_whole(blocks: Path, stamp: dict[str, Any]) -> None:
    with Encoder(blocks) as encoder, pytest.raises(PacketError, match="header field does not fit"):
        encoder.encode(FRAME, **stamp)


@pytest.mark.parametrize("name", [3, 1.5, b"edge"])
def test_a_bundle_is_named_by_text_or_path(name: Any) -> None:
    for opened in (open_bundle, Encoder, Decoder):
        with pytest.raises(BundleError, match="a bundle is named by its path or name, not by"):
            opened(name)


def test_what_is_closed_says_so(blocks: Path) -> None:
    with Encoder(blocks) as encoder, Decoder(blocks) as decoder:
        packet, latent = encoder.encode(FRAME), encoder.latent(FRAME)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("encoder", lambda: encoder.encode(FRAME)),
        ("encoder", lambda: encoder.latent(FRAME)),
        ("decoder", lambda: decoder.decode(packet, None)),
        ("decoder", lambda: decoder.decode_latent(latent, None, 40, 48)),
        ("decoder", lambda: decoder.prepare_side(FRAME)),
    ]
    for kind, call in calls:
        with pytest.raises(DsinError, match=f"this {kind} is closed: open another one"):
            call()


def test_a_rate_controller_takes_the_points_of_its_bundle(blocks: Path) -> None:
    bundle = open_bundle(blocks)
    points = [point.target_bpp for point in bundle.rate_points]
    for kbps in (1, 10_000):
        made = RateController.for_bundle(bundle, kbps, 10, size=(40, 48))
        by_hand = RateController(points, pixels=40 * 48, target_kbps=kbps, fps=10)
        assert made.next_rate() == by_hand.next_rate() == (0 if kbps == 1 else 1)
    for kbps in (0, -1, float("nan")):
        with pytest.raises(DsinError, match="above 0"):
            RateController.for_bundle(bundle, kbps, 10, size=(40, 48))
