"""What a recording of a rig holds: topics, schemas, and messages of one decoded frame.

    topic            schema                    encoding   one for each
    /RIG/side        foxglove.CompressedImage  protobuf   side image, once however often it is used
    /RIG/x/packet    dsin.v1.EncodedFrame      protobuf   frame
    /RIG/frame       dsin.FrameStatus          json       frame
    /RIG/result      foxglove.CompressedImage  protobuf   frame

in this order for a frame, so that what decoding needs comes first. RIG is percent-encoded. Log
time is `decoded_ns`, publish time `captured_ns` of the frame; a message's sequence is the frame's
number, or that of the side image. The time inside a side image's message is that of its camera's
clock, inside a result that of `captured_ns`.
"""

import json
from typing import NamedTuple

from google.protobuf import descriptor_pb2

from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.outputs import foxglove_messages
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideView
from dsin.runtime.outputs.output_names import rig_name_in_paths

RESULT_QUALITY = 90
"""JPEG's, of decoded pictures. Side images are PNG, without loss."""

PACKET_TOPIC, SIDE_TOPIC, STATUS_TOPIC, RESULT_TOPIC = "x/packet", "side", "frame", "result"
PACKET_SCHEMA = "dsin.v1.EncodedFrame"
IMAGE_SCHEMA = foxglove_messages.NAME
STATUS_SCHEMA = "dsin.FrameStatus"

_NANOSECONDS = {"type": "integer", "description": "nanoseconds"}
_STATUS_JSON_SCHEMA = {
    "title": STATUS_SCHEMA,
    "type": "object",
    "properties": {
        "frame_number": {"type": "integer"},
        "timestamp_ns": {**_NANOSECONDS, "description": "nanoseconds of the camera's clock"},
        "captured_ns": _NANOSECONDS,
        "received_ns": _NANOSECONDS,
        "decoded_ns": _NANOSECONDS,
        "side_use": {"type": "string"},
        "side_number": {"type": ["integer", "null"]},
        "used_side": {"type": "boolean"},
        "packet_bytes": {"type": "integer"},
        "bpp": {"type": "number"},
        "age_ms": {"type": "number"},
        "stage_ms": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}

_PROTOCOL = descriptor_pb2.FileDescriptorSet()
dsin_v1.DESCRIPTOR.CopyToProto(_PROTOCOL.file.add())

SCHEMAS: dict[str, tuple[str, bytes]] = {
    PACKET_SCHEMA: ("protobuf", _PROTOCOL.SerializeToString()),
    IMAGE_SCHEMA: ("protobuf", foxglove_messages.DESCRIPTOR_SET),
    STATUS_SCHEMA: ("jsonschema", json.dumps(_STATUS_JSON_SCHEMA).encode()),
}
"""Name to encoding and definition, as the file embeds them."""
MESSAGE_ENCODING = {PACKET_SCHEMA: "protobuf", IMAGE_SCHEMA: "protobuf", STATUS_SCHEMA: "json"}


class Outgoing(NamedTuple):
    """A message to be recorded."""

    topic: str
    schema: str
    sequence: int
    data: bytes


def topic(rig: str, name: str) -> str:
    """The topic of a rig."""
    return f"/{rig_name_in_paths(rig)}/{name}"


def side_message(rig: str, side: SideView) -> Outgoing:
    """A side image."""
    data = encode_picture(side.image)
    frame_id = f"{rig}/y"
    message = foxglove_messages.pack_image(data, "png", side.timestamp_ns, frame_id)
    return Outgoing(topic(rig, SIDE_TOPIC), IMAGE_SCHEMA, side.number, message)


def packet_message(frame: DecodedFrame) -> Outgoing:
    """What came over the link."""
    message = dsin_v1.EncodedFrame(
        packet=frame.packet, timestamp_ns=frame.timestamp_ns, frame_number=frame.number
    ).SerializeToString()
    return Outgoing(topic(frame.rig, PACKET_TOPIC), PACKET_SCHEMA, frame.number, message)


def status_message(frame: DecodedFrame) -> Outgoing:
    """How the frame was decoded."""
    height, width = frame.decoded.image.shape[:2]
    content = {
        "frame_number": frame.number,
        "timestamp_ns": frame.timestamp_ns,
        "captured_ns": frame.captured_ns,
        "received_ns": frame.received_ns,
        "decoded_ns": frame.decoded_ns,
        "side_use": frame.side_use.value,
        "side_number": None if frame.side is None else frame.side.number,
        "used_side": frame.decoded.used_side,
        "packet_bytes": len(frame.packet),
        "bpp": 8 * len(frame.packet) / (height * width),
        "age_ms": frame.age_ms,
        "stage_ms": frame.stage_ms,
    }
    data = json.dumps(content).encode()
    return Outgoing(topic(frame.rig, STATUS_TOPIC), STATUS_SCHEMA, frame.number, data)


def result_message(frame: DecodedFrame, captured_ns: int) -> Outgoing:
    """The decoded picture."""
    data = encode_picture(frame.decoded.image, RESULT_QUALITY)
    message = foxglove_messages.pack_image(data, "jpeg", captured_ns, f"{frame.rig}/x")
    return Outgoing(topic(frame.rig, RESULT_TOPIC), IMAGE_SCHEMA, frame.number, message)
