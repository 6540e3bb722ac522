"""A live view for Foxglove (extra `foxglove`): what a recording holds, and more, by websocket.

Beside the topics of dsin.runtime.outputs.recording_messages, in the same schemas:

    topic             schema                    encoding   one for each
    /RIG/x_dec        foxglove.CompressedImage  protobuf   frame
    /RIG/disparity    foxglove.CompressedImage  protobuf   frame with matches
    /RIG/plots        dsin.Plots                json       frame

Side images are JPEG here. What nobody has subscribed to is not made.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from dsin.runtime.errors import DsinError
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs import foxglove_messages
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.displacement_map import displacement_map, displacements_px, scale_px
from dsin.runtime.outputs.recording_messages import (
    IMAGE_SCHEMA,
    MESSAGE_ENCODING,
    PACKET_SCHEMA,
    PACKET_TOPIC,
    RESULT_QUALITY,
    RESULT_TOPIC,
    SCHEMAS,
    SIDE_TOPIC,
    STATUS_SCHEMA,
    STATUS_TOPIC,
    packet_message,
    result_message,
    status_message,
    topic,
)
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.pictures import Image

Original = Callable[[DecodedFrame], Image]
"""What a camera saw, where that is at hand."""
X_DEC_TOPIC, DISPARITY_TOPIC, PLOTS_TOPIC = "x_dec", "disparity", "plots"
PLOTS_SCHEMA = "dsin.Plots"
_PLOTS_JSON_SCHEMA = {
    "title": PLOTS_SCHEMA,
    "type": "object",
    "properties": {
        "kbps": {"type": "number", "description": "packets of the last five seconds, kbit/s"},
        "bpp": {"type": "number", "description": "bits per pixel of this frame"},
        "age_ms": {"type": "number", "description": "from capture to the end of decoding"},
        "psnr_db": {"type": "number", "description": "where the original is at hand"},
        "psnr_db_no_side": {"type": "number", "description": "of x_dec, likewise"},
    },
}
BACKLOG = 64
"""Messages that wait for a slow viewer, at most; the oldest give way."""
_TOPICS = {
    PACKET_TOPIC: PACKET_SCHEMA, STATUS_TOPIC: STATUS_SCHEMA, RESULT_TOPIC: IMAGE_SCHEMA,
    SIDE_TOPIC: IMAGE_SCHEMA, X_DEC_TOPIC: IMAGE_SCHEMA, DISPARITY_TOPIC: IMAGE_SCHEMA,
    PLOTS_TOPIC: PLOTS_SCHEMA,
}  # fmt: skip
_SCHEMAS = SCHEMAS | {PLOTS_SCHEMA: ("jsonschema", json.dumps(_PLOTS_JSON_SCHEMA).encode())}
_ENCODINGS = MESSAGE_ENCODING | {PLOTS_SCHEMA: "json"}


class FoxgloveSink:
    """Serves frames to Foxglove at ws://HOST:PORT; port 0 picks a free one.

    `status` tells the rigs' bit rates, `patch` is the (height, width) of the search's patches.
    `original` gives what a frame was coded from, if that is known here. Messages have the log time
    `decoded_ns`. Raises DsinError without foxglove-sdk, and for an address that cannot be used.
    """

    name = "foxglove"

    def __init__(
        self,
        host: str,
        port: int,
        status: Callable[[], Sequence[RigStatus]],
        *,
        patch: tuple[int, int] = (20, 24),
        original: Original | None = None,
    ) -> None:
        try:
            import foxglove
        except ModuleNotFoundError as error:
            raise DsinError(
                f"--foxglove needs {error.name}, which is missing: pip install 'dsin[foxglove]'"
            ) from error
        self._foxglove: Any = foxglove
        self._status, self._patch, self._original = status, patch, original
        self._context: Any = foxglove.Context()
        self._channels: dict[tuple[str, str], Any] = {}
        self._last_side: dict[str, tuple[int, int]] = {}
        try:
            self._server: Any = foxglove.start_server(
                name="dsin", host=host, port=port, context=self._context,
                message_backlog_size=BACKLOG,
            )  # fmt: skip
        except Exception as error:  # the SDK's own kinds differ between its releases
            raise DsinError(f"cannot serve Foxglove at {host}:{port}: {error}") from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"ws://{shown}:{self._server.port}"

    def take(self, frame: DecodedFrame) -> None:
        """Send a frame to whoever looks at its rig."""
        captured_ns = min(max(frame.captured_ns, 0), 2**64 - 1)
        self._send(frame, PACKET_TOPIC, lambda: packet_message(frame).data)
        self._send(frame, STATUS_TOPIC, lambda: status_message(frame).data)
        self._send(frame, RESULT_TOPIC, lambda: result_message(frame, captured_ns).data)
        self._send(frame, PLOTS_TOPIC, lambda: self._plots(frame))
        decoded, matches = frame.decoded, frame.decoded.matches
        self._send_picture(frame, X_DEC_TOPIC, lambda: decoded.x_dec, captured_ns)
        if matches is not None:
            scale = scale_px(displacements_px(matches, self._patch))
            self._send_picture(
                frame, DISPARITY_TOPIC,
                lambda: displacement_map(decoded.image, matches, self._patch, scale), captured_ns,
            )  # fmt: skip
        side = frame.side
        if side is not None and self._last_side.get(frame.rig) != (side.number, side.timestamp_ns):
            self._last_side[frame.rig] = side.number, side.timestamp_ns
            self._send_picture(frame, SIDE_TOPIC, lambda: side.image, side.timestamp_ns)

    def close(self) -> None:
        """End the server; viewers keep what they have."""
        self._server.stop()
        for channel in self._channels.values():
            channel.close()

    def _send_picture(
        self, frame: DecodedFrame, name: str, picture: Callable[[], Image], timestamp_ns: int
    ) -> None:  # fmt: skip
        camera = "y" if name == SIDE_TOPIC else "x"

        def message() -> bytes:
            data = encode_picture(picture(), RESULT_QUALITY)
            return foxglove_messages.pack_image(
                data, "jpeg", timestamp_ns, f"{frame.rig}/{camera}"
            )  # fmt: skip

        self._send(frame, name, message)

    def _send(self, frame: DecodedFrame, name: str, message: Callable[[], bytes]) -> None:
        channel = self._channel(frame.rig, name)
        if channel.has_sinks():
            channel.log(message(), log_time=min(max(frame.decoded_ns, 0), 2**64 - 1))

    def _channel(self, rig: str, name: str) -> Any:
        if (rig, name) not in self._channels:
            schema = _TOPICS[name]
            encoding, definition = _SCHEMAS[schema]
            self._channels[rig, name] = self._foxglove.Channel(
                topic(rig, name), message_encoding=_ENCODINGS[schema], context=self._context,
                schema=self._foxglove.Schema(name=schema, encoding=encoding, data=definition),
            )  # fmt: skip
        return self._channels[rig, name]

    def _plots(self, frame: DecodedFrame) -> bytes:
        decoded = frame.decoded
        pixels = decoded.image.shape[0] * decoded.image.shape[1]
        values = {"bpp": 8 * len(frame.packet) / pixels, "age_ms": frame.age_ms}
        for status in self._status():
            if status.rig == frame.rig:
                values["kbps"] = status.kbps
        if self._original is not None:
            original = self._original(frame)
            values["psnr_db"] = psnr_db(decoded.image, original)
            values["psnr_db_no_side"] = psnr_db(decoded.x_dec, original)
        return json.dumps(values).encode()
