"""The half that runs beside the cameras: encodes, sends, adapts.

from dsin.runtime.device import Device, PacketMaker, PushSource

device = Device(source, PacketMaker(encoder), "server:7000", "front", certificates)
counts = device.run()
"""

from typing import TYPE_CHECKING

from dsin.runtime.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dsin.runtime.device.device import Device, PacketMaker, PictureMaker
    from dsin.runtime.sources.push_source import PushSource

__all__ = ["Device", "PacketMaker", "PictureMaker", "PushSource"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Device": "dsin.runtime.device.device",
        "PacketMaker": "dsin.runtime.device.device",
        "PictureMaker": "dsin.runtime.device.device",
        "PushSource": "dsin.runtime.sources.push_source",
    },
)
