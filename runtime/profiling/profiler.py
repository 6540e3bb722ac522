"""`dsin profile`: measure a bundle on this machine, and say whether the figures are valid."""

import hashlib
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dsin.runtime.backends.session import Backend, wrapped_sessions
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.precision import at_precision, precision_of
from dsin.runtime.errors import DsinError
from dsin.runtime.files import check_target, write_bytes_atomically, write_json
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.profiling.chip import ChipSpeed, measure_chip
from dsin.runtime.profiling.cold_start import cold_start_ms
from dsin.runtime.profiling.graphs import (
    GraphProfile,
    SessionRecorder,
    absent_reason,
    profile_graphs,
)
from dsin.runtime.profiling.html_report import to_html
from dsin.runtime.profiling.link import Loopback
from dsin.runtime.profiling.machine import (
    Heat,
    Machine,
    describe_machine,
    peak_memory_mib,
    read_heat,
    source_commit,
    versions,
)
from dsin.runtime.profiling.pipeline import ROOMS, Frames, Pacer, Pipeline, Sample
from dsin.runtime.profiling.power import Meter, Readings, metering, open_meter, power_of
from dsin.runtime.profiling.report import (
    FORMAT,
    Conditions,
    Identity,
    Memory,
    Profile,
    Roofline,
    Start,
    ordered,
)
from dsin.runtime.profiling.statistics import (
    LEAST_SAMPLES,
    LEAST_SECONDS,
    Statistics,
    reasons_against,
)
from dsin.runtime.progress import ProgressLine
from dsin.runtime.sources.warm_up import warm_up

COLD_STARTS = 3
"""Fresh processes that are started, one after the other."""
BELIEVABLE_SHARE = 1.2
"""Of its bound: numpy's product is not the best that a processor can do, but near to it."""
WARMUP = 10
"""Frames before the first one that counts, if nobody says how many."""


@dataclass(frozen=True)
class Options:
    """What to profile. `bundle` and `rate` None are the defaults, `source` None the synthetic rig,
    `samples` None as many frames as a valid profile needs, `fps` None a closed loop, `threads` None
    all."""

    bundle: str | None = None
    source: Path | str | None = None
    samples: int | None = None
    warmup: int = WARMUP
    fps: float | None = None
    rate: int | None = None
    threads: int | None = None
    backend: Backend = "cpu"
    side: str | None = None
    """The right camera, where it is no part of `source`."""


def run_profile(
    options: Options, json_path: Path | None = None, html_path: Path | None = None
) -> Profile:
    """Profile, print the table, write the files that are named.

    Raises BundleError, FrameError, BackendError or DsinError for what cannot be used or written.
    """
    check_target(json_path, html_path)
    with ProgressLine() as progress:
        profile = measure(options, progress.show)
    print(profile.table())
    if json_path is not None:
        write_json(json_path, profile.to_json())
    if html_path is not None:
        write_bytes_atomically(html_path, to_html(profile).encode())
    return profile


def measure(options: Options, tell: Callable[[str], None] = lambda line: None) -> Profile:
    """All measurements in turn; `tell` gets what is going on. Raises as `run_profile` does."""
    _check(options)
    surroundings = _Surroundings(describe_machine(), read_heat(), *open_meter(options.backend))
    with ExitStack() as stack:
        rig = _Rig(options, stack)
        tell(f"profiling {rig.bundle.path.name} on {rig.frames.name}")
        chip_before = measure_chip(options.threads)
        first = rig.pipeline.run()
        if options.warmup:
            rig.warm_up()
        loop = _loop(options, rig.pipeline, surroundings.meter, tell)
        chip_after = measure_chip(options.threads)
        tell("graphs and cold starts")
        roofline = _roofline(rig, options.backend, chip_before, chip_after)
        start = _start(options, rig, first)
        return _profile(options, surroundings, rig, loop, roofline, start)


class _Surroundings(NamedTuple):
    machine: Machine
    heat: Heat
    meter: Meter | None
    no_meter: str | None


class _Loop(NamedTuple):
    """`heat` and `peak_rss_mib` are from the end of the loop."""

    samples: list[Sample]
    seconds: float
    late_frames: int
    readings: Readings
    heat: Heat
    peak_rss_mib: float


