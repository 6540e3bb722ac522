"""Feed the web page with the built-in rig, for development: frames are really coded and decoded.

    python tests/support/web_feed.py --port 8080 [--frames 20] [--fps 10] [--rigs 1]

The frames are coded once and then played back and forth, as if a camera sent them; what only a
camera could tell (its clock, its drops, the time of the way here) is made up. With several
rigs, the second has lost its second camera, the third its first, and the fourth shows nothing yet.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.rig_status import LinkStatus, RigStatus
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.web.health import Health
from dsin.runtime.web.http_server import LOOPBACK, HttpServer
from dsin.runtime.web.page import WebPage
from dsin.runtime.web.prometheus_metrics import Metrics


def code(
    source: SyntheticRig, bundle: Path | str, threads: int | None = None
) -> list[DecodedFrame]:
    """Encode and decode every frame of a source."""
    frames: list[DecodedFrame] = []
    with Encoder(bundle, threads=threads) as encoder, Decoder(bundle, threads=threads) as decoder:
        first = source.view(0, "left")
        decoder.decode(encoder.encode(first), first)  # compiles and allocates
        for number in range(len(source)):
            left, right = source.view(number, "left"), source.view(number, "right")
            stamp = source.timestamp_ns(number)
            packet = encoder.encode(left, frame_number=number, timestamp_ns=stamp)
            features = decoder.prepare_side(right)
            decoded = decoder.decode(packet, features)
            stage_ms = {
                **{f"side.{name}": ms for name, ms in features.stage_ms.items()},
                **{f"server.{name}": ms for name, ms in decoded.stage_ms.items()},
            }
            frames.append(
                DecodedFrame("", number, stamp, 0, 0, 0, bytes(packet), decoded,
                         SideView(right, number, stamp), SideUse.PAIRED, stage_ms)
            )  # fmt: skip
    return frames


def without_side(frame: DecodedFrame) -> DecodedFrame:
    """The frame as it would be if no side image had come."""
    parts = frame.decoded
    alone = replace(parts, image=parts.x_dec, y_syn=None, matches=None, used_side=False)
    needed = ("server.entropy", "server.x_decoder", "server.postprocess")
    stage_ms = {name: ms for name, ms in frame.stage_ms.items() if name in needed}
    return replace(
        frame, decoded=alone, side=None, side_use=SideUse.MISSING, stage_ms=stage_ms
    )  # fmt: skip


@dataclass
class FedRig:
    """A rig that plays coded frames; `status` is what a server would tell of it."""

    name: str
    coded: Sequence[DecodedFrame]
    camera_connected: bool = True
    side_connected: bool = True
    way_ms: float = 70.0
    decoded: int = 0
    superseded: int = 0
    dropped: int = 0
    uses: dict[str, int] = field(default_factory=dict)
    captured_ns: int | None = None
    recent: deque[tuple[float, int]] = field(default_factory=deque)

    def next_frame(self) -> DecodedFrame:
        """The next of the frames, forth and back, as if it had been decoded now."""
        turn = list(range(len(self.coded))) + list(range(len(self.coded) - 2, 0, -1))
        frame = self.coded[turn[self.decoded % len(turn)]]
        if not self.side_connected:
            frame = without_side(frame)
        elif self.decoded % 47 > 44:
            frame = replace(frame, side_use=SideUse.PREVIOUS)
        server_ms = sum(ms for name, ms in frame.stage_ms.items() if name.startswith("server."))
        way_ms = self.way_ms + 9 * (self.decoded * 7 % 11) / 11
        now = now_ns()
        received = now - int(1e6 * (server_ms + 3))
        frame = replace(
            frame, rig=self.name, number=self.decoded, captured_ns=received - int(1e6 * way_ms),
            received_ns=received, decoded_ns=now, waited_ms=3.0,
        )  # fmt: skip
        self._count(frame)
        return frame

    def status(self) -> RigStatus:
        """At this moment."""
        now_s = time.monotonic()
        while self.recent and self.recent[0][0] < now_s - 5:
            self.recent.popleft()
        age = None if self.captured_ns is None else (now_ns() - self.captured_ns) / 1e6
        height, width = self.coded[0].decoded.image.shape[:2] if self.coded else (375, 1242)
        told = {"captured": self.decoded + self.dropped, "dropped": self.dropped, "lost": 0,
                "reconnects": 0, "capture_ms": 3.9, "encode_ms": 58.0,
                "target_kbps": 300.0} if self.coded else {}  # fmt: skip
        return RigStatus(
            self.name, self.camera_connected, self.side_connected, width, height, self.decoded,
            self.superseded, 0, dict(self.uses), sum(n for _, n in self.recent) * 8 / 5000,
            len(self.recent) / 5, age, 1.8 if self.coded else None, 0.4 if self.coded else None,
            dict(told), LinkStatus("datagram", 0.042, 0.66, 4000, 175, 3, 51) if self.coded
            else LinkStatus(),
        )  # fmt: skip

    def _count(self, frame: DecodedFrame) -> None:
        self.decoded += 1
        self.dropped += self.decoded % 61 == 0
        self.superseded += self.decoded % 139 == 0
        self.uses[frame.side_use.value] = self.uses.get(frame.side_use.value, 0) + 1
        self.captured_ns = frame.captured_ns
        self.recent.append((time.monotonic(), len(frame.packet)))


def some_rigs(coded: Sequence[DecodedFrame], count: int) -> list[FedRig]:
    """The rigs of the docstring."""
    rigs = [
        FedRig("front-camera", coded),
        FedRig("<b>rear</b> & left", coded, side_connected=False, way_ms=180.0),
        FedRig("roof", coded, camera_connected=False),
        FedRig("spare", [], side_connected=False),
    ]
    return rigs[:count]


def feed(rigs: Sequence[FedRig], page: WebPage, metrics: Metrics) -> Iterator[DecodedFrame]:
    """One round: each rig that is connected decodes a frame, the others only their first one."""
    for rig in rigs:
        if rig.coded and (rig.camera_connected or not rig.decoded):
            frame = rig.next_frame()
            page.take(frame)
            metrics.take(frame)
            yield frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--rigs", type=int, default=1)
    parser.add_argument("--bundle", default="edge")
    options = parser.parse_args()
    rigs = some_rigs(code(SyntheticRig(frames=options.frames), options.bundle), options.rigs)
    page = WebPage(lambda: [rig.status() for rig in rigs])
    metrics = Metrics(lambda: [rig.status() for rig in rigs])
    health = Health(lambda: [rig.status() for rig in rigs])
    routes = [page.routes(), metrics.routes(), health.routes()]
    with suppress(KeyboardInterrupt), HttpServer(LOOPBACK, options.port, routes) as server:
        print(f"open {server.url}", flush=True)
        while True:
            due = time.monotonic() + 1 / options.fps
            list(feed(rigs, page, metrics))
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
