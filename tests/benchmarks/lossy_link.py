"""What bad links do to a stream, over gRPC and in datagrams, on the simulated link of
tests/support/link_simulator.py (whose text says how TCP is modelled).

    python tests/benchmarks/lossy_link.py [--seconds N] [--only loss_5,bursts] [--no-codec]
        [--json FILE]

Ten frames a second over loopback, by the real protocol. Pictures are of the built-in rig, small
ones or of 640x360 pixels where bytes are compared, coded by the shipped bundle; where the rate is
what matters, packets are as large as those of 1224x320 pixels and decoders only take time. On a
machine that is too slow or too busy for ten frames a second, --no-codec does that in all rows that
are about the link alone (packets of 4 kB). A row or a transport that this checkout lacks is left
out, with the reason. JSON: {row: {"grpc" or "datagram": {"decoded_share", "age_p99_ms",
"bytes_per_frame", "bytes_ratio"}}}: the share of the camera's frames that were decoded; their age
at the end of decoding; bytes on the link for each frame sent, what the protocol adds included; the
packets' bytes against those of independent frames of the same pictures.
"""

import argparse
import functools
import importlib.util
import inspect
import json
import random
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.link_model import Conditions
from support.link_simulator import LinkSimulator
from support.rig_fakes import (
    FakeCamera,
    FakeDecoder,
    FakeEncoder,
    Running,
    SizedEncoder,
    fake_device,
    wait_until,
)
from support.rig_fakes import picture as grey
from support.simulated_stream import PIXELS, POINTS

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.device.device import AnsweredFrame, Device, PacketMaker
from dsin.runtime.device.link_follower import LinkFollower
from dsin.runtime.device.link_rate import FIRST_KBPS
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.pictures import Image
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.stream_server import StreamServer
from dsin.runtime.sources.cameras import CapturedFrame
from dsin.runtime.sources.synthetic_rig import SyntheticRig

SECONDS, FPS, FRAME_BYTES = 60.0, 10, 4000
VIEWS = 24
SMALL, LARGE = (120, 216), (360, 640)
"""Height and width of the pictures; large ones where bytes count, of which a header is a part."""
DECODE_S = 0.03
NOISE = 2.0
"""Of a sensor, standard deviation in grey values."""
LEAST_FRAMES = 3
TRANSPORTS = ("grpc", "datagram")


@dataclass
class Run:
    """One stream, for scripts and judges. `tapped` are the newest datagrams of the device."""

    conditions: Conditions
    link: LinkSimulator
    tapped: deque[bytes]
    answers: list[AnsweredFrame]
    frames: list[DecodedFrame]
    picture: Callable[[int], Image]
    begun: int = 0
    """Answers before what the row is about."""
    baseline_ms: float = 0.0
    """Their age's 99th percentile."""
    grpc_bytes: float = 0.0
    """For each frame, of the same row over gRPC."""
    foreign_bytes: int = 0
    """Sent over the link by others than the device."""

    @property
    def decoded(self) -> list[AnsweredFrame]:
        """Frames that count."""
        return [one for one in self.answers[self.begun :] if one.status == "decoded"]

    def let_pass(self, seconds: float) -> None:
        """Wait so long, or until there is something to be measured."""
        time.sleep(seconds)
        wait_until(lambda: len(self.decoded) >= LEAST_FRAMES, 60, what="frames to be decoded")

    def ages_ms(self, percent: float) -> float:
        """Of these."""
        return float(np.percentile([one.age_ms for one in self.decoded], percent))


Verdict = tuple[bool, str]
"""Whether it holds what it must, and what else there is to tell."""


@dataclass(frozen=True)
class Row:
    """`must` is what datagrams have to fulfil, `judge` tells whether they do. `pictures` are those
    of the drive, of the rig standing still, or none (packets of 1224x320 pixels at the rates that
    the link takes). `script` lets the time go by. `needs` is a module without which there is
    nothing to see."""

    must: str
    conditions: Conditions
    judge: Callable[[Run, dict[str, float]], Verdict]
    pictures: str = "drive"
    follows: bool = False
    """Whether the rate follows the link (--kbps auto)."""
    script: Callable[[Run, float], None] = lambda run, seconds: run.let_pass(seconds)
    needs: str = ""
    size: tuple[int, int] = SMALL


