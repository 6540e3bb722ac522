"""`foxglove.CompressedImage`, the message that robotics viewers show as a picture.

Its descriptor is made here from the published field names and numbers.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

NAME = "foxglove.CompressedImage"
_TYPES = descriptor_pb2.FieldDescriptorProto
_FIELDS = (
    ("timestamp", 1, _TYPES.TYPE_MESSAGE),
    ("data", 2, _TYPES.TYPE_BYTES),
    ("format", 3, _TYPES.TYPE_STRING),
    ("frame_id", 4, _TYPES.TYPE_STRING),
)


def _described() -> descriptor_pb2.FileDescriptorSet:
    files = descriptor_pb2.FileDescriptorSet()
    timestamp_pb2.DESCRIPTOR.CopyToProto(files.file.add())
    file = files.file.add(
        name="foxglove/CompressedImage.proto", package="foxglove", syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )  # fmt: skip
    message = file.message_type.add(name="CompressedImage")
    for name, number, kind in _FIELDS:
        field = message.field.add(name=name, number=number, type=kind, label=_TYPES.LABEL_OPTIONAL)
        if kind == _TYPES.TYPE_MESSAGE:
            field.type_name = ".google.protobuf.Timestamp"
    return files


_SET = _described()
DESCRIPTOR_SET = _SET.SerializeToString()
"""A serialized google.protobuf.FileDescriptorSet with all that the message needs."""
_POOL = descriptor_pool.DescriptorPool()
for _file in _SET.file:
    _POOL.AddSerializedFile(_file.SerializeToString())
_CompressedImage: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(NAME))


def pack_image(data: bytes, picture_format: str, timestamp_ns: int, frame_id: str) -> bytes:
    """A message: an encoded picture, its format (png, jpeg), when and where it was taken.

    `timestamp_ns` is nanoseconds, 0 to 2^64 - 1.
    """
    message = _CompressedImage(data=data, format=picture_format, frame_id=frame_id)
    message.timestamp.seconds, message.timestamp.nanos = divmod(timestamp_ns, 10**9)
    serialized: bytes = message.SerializeToString()
    return serialized


def unpack_image(message: bytes) -> tuple[bytes, int]:
    """The encoded picture of a message and its time in nanoseconds.

    Raises google.protobuf.message.DecodeError for other bytes.
    """
    image = _CompressedImage.FromString(message)
    return image.data, image.timestamp.seconds * 10**9 + image.timestamp.nanos
