"""Decoded frames of the synthetic rig, really encoded and decoded, as a server hands them out."""

import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.mcap_sink import McapSink
from dsin.runtime.sources.synthetic_rig import SyntheticRig

SECOND_CAMERA_LATE_NS = 7_000_000_000
"""How far the second camera's clock is behind the server's."""
START_NS = 1_700_000_000_000_000_000
INTERVAL_NS = 100_000_000


def make_frames(bundle: Path, count: int = 4, rig: str = "car") -> list[DecodedFrame]:
    """Frames of 216×120, all paired."""
    source = SyntheticRig(width=216, height=120, frames=count)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        frames = []
        for number in range(count):
            captured_ns = START_NS + number * INTERVAL_NS
            packet = encoder.encode(
                source.view(number, "left"), frame_number=number, timestamp_ns=captured_ns + 5
            )
            image = source.view(number, "right")
            decoded = decoder.decode(packet, image)
            frames.append(
                DecodedFrame(
                    rig=rig, number=number, timestamp_ns=captured_ns + 5, captured_ns=captured_ns,
                    received_ns=captured_ns + 20_000_000, decoded_ns=captured_ns + 60_000_000,
                    packet=bytes(packet), decoded=decoded,
                    side=SideView(image, number, captured_ns - SECOND_CAMERA_LATE_NS),
                    side_use=SideUse.PAIRED, stage_ms=dict(decoded.stage_ms),
                )
            )  # fmt: skip
    return frames


def endless(frames: list[DecodedFrame]) -> Iterator[DecodedFrame]:
    """The same frames again and again, with numbers and times that go on."""
    number = 0
    while True:
        frame = frames[number % len(frames)]
        step_ns = (number - frame.number) * INTERVAL_NS
        assert frame.side is not None
        side = replace(
            frame.side, number=number, timestamp_ns=frame.side.timestamp_ns + step_ns
        )  # fmt: skip
        yield replace(
            frame, number=number, side=side, timestamp_ns=frame.timestamp_ns + step_ns,
            captured_ns=frame.captured_ns + step_ns, received_ns=frame.received_ns + step_ns,
            decoded_ns=frame.decoded_ns + step_ns,
        )  # fmt: skip
        number += 1


def record_until_killed(frames_file: Path, recording: Path, interval_s: float) -> None:
    """Record at a pace; say on stdout which frame was offered, before it is."""
    from dsin.runtime.outputs.sinks import SinkRunner

    runner = SinkRunner(McapSink(recording))
    for frame in endless(pickle.loads(frames_file.read_bytes())):
        print(frame.number, flush=True)
        runner.offer(frame)
        time.sleep(interval_s)


if __name__ == "__main__":
    record_until_killed(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