class RigCamera(FakeCamera):
    """Shows the pictures of `picture`, by their numbers."""

    def __init__(self, shown: Callable[[int], Image]) -> None:
        super().__init__(FPS)
        self._shown, self.size = shown, shown(0).shape[:2]

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        frame = super().newest(timeout_s)
        return None if frame is None else frame._replace(image=self._shown(frame.number))


@functools.lru_cache(maxsize=64)
def view(place: int, size: tuple[int, int]) -> Image:
    """A picture of the built-in rig's drive."""
    return SyntheticRig(width=size[1], height=size[0], frames=VIEWS).view(place, "left")


def drive(number: int, size: tuple[int, int] = SMALL) -> Image:
    """The drive, forth and back."""
    turn = [*range(VIEWS), *range(VIEWS - 2, 0, -1)]
    return view(turn[number % len(turn)], size)


def standing(number: int, size: tuple[int, int] = SMALL) -> Image:
    """One picture, with a sensor's noise."""
    noise = np.random.default_rng(number).normal(0, NOISE, (*size, 3))
    return np.clip(np.round(drive(0, size) + noise), 0, 255).astype(np.uint8)


def none(number: int) -> Image:
    """A grey picture that tells its number."""
    return grey(number)


def lacks(transport: str, row: Row) -> str | None:
    """Why this checkout cannot run a row over a transport."""
    if transport == "datagram" and "transport" not in inspect.signature(Device).parameters:
        return "this checkout has no datagrams"
    if row.needs and importlib.util.find_spec(row.needs) is None:
        return f"this checkout has no {row.needs}: all frames are independent"
    return None


@contextmanager
def streaming(transport: str, row: Row) -> Iterator[tuple[Run, Running]]:
    """A device that streams over the row's link to a server of this process."""
    pictures: dict[str, Callable[[int], Image]]
    pictures = {
        "drive": functools.partial(drive, size=row.size),
        "standing": functools.partial(standing, size=row.size),
        "none": none,
    }
    picture = pictures[row.pictures]
    chosen: dict[str, Any] = {}
    if "transport" in inspect.signature(Device).parameters:
        chosen["transport"] = transport
    run = Run(replace(row.conditions), cast(Any, None), deque(maxlen=2000), [], [], picture)
    with ExitStack() as stack:
        maker: Any
        decoder: Any
        if row.pictures == "none":
            maker, decoder = FakeEncoder(FRAME_BYTES), FakeDecoder(DECODE_S)
            if row.follows:
                maker = SizedEncoder(POINTS, PIXELS, FIRST_KBPS, FPS)
                chosen["follower"] = LinkFollower(maker.controller, FPS)
        else:
            encoder = stack.enter_context(Encoder(open_bundle()))
            maker, decoder = PacketMaker(encoder), stack.enter_context(Decoder(open_bundle()))
            decoder.decode(encoder.encode(picture(0)), None)  # compile before the clock runs
            if row.pictures == "drive" and row.size == LARGE:  # rendering takes its time, too
                for number in range(VIEWS):
                    picture(number)
        pool = DecodePool([LocalWorker(decoder)], PairingPolicy(), run.frames.append)
        stack.enter_context(pool)
        server = stack.enter_context(StreamServer(pool, "127.0.0.1", 0))
        run.link = stack.enter_context(
            LinkSimulator(server.port, run.conditions, seed=1, tap=run.tapped.append)
        )
        camera = FakeCamera(FPS) if row.pictures == "none" else RigCamera(picture)
        device = fake_device(
            f"127.0.0.1:{run.link.port}", camera=camera, maker=maker, answers=run.answers, **chosen
        )
        try:
            wait_until(lambda: run.answers, 30, what="the first answer")
            yield run, device
        finally:
            device.stop()


