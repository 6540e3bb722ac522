"""What becomes of decoded frames: pictures, videos, recordings, viewers."""

from typing import TYPE_CHECKING

from dsin.runtime.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dsin.runtime.outputs.sinks import Sink

__all__ = ["Sink"]

__getattr__, __dir__ = lazy_exports(__name__, {"Sink": "dsin.runtime.outputs.sinks"})
