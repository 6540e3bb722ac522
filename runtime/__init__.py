"""What runs on a device and on a server: no torch, no onnx, no tensorrt at import.

    from dsin.runtime import Decoder, Encoder, open_bundle

    bundle = open_bundle()
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        packet = encoder.encode(frame)
        picture = decoder.decode(bytes(packet), side).image

Threads may share a bundle, a packet and a prepared side image, which never change, and also an
encoder or a decoder. A RateController belongs to one stream and to the thread that feeds it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dsin.runtime.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    DsinError,
    ExportError,
    FrameError,
    PacketError,
    RecordingError,
    StreamError,
)
from dsin.runtime.quiet_packages import silence_packages

if TYPE_CHECKING:
    from dsin.runtime.codec.bundle import open_bundle, shipped_bundles
    from dsin.runtime.codec.decoder import Decoded, Decoder
    from dsin.runtime.codec.encoder import Encoder
    from dsin.runtime.codec.packet import Packet
    from dsin.runtime.codec.rate_control import RateController
    from dsin.runtime.patch_correlation import match

__all__ = [
    "BackendError",
    "BundleError",
    "CheckpointError",
    "Decoded",
    "Decoder",
    "DsinError",
    "Encoder",
    "ExportError",
    "FrameError",
    "Packet",
    "PacketError",
    "RateController",
    "RecordingError",
    "StreamError",
    "match",
    "open_bundle",
    "shipped_bundles",
]

silence_packages()

_MODULES = {
    "Decoded": "codec.decoder",
    "Decoder": "codec.decoder",
    "Encoder": "codec.encoder",
    "Packet": "codec.packet",
    "RateController": "codec.rate_control",
    "match": "patch_correlation",
    "open_bundle": "codec.bundle",
    "shipped_bundles": "codec.bundle",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use (PEP 562), so that the command line starts without numpy and numba.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dsin.runtime.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
