"""What runs on a device and on a server: no torch, no onnx, no tensorrt at import.

from dsin.runtime import Decoder, Encoder, open_bundle

bundle = open_bundle()
packet = Encoder(bundle).encode(frame)
picture = Decoder(bundle).decode(packet, side)
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
    StreamError,
)

if TYPE_CHECKING:
    from dsin.runtime.codec.bundle import Bundle, open_bundle
    from dsin.runtime.codec.decoder import Decoded, Decoder, SideFeatures
    from dsin.runtime.codec.encoder import EncodedFrame, Encoder
    from dsin.runtime.codec.packet import PacketHeader

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Decoded",
    "Decoder",
    "DsinError",
    "EncodedFrame",
    "Encoder",
    "ExportError",
    "FrameError",
    "PacketError",
    "PacketHeader",
    "SideFeatures",
    "StreamError",
    "open_bundle",
]

_MODULES = {
    "Bundle": "codec.bundle",
    "Decoded": "codec.decoder",
    "Decoder": "codec.decoder",
    "EncodedFrame": "codec.encoder",
    "Encoder": "codec.encoder",
    "PacketHeader": "codec.packet",
    "SideFeatures": "codec.decoder",
    "open_bundle": "codec.bundle",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use (PEP 562), so that the command line starts without numpy and numba.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dsin.runtime.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