def measured(
    transport: str, row: Row, seconds: float, grpc_bytes: float
) -> tuple[dict[str, float], Verdict]:
    """A row's figures over a transport, and whether they are as they must be."""
    with streaming(transport, row) as (run, device):
        run.grpc_bytes = grpc_bytes
        run.begun = len(run.answers)
        row.script(run, seconds)
        payload_bytes, sent = run.link.payload_bytes, device.device.counts.sent
        decoded = run.decoded
    first, last = run.answers[run.begun].made.number, decoded[-1].made.number
    size = float(np.mean([len(one.made.data) for one in decoded]))
    figures = {
        "decoded_share": round(len(decoded) / (last - first + 1), 4),
        "age_p99_ms": round(run.ages_ms(99), 1),
        "bytes_per_frame": round(max(0, payload_bytes - run.foreign_bytes) / sent, 1),
        "bytes_ratio": 1.0 if row.pictures == "none" else round(size / independent(run), 4),
    }
    return figures, row.judge(run, figures)


def independent(run: Run) -> float:
    """Mean bytes of packets that refer to no other frame, of some of the pictures."""
    numbers = [one.made.number for one in run.decoded][:: max(1, len(run.decoded) // 20)]
    with Encoder(open_bundle()) as encoder:
        return float(np.mean([len(encoder.encode(run.picture(number))) for number in numbers]))


def wrong(run: Run) -> int:
    """Frames that were decoded twice, out of order, or to a picture that is not the right one: more
    than 1 dB worse than what an independent packet gives."""
    numbers = [frame.number for frame in run.frames]
    count = len(numbers) - len(set(numbers)) + (numbers != sorted(numbers))
    if run.picture is none:
        return count + sum(int(f.decoded.image[0, 0, 0]) != f.number % 256 for f in run.frames)
    with Encoder(open_bundle()) as encoder, Decoder(open_bundle()) as decoder:
        for frame in run.frames[:: max(1, len(run.frames) // 50)]:
            source = run.picture(frame.number)
            alone = decoder.decode(encoder.encode(source), None).image
            count += psnr_db(frame.decoded.image, source) < psnr_db(alone, source) - 1
    return count


def share_and_age(share: float, one_way_ms: float) -> Callable[[Run, dict[str, float]], Verdict]:
    def judge(run: Run, figures: dict[str, float]) -> Verdict:
        limit_ms = one_way_ms + 150
        holds = figures["decoded_share"] >= share and figures["age_p99_ms"] <= limit_ms
        return holds, f"age p50 {run.ages_ms(50):.0f} ms"

    return judge


def all_there(run: Run, figures: dict[str, float]) -> Verdict:
    size = float(np.mean([len(one.made.data) for one in run.decoded]))
    over = figures["bytes_per_frame"] / run.grpc_bytes - 1 if run.grpc_bytes else 0.0
    return (
        figures["decoded_share"] == 1 and over <= 0.04,
        f"packets of {size:.0f} bytes, {over:+.1%} over gRPC",
    )


def resumes(run: Run, figures: dict[str, float]) -> Verdict:
    """Whether the first frame taken after each outage was decoded."""
    taken = sorted((one.made.taken_s, one.made.number) for one in run.decoded)
    late = []
    for outage in run.link.outages:
        after = [taken_s for taken_s, _ in taken if taken_s >= outage.end_s]
        if after:
            late.append(after[0] - outage.end_s)
    most_s = max(late, default=0.0)
    return bool(late) and most_s < 1.2 / FPS, f"{len(late)} bursts, goes on {most_s:.2f} s after"


def narrows(run: Run, seconds: float) -> None:
    for kbps in (1000, 150, 1000):
        run.conditions.kbps = kbps
        run.let_pass(seconds / 3)


def below_half_a_second(run: Run, figures: dict[str, float]) -> Verdict:
    most_ms = run.ages_ms(100)
    return most_ms <= 500, f"age at most {most_ms:.0f} ms, p50 {run.ages_ms(50):.0f} ms"


def none_wrong(run: Run, figures: dict[str, float]) -> Verdict:
    count = wrong(run)
    return count == 0, f"{count} pictures wrong, repeated or out of order"


def attack(run: Run, seconds: float) -> None:
    """For the second half, a thousand datagrams a second: garbage, replayed, and with a byte
    changed."""
    run.let_pass(seconds / 2)
    run.baseline_ms = run.ages_ms(99)
    run.begun = len(run.answers)
    own = list(run.tapped)  # not what is sent below
    chance, end_s = random.Random(2), time.monotonic() + seconds / 2
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        while time.monotonic() < end_s or len(run.decoded) < LEAST_FRAMES:
            for _ in range(10):
                kind = chance.randrange(3)
                data = chance.choice(own) if own else b""
                if kind == 0 or not data:
                    data = chance.randbytes(chance.randrange(1, 1200))
                elif kind == 1:
                    place = chance.randrange(len(data))
                    changed = data[place] ^ (1 + chance.randrange(255))
                    data = data[:place] + bytes([changed]) + data[place + 1 :]
                one.sendto(data, ("127.0.0.1", run.link.port))
                run.foreign_bytes += len(data)
            time.sleep(0.01)


def under_twice(run: Run, figures: dict[str, float]) -> Verdict:
    ratio, count = figures["age_p99_ms"] / run.baseline_ms, wrong(run)
    return ratio < 2 and count == 0, f"p99 times {ratio:.2f}, {count} pictures wrong"


def at_most(ratio: float) -> Callable[[Run, dict[str, float]], Verdict]:
    def judge(run: Run, figures: dict[str, float]) -> Verdict:
        count = wrong(run)
        return figures["bytes_ratio"] <= ratio and not count, f"{count} pictures wrong"

    return judge


REFERENCES = "dsin.runtime.codec.references"
ROWS = {
    "no_loss": Row("all, bytes at most +4 % over gRPC", Conditions(delay_s=0.025), all_there),
    "loss_5": Row(
        "98 %, p99 one way + 150 ms", Conditions(delay_s=0.1, loss=0.05), share_and_age(0.98, 100)
    ),
    "loss_20": Row(
        "90 %, p99 one way + 150 ms", Conditions(delay_s=0.1, loss=0.2), share_and_age(0.9, 100)
    ),
    "bursts": Row(
        "on with the first frame after it",
        Conditions(delay_s=0.025, burst_s=0.3, burst_every_s=3),
        resumes,
    ),
    "narrowing": Row(
        "age at most 500 ms", Conditions(delay_s=0.005, kbps=1000), below_half_a_second,
        pictures="none", follows=True, script=narrows,
    ),
    "reordering": Row(
        "no picture wrong or repeated",
        Conditions(delay_s=0.025, reordered=0.3, reorder_s=0.1, duplicated=0.02),
        none_wrong,
    ),
    "hostile": Row(
        "p99 under twice its baseline", Conditions(delay_s=0.005), under_twice, script=attack
    ),
    "standing_still": Row(
        "10 % of independent frames' bytes", Conditions(delay_s=0.025), at_most(0.1),
        pictures="standing", needs=REFERENCES, size=LARGE,
    ),
    "drive": Row(
        "at most +1 %", Conditions(delay_s=0.025), at_most(1.01), needs=REFERENCES, size=LARGE
    ),
    "lost_standing": Row(
        "every picture is the right one", Conditions(delay_s=0.025, loss=0.2), none_wrong,
        pictures="standing", needs=REFERENCES, size=LARGE,
    ),
}  # fmt: skip
"""In the order of the table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each row")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ROWS))
    parser.add_argument("--no-codec", action="store_true", help="where the link is what matters")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.only if name not in ROWS]:
        parser.error(f"no row {unknown[0]}: there are {', '.join(ROWS)}")
    results: dict[str, dict[str, dict[str, float]]] = {}
    held = True
    for name in arguments.only:
        results[name] = {}
        for transport in TRANSPORTS:
            row = ROWS[name]
            if arguments.no_codec and not row.needs:
                row = replace(row, pictures="none")
            why_not = lacks(transport, row)
            if why_not:
                print(f"{name:15}{transport:10}left out: {why_not}", flush=True)
                continue
            grpc_bytes = results[name].get("grpc", {}).get("bytes_per_frame", 0.0)
            figures, (holds, note) = measured(transport, row, arguments.seconds, grpc_bytes)
            results[name][transport] = figures
            held &= holds or transport == "grpc"
            verdict = "holds" if holds else "DOES NOT HOLD"
            print(
                f"{name:15}{transport:10}{figures['decoded_share']:7.1%} decoded, age p99 "
                f"{figures['age_p99_ms']:5.0f} ms, {figures['bytes_per_frame']:6.0f} bytes/frame, "
                f"{figures['bytes_ratio']:.3f} of independent; {note}; must: {row.must}: "
                f"{verdict}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