class _Rig:
    """What is profiled, opened, with the times that opening took."""

    def __init__(self, options: Options, stack: ExitStack) -> None:
        self.recorder = SessionRecorder()
        marks = [time.perf_counter_ns()]
        self.bundle: Bundle = at_precision(open_bundle(options.bundle), options.backend)
        self.rate = self.bundle.rate_index(options.rate)
        marks.append(time.perf_counter_ns())
        with wrapped_sessions(self.recorder):
            encoder = stack.enter_context(
                Encoder(self.bundle, options.backend, threads=options.threads)
            )
            marks.append(time.perf_counter_ns())
            decoder = stack.enter_context(
                Decoder(self.bundle, options.backend, threads=options.threads)
            )
        marks.append(time.perf_counter_ns())
        self.load_ms = tuple(round((end - start) / 1e6, 3) for start, end in pairwise(marks))
        self.frames = Frames(options.source, options.side)
        link = stack.enter_context(Loopback(encoder.bundle.codec_id, self.frames.source.size))
        self.pipeline = Pipeline(self.frames, encoder, decoder, link, self.rate)
        self._encoder, self._decoder = encoder, decoder

    def warm_up(self) -> None:
        """Compile the kernels that only some frames need, which would fall into the measurement."""
        warm_up(self._encoder, self.frames.source.size, self._decoder)

    def conditions(self, options: Options, samples: int) -> Conditions:
        return Conditions(
            self.bundle.path.name, options.backend, self.rate, samples, options.warmup,
            options.fps, options.threads,
        )  # fmt: skip

    def identity(self) -> Identity:
        height, width = self.frames.source.size
        return Identity(
            bundle_sha256=hashlib.sha256((self.bundle.path / MANIFEST).read_bytes()).hexdigest(),
            codec_id=self.bundle.codec_id.hex(),
            model_id=self.bundle.model_id,
            networks=precision_of(self.bundle),
            input_name=self.frames.name,
            input_frames=self.frames.count,
            input_sha256=self.frames.sha256(),
            width=width,
            height=height,
        )


def _loop(
    options: Options, pipeline: Pipeline, meter: Meter | None, tell: Callable[[str], None]
) -> _Loop:
    """Warm up, then the frames that count."""
    for number in range(options.warmup):
        tell(f"warming up: {number + 1} of {options.warmup}")
        pipeline.run()
    pacer = Pacer(options.fps)
    samples: list[Sample] = []
    with metering(meter) as readings:
        start = time.perf_counter()
        while not _enough(options.samples, len(samples), time.perf_counter() - start):
            samples.append(pipeline.run(pacer.wait()))
            tell(f"measuring: {len(samples)} of {options.samples or LEAST_SAMPLES}")
        seconds = time.perf_counter() - start
    return _Loop(samples, seconds, pacer.late_frames, readings, read_heat(), peak_memory_mib())


def _enough(wanted: int | None, samples: int, seconds: float) -> bool:
    """As many as were asked for, or else as many as a valid profile needs."""
    if wanted is not None:
        return samples >= wanted
    return samples >= LEAST_SAMPLES and seconds >= LEAST_SECONDS


def _latency(samples: list[Sample]) -> dict[str, Statistics]:
    rooms = {room: Statistics.of([sample.room_ms[room] for sample in samples]) for room in ROOMS}
    return {**rooms, "end_to_end": Statistics.of([sample.end_to_end_ms for sample in samples])}


def _stages(samples: list[Sample]) -> dict[str, Statistics]:
    times: dict[str, list[float]] = {}
    for sample in samples:
        for name, ms in sample.stage_ms.items():
            times.setdefault(name, []).append(ms)
    return {name: Statistics.of(times[name]) for name in ordered(times)}


def _start(options: Options, rig: _Rig, first: Sample) -> Start:
    frame = rig.frames.source.view(0, "left")
    cold = [cold_start_ms(rig.bundle, options.backend, options.threads, rig.rate, frame)
            for _ in range(COLD_STARTS)]  # fmt: skip
    bundle_ms, encoder_ms, decoder_ms = rig.load_ms
    return Start(
        cold_ms=tuple(round(ms, 3) for ms in cold),
        load_bundle_ms=bundle_ms,
        load_encoder_ms=encoder_ms,
        load_decoder_ms=decoder_ms,
        first_encode_ms=round(first.room_ms["device"], 3),
        first_decode_ms=round(first.room_ms["side"] + first.room_ms["server"], 3),
    )


