from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Camera(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAMERA_UNSPECIFIED: _ClassVar[Camera]
    CAMERA_X: _ClassVar[Camera]
    CAMERA_Y: _ClassVar[Camera]

class Clock(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLOCK_UNSPECIFIED: _ClassVar[Clock]
    CLOCK_LIVE: _ClassVar[Clock]
    CLOCK_RECORDING: _ClassVar[Clock]

class FrameStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_STATUS_UNSPECIFIED: _ClassVar[FrameStatus]
    DECODED: _ClassVar[FrameStatus]
    STORED: _ClassVar[FrameStatus]
    SUPERSEDED: _ClassVar[FrameStatus]
    REJECTED: _ClassVar[FrameStatus]

class SideUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_USE_UNSPECIFIED: _ClassVar[SideUse]
    PAIRED: _ClassVar[SideUse]
    PREVIOUS: _ClassVar[SideUse]
    MISSING: _ClassVar[SideUse]
    UNRELATED: _ClassVar[SideUse]
    CLOCK_UNCERTAIN: _ClassVar[SideUse]
CAMERA_UNSPECIFIED: Camera
CAMERA_X: Camera
CAMERA_Y: Camera
CLOCK_UNSPECIFIED: Clock
CLOCK_LIVE: Clock
CLOCK_RECORDING: Clock
FRAME_STATUS_UNSPECIFIED: FrameStatus
DECODED: FrameStatus
STORED: FrameStatus
SUPERSEDED: FrameStatus
REJECTED: FrameStatus
SIDE_USE_UNSPECIFIED: SideUse
PAIRED: SideUse
PREVIOUS: SideUse
MISSING: SideUse
UNRELATED: SideUse
CLOCK_UNCERTAIN: SideUse

class CameraMessage(_message.Message):
    __slots__ = ("hello", "frame", "side", "clock", "status", "ping", "bye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    frame: EncodedFrame
    side: SideFrame
    clock: ClockReply
    status: DeviceStatus
    ping: Ping
    bye: Bye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., frame: _Optional[_Union[EncodedFrame, _Mapping]] = ..., side: _Optional[_Union[SideFrame, _Mapping]] = ..., clock: _Optional[_Union[ClockReply, _Mapping]] = ..., status: _Optional[_Union[DeviceStatus, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("welcome", "ack", "probe", "report")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    ack: Ack
    probe: ClockProbe
    report: LinkReport
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., probe: _Optional[_Union[ClockProbe, _Mapping]] = ..., report: _Optional[_Union[LinkReport, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "rig", "camera", "clock", "width", "height", "codec_id", "rate_points", "session", "recording_start_ns", "datagrams", "references")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CODEC_ID_FIELD_NUMBER: _ClassVar[int]
    RATE_POINTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RECORDING_START_NS_FIELD_NUMBER: _ClassVar[int]
    DATAGRAMS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    rig: str
    camera: Camera
    clock: Clock
    width: int
    height: int
    codec_id: bytes
    rate_points: int
    session: int
    recording_start_ns: int
    datagrams: bool
    references: bool
    def __init__(self, protocol: _Optional[int] = ..., rig: _Optional[str] = ..., camera: _Optional[_Union[Camera, str]] = ..., clock: _Optional[_Union[Clock, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., codec_id: _Optional[bytes] = ..., rate_points: _Optional[int] = ..., session: _Optional[int] = ..., recording_start_ns: _Optional[int] = ..., datagrams: _Optional[bool] = ..., references: _Optional[bool] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("credits", "server_version", "datagrams", "references")
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATAGRAMS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    credits: int
    server_version: str
    datagrams: DatagramSession
    references: bool
    def __init__(self, credits: _Optional[int] = ..., server_version: _Optional[str] = ..., datagrams: _Optional[_Union[DatagramSession, _Mapping]] = ..., references: _Optional[bool] = ...) -> None: ...

class DatagramSession(_message.Message):
    __slots__ = ("session", "camera_key", "server_key", "credits")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CAMERA_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVER_KEY_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    session: int
    camera_key: bytes
    server_key: bytes
    credits: int
    def __init__(self, session: _Optional[int] = ..., camera_key: _Optional[bytes] = ..., server_key: _Optional[bytes] = ..., credits: _Optional[int] = ...) -> None: ...

class EncodedFrame(_message.Message):
    __slots__ = ("packet", "timestamp_ns", "frame_number", "held_us", "sent_ns")
    PACKET_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    FRAME_NUMBER_FIELD_NUMBER: _ClassVar[int]
    HELD_US_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    packet: bytes
    timestamp_ns: int
    frame_number: int
    held_us: int
    sent_ns: int
    def __init__(self, packet: _Optional[bytes] = ..., timestamp_ns: _Optional[int] = ..., frame_number: _Optional[int] = ..., held_us: _Optional[int] = ..., sent_ns: _Optional[int] = ...) -> None: ...

class SideFrame(_message.Message):
    __slots__ = ("picture", "timestamp_ns", "frame_number", "held_us", "sent_ns")
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    FRAME_NUMBER_FIELD_NUMBER: _ClassVar[int]
    HELD_US_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    picture: bytes
    timestamp_ns: int
    frame_number: int
    held_us: int
    sent_ns: int
    def __init__(self, picture: _Optional[bytes] = ..., timestamp_ns: _Optional[int] = ..., frame_number: _Optional[int] = ..., held_us: _Optional[int] = ..., sent_ns: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("frame_number", "status", "side_use", "server_time_ns", "decode_ms", "age_ms", "reason", "waited_ms", "reference_missing")
    FRAME_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SIDE_USE_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAITED_MS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_MISSING_FIELD_NUMBER: _ClassVar[int]
    frame_number: int
    status: FrameStatus
    side_use: SideUse
    server_time_ns: int
    decode_ms: float
    age_ms: float
    reason: str
    waited_ms: float
    reference_missing: bool
    def __init__(self, frame_number: _Optional[int] = ..., status: _Optional[_Union[FrameStatus, str]] = ..., side_use: _Optional[_Union[SideUse, str]] = ..., server_time_ns: _Optional[int] = ..., decode_ms: _Optional[float] = ..., age_ms: _Optional[float] = ..., reason: _Optional[str] = ..., waited_ms: _Optional[float] = ..., reference_missing: _Optional[bool] = ...) -> None: ...

class ClockProbe(_message.Message):
    __slots__ = ("server_send_ns",)
    SERVER_SEND_NS_FIELD_NUMBER: _ClassVar[int]
    server_send_ns: int
    def __init__(self, server_send_ns: _Optional[int] = ...) -> None: ...

class ClockReply(_message.Message):
    __slots__ = ("server_send_ns", "camera_receive_ns", "camera_send_ns")
    SERVER_SEND_NS_FIELD_NUMBER: _ClassVar[int]
    CAMERA_RECEIVE_NS_FIELD_NUMBER: _ClassVar[int]
    CAMERA_SEND_NS_FIELD_NUMBER: _ClassVar[int]
    server_send_ns: int
    camera_receive_ns: int
    camera_send_ns: int
    def __init__(self, server_send_ns: _Optional[int] = ..., camera_receive_ns: _Optional[int] = ..., camera_send_ns: _Optional[int] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("captured", "dropped", "lost", "reconnects", "capture_ms", "encode_ms", "target_kbps", "delivered_kbps", "queueing_ms", "loss")
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RECONNECTS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_MS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MS_FIELD_NUMBER: _ClassVar[int]
    TARGET_KBPS_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_KBPS_FIELD_NUMBER: _ClassVar[int]
    QUEUEING_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    captured: int
    dropped: int
    lost: int
    reconnects: int
    capture_ms: float
    encode_ms: float
    target_kbps: float
    delivered_kbps: float
    queueing_ms: float
    loss: float
    def __init__(self, captured: _Optional[int] = ..., dropped: _Optional[int] = ..., lost: _Optional[int] = ..., reconnects: _Optional[int] = ..., capture_ms: _Optional[float] = ..., encode_ms: _Optional[float] = ..., target_kbps: _Optional[float] = ..., delivered_kbps: _Optional[float] = ..., queueing_ms: _Optional[float] = ..., loss: _Optional[float] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Bye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LinkReport(_message.Message):
    __slots__ = ("acks", "pending", "sent", "received", "newest", "held_us", "unfinished", "incomplete", "number")
    ACKS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    HELD_US_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    acks: _containers.RepeatedCompositeFieldContainer[Ack]
    pending: _containers.RepeatedScalarFieldContainer[int]
    sent: int
    received: int
    newest: int
    held_us: int
    unfinished: Unfinished
    incomplete: int
    number: int
    def __init__(self, acks: _Optional[_Iterable[_Union[Ack, _Mapping]]] = ..., pending: _Optional[_Iterable[int]] = ..., sent: _Optional[int] = ..., received: _Optional[int] = ..., newest: _Optional[int] = ..., held_us: _Optional[int] = ..., unfinished: _Optional[_Union[Unfinished, _Mapping]] = ..., incomplete: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class Unfinished(_message.Message):
    __slots__ = ("frame_number", "pieces")
    FRAME_NUMBER_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    frame_number: int
    pieces: bytes
    def __init__(self, frame_number: _Optional[int] = ..., pieces: _Optional[bytes] = ...) -> None: ...
