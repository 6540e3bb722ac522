"""Messages of dsin_v1.proto, built from its compiled descriptor.

protoc's own Python output works with two major versions of protobuf only; a descriptor works with
all. After a change of the .proto, in its folder (a test compares):

    python -m grpc_tools.protoc -I. --descriptor_set_out=dsin_v1.binpb --pyi_out=. dsin_v1.proto
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

DESCRIPTOR_SET = resources.files("dsin.runtime.link").joinpath("dsin_v1.binpb").read_bytes()
"""A serialized google.protobuf.FileDescriptorSet, as recordings embed it."""

_FILE = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET).file[0]
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_FILE)  # type: ignore[no-untyped-call]
DESCRIPTOR = _POOL.FindFileByName(_FILE.name)

for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_enum)
    globals().update({value.name: value.number for value in _enum.values})