def _roofline(rig: _Rig, backend: Backend, before: ChipSpeed, after: ChipSpeed) -> Roofline:
    """With the better of the two measurements of the chip."""
    chip = ChipSpeed(max(before.gmacs, after.gmacs), max(before.gbytes, after.gbytes))
    absent = absent_reason(backend)
    graphs: tuple[GraphProfile, ...] = ()
    if absent is None:
        rig.recorder.record(True)
        rig.pipeline.run()
        rig.recorder.record(False)
        try:
            graphs = profile_graphs(rig.recorder, chip)
        except DsinError as error:
            # An onnxruntime that traces otherwise must not cost the latencies, which are measured.
            absent = str(error)
    return Roofline(
        gmacs_before=round(before.gmacs, 3),
        gmacs_after=round(after.gmacs, 3),
        gbytes=round(chip.gbytes, 3),
        graphs=graphs,
        doubt=_doubt(graphs),
        absent=absent,
    )


def _doubt(graphs: tuple[GraphProfile, ...]) -> str | None:
    """A graph that is faster than the processor shows that others used the processor."""
    shares = [(graph.share_of_bound or 0.0, graph.graph) for graph in graphs]
    share, name = max(shares, default=(0.0, ""))
    if share <= BELIEVABLE_SHARE:
        return None
    return (
        f"{name} ran {share:.1f} times as fast as the processor was measured "
        "to allow: it was busy with something else meanwhile"
    )


def _profile(
    options: Options,
    around: _Surroundings,
    rig: _Rig,
    loop: _Loop,
    roofline: Roofline,
    start: Start,
) -> Profile:
    """Put together what was measured, and judge it."""
    latency, stages, readings = _latency(loop.samples), _stages(loop.samples), loop.readings
    heated = (loop.heat.throttle_events or 0) - (around.heat.throttle_events or 0)
    reasons = reasons_against(
        latency["end_to_end"],
        seconds=loop.seconds,
        gmacs_before=roofline.gmacs_before,
        gmacs_after=roofline.gmacs_after,
        throttle_events=heated + readings.throttle_events,
        late_frames=loop.late_frames,
    )
    count = len(loop.samples)
    sizes = Statistics.of([sample.packet_bytes for sample in loop.samples])
    identity = rig.identity()
    power = None
    if around.meter is not None:
        power = power_of(around.meter, readings, loop.seconds, count)
    return Profile(
        dsin_profile=FORMAT,
        valid=not reasons,
        invalid_reasons=reasons,
        notes=notes_on(options.backend, stages),
        single_stream_p90_ms=latency["end_to_end"].p90,
        conditions=rig.conditions(options, count),
        seconds=round(loop.seconds, 3),
        throughput_fps=round(count / loop.seconds, 4),
        late_frames=loop.late_frames,
        bytes_per_frame=sizes,
        bits_per_pixel=round(8 * sizes.mean / (identity.width * identity.height), 6),
        latency_ms=latency,
        stages_ms=stages,
        start=start,
        memory=_memory(loop, around.no_meter),
        power=power,
        power_absent=None if power else around.no_meter or "the meter gave no reading",
        roofline=roofline,
        precision={graph.graph: graph.precision for graph in roofline.graphs},
        backend_requested=options.backend,
        provider_actual=rig.recorder.providers,
        identity=identity,
        machine=around.machine,
        heat_before=around.heat,
        heat_after=loop.heat,
        versions=versions(),
        source=source_commit(),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        end_to_end_ms=tuple(round(sample.end_to_end_ms, 4) for sample in loop.samples),
    )


def notes_on(backend: Backend, stages: Collection[str]) -> tuple[str, ...]:
    """Notes on stages of these names whose meaning is not obvious."""
    if backend == "cpu" or "device.host_to_device" in stages:
        return ()
    return (f"compute includes copying to and from {backend}, which one call does together",)


def _memory(loop: _Loop, no_meter: str | None) -> Memory:
    if loop.readings.gpu_mib:
        return Memory(loop.peak_rss_mib, round(max(loop.readings.gpu_mib), 1), None)
    return Memory(loop.peak_rss_mib, None, no_meter or "the meter does not tell this process's")


def _check(options: Options) -> None:
    """Refuse what cannot be, before anything is loaded."""
    if options.samples is not None and options.samples < 1:
        raise DsinError(f"{options.samples} samples: ask for at least one")
    if options.warmup < 0:
        raise DsinError(f"{options.warmup} frames to warm up: ask for 0 or more")
    if options.fps is not None and not 0 < options.fps <= 1000:
        raise DsinError(f"{options.fps:g} frames a second: ask for more than 0 and at most 1000")
