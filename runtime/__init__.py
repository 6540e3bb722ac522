"""What runs on a device and on a server: no torch, no onnx, no tensorrt at import.

    from dsin.runtime import Decoder, Encoder, open_bundle

    bundle = open_bundle()
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        packet = encoder.encode(frame)
        picture = decoder.decode(bytes(packet), side).image

Threads may share a bundle, a packet and a prepared side image, which never change, and also an
encoder or a decoder. A RateController belongs to one stream and to the thread that feeds it.
"""

from typing import TYPE_CHECKING

from dsin.runtime.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    DsinError,
    ExportError,
    FrameError,
    PacketError,
    RecordingError,
    ReferenceMissingError,
    StreamError,
)
from dsin.runtime.lazy_exports import lazy_exports
from dsin.runtime.quiet_packages import silence_packages

if TYPE_CHECKING:
    from dsin.runtime.codec.bundle import open_bundle, shipped_bundles
    from dsin.runtime.codec.decoder import Decoded, Decoder
    from dsin.runtime.codec.encoder import Encoder
    from dsin.runtime.codec.packet import Packet
    from dsin.runtime.codec.rate_control import RateController
    from dsin.runtime.codec.references import DecodedFrames, SentFrames
    from dsin.runtime.patch_correlation import match
    from dsin.runtime.version import __version__ as __version__

__all__ = [
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

silence_packages()

# So that the command line starts without numpy and numba.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Decoded": "dsin.runtime.codec.decoder",
        "DecodedFrames": "dsin.runtime.codec.references",
        "Decoder": "dsin.runtime.codec.decoder",
        "Encoder": "dsin.runtime.codec.encoder",
        "Packet": "dsin.runtime.codec.packet",
        "RateController": "dsin.runtime.codec.rate_control",
        "SentFrames": "dsin.runtime.codec.references",
        "__version__": "dsin.runtime.version",
        "match": "dsin.runtime.patch_correlation",
        "open_bundle": "dsin.runtime.codec.bundle",
        "shipped_bundles": "dsin.runtime.codec.bundle",
    },
)
