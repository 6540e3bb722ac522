"""The half that receives the packets of many rigs and has them decoded.

from dsin.runtime.server import serving

with serving("127.0.0.1:7000", on_frame=show):
    ...
"""

from typing import TYPE_CHECKING

from dsin.runtime.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dsin.runtime.server.rig_server import serving

__all__ = ["serving"]

__getattr__, __dir__ = lazy_exports(__name__, {"serving": "dsin.runtime.server.rig_server"})
