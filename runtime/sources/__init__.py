"""Where frames come from: recordings, cameras, videos, the built-in rig."""

from typing import TYPE_CHECKING

from dsin.runtime.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dsin.runtime.sources.cameras import open_camera

__all__ = ["open_camera"]

__getattr__, __dir__ = lazy_exports(__name__, {"open_camera": "dsin.runtime.sources.cameras"})
