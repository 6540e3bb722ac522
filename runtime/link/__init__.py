"""What device and server say to each other: protocol, clocks, certificates."""

from typing import TYPE_CHECKING

from dsin.runtime.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dsin.runtime.link.rpc import Certificates

__all__ = ["Certificates"]

__getattr__, __dir__ = lazy_exports(__name__, {"Certificates": "dsin.runtime.link.rpc"})
