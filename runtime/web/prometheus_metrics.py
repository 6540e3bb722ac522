"""/metrics, for Prometheus: what every rig does, read when it is asked for.

Counters and gauges come from the rigs' status; ages and stage times of frames from the frames
themselves, for which `Metrics` is a sink. Prometheus wants base units, so times are in seconds and
rates in bytes, unlike elsewhere in dsin.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from dsin.runtime.errors import BackendError
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.rig_status import RigStatus

if TYPE_CHECKING:
    from aiohttp import web
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from dsin.runtime.web.http_server import Routes

BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_FRAMES_OF_DEVICE = ("captured", "dropped", "lost")
_MILLISECONDS, _KILOBITS = 1e-3, 125.0
"""In seconds and in bytes."""
_GAUGES_OF_DEVICE = {
    "capture_ms": (
        "capture_seconds", _MILLISECONDS, "Median time that the camera took for a picture.",
    ),
    "encode_ms": ("encode_seconds", _MILLISECONDS, "Median time from picture to packet."),
    "target_kbps": (
        "target_bytes_per_second", _KILOBITS, "What rate control aims at, 0 without.",
    ),
    "delivered_kbps": (
        "delivered_bytes_per_second", _KILOBITS, "What the link delivered in the last second.",
    ),
    "queueing_ms": (
        "queueing_seconds", _MILLISECONDS, "Delay of frames on the link beyond its quickest way.",
    ),
    "loss": ("loss_ratio", 1.0, "Share of frames that the link loses."),
}  # fmt: skip
"""What a device tells of itself: the metric's name after dsin_device_, its unit, its meaning."""


class SinkCounts(NamedTuple):
    """Frames that an output took, missed since it was too slow, and failed to write."""

    taken: int
    missed: int
    failed: int


class Metrics:
    """A sink of frames, and the routes of /metrics.

    `status` and `sinks` (counts by the output's name) are called from the HTTP server's thread.
    `networks` are the labels of dsin_networks_info: bundle and precision. `strangers` counts
    rejected datagrams that are of no rig, by reason. Raises BackendError without prometheus_client.
    """

    def __init__(
        self,
        status: Callable[[], Sequence[RigStatus]],
        sinks: Callable[[], Mapping[str, SinkCounts]] = dict,
        networks: Mapping[str, str] | None = None,
        strangers: Mapping[str, int] | None = None,
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise BackendError(
                "metrics need prometheus_client: pip install 'dsin[serve]'"
            ) from error
        self._times = FrameTimes()
        self._registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
        self._registry.register(
            _Collector(status, sinks, self._times, networks, {} if strangers is None else strangers)
        )

    @property
    def name(self) -> str:
        return "metrics"

    def take(self, frame: DecodedFrame) -> None:
        """Count a frame's age and stages."""
        self._times.add(frame)

    def close(self) -> None:
        """Nothing is pending."""

    def routes(self) -> "Routes":
        """The routes for HttpServer."""
        from aiohttp import web

        return [web.get("/metrics", self._answer)]

    async def _answer(self, request: "web.Request") -> "web.Response":
        from aiohttp import web
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})


class Histogram:
    """How many times are at most as long as each of BUCKETS_S, and their sum in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, ms: float) -> None:
        """Count a time."""
        seconds = _MILLISECONDS * ms
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper limit and number of values up to it, as Prometheus has them."""
        limits = [*map(str, BUCKETS_S), "+Inf"]
        return [
            (limit, float(n)) for limit, n in zip(limits, accumulate(self._counts), strict=True)
        ]


class FrameTimes:
    """Of each rig's frames: age and stage times. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._age: dict[str, Histogram] = {}
        self._decode: dict[str, Histogram] = {}
        self._stages: dict[tuple[str, str], Histogram] = {}

    def add(self, frame: DecodedFrame) -> None:
        """Count one."""
        with self._lock:
            self._age.setdefault(frame.rig, Histogram()).add(frame.age_ms)
            server = (ms for stage, ms in frame.stage_ms.items() if stage.startswith("server."))
            self._decode.setdefault(frame.rig, Histogram()).add(sum(server))
            for stage, ms in frame.stage_ms.items():
                self._stages.setdefault((frame.rig, stage), Histogram()).add(ms)

    def metrics(self, rigs: Iterable[str]) -> "list[Metric]":
        """The histograms; those of rigs that are no longer known are forgotten."""
        from prometheus_client.core import HistogramMetricFamily

        known = set(rigs)
        age, decode, stage = (
            HistogramMetricFamily(f"dsin_{name}_seconds", text, labels=labels)
            for name, text, labels in (
                ("frame_age", "From capture to the end of decoding.", ["rig"]),
                ("decode", "The server's stages of a frame together.", ["rig"]),
                ("stage", "Each stage on the server.", ["rig", "stage"]),
            )
        )
        with self._lock:
            self._age = {rig: h for rig, h in self._age.items() if rig in known}
            self._decode = {rig: h for rig, h in self._decode.items() if rig in known}
            self._stages = {key: h for key, h in self._stages.items() if key[0] in known}
            for rig, histogram in self._age.items():
                age.add_metric([rig], histogram.buckets(), histogram.sum_s)
            for rig, histogram in self._decode.items():
                decode.add_metric([rig], histogram.buckets(), histogram.sum_s)
            for key, histogram in self._stages.items():
                stage.add_metric(list(key), histogram.buckets(), histogram.sum_s)
        return [age, decode, stage]


class _Collector:
    """What prometheus_client asks for metrics."""

    def __init__(
        self,
        status: Callable[[], Sequence[RigStatus]],
        sinks: Callable[[], Mapping[str, SinkCounts]],
        times: FrameTimes,
        networks: Mapping[str, str] | None,
        strangers: Mapping[str, int],
    ) -> None:
        self._networks = networks
        self._strangers = strangers
        self._status = status
        self._sinks = sinks
        self._times = times

    def collect(self) -> "Iterator[Metric]":
        rigs = self._status()
        yield from _counters(rigs)
        yield from _gauges(rigs)
        yield from _link_metrics(rigs, dict(self._strangers))
        yield from self._times.metrics(rig.rig for rig in rigs)
        counter = _counter("dsin_sink_frames", "Frames at each output.", "sink", "status")
        for sink, counts in self._sinks().items():
            for status, count in counts._asdict().items():
                counter.add_metric([sink, status], count)
        yield counter
        if self._networks is not None:
            yield _networks(self._networks)


def _networks(known: Mapping[str, str]) -> "Metric":
    from prometheus_client.core import InfoMetricFamily

    text = "The networks that decode: their bundle, and what they compute in."
    return InfoMetricFamily("dsin_networks", text, value=dict(known))


def _counters(rigs: Sequence[RigStatus]) -> "list[Metric]":
    frames = _counter("dsin_frames", "Frames that came from the camera.", "rig", "status")
    referring = _counter(
        "dsin_frames_with_reference", "Decoded frames that referred to an earlier one.", "rig"
    )
    sides = _counter("dsin_side", "Decoded frames by their side image.", "rig", "use")
    device = _counter("dsin_device_frames", "Frames on the device, as it tells.", "rig", "status")
    reconnects = _counter("dsin_device_reconnects", "Reconnections, as the device tells.", "rig")
    for rig in rigs:
        for status in ("decoded", "superseded", "rejected"):
            frames.add_metric([rig.rig, status], getattr(rig, status))
        referring.add_metric([rig.rig], rig.referring)
        for use, count in rig.side_uses.items():
            sides.add_metric([rig.rig, use], count)
        for status in _FRAMES_OF_DEVICE:
            if status in rig.device:
                device.add_metric([rig.rig, status], rig.device[status])
        if "reconnects" in rig.device:
            reconnects.add_metric([rig.rig], rig.device["reconnects"])
    return [frames, referring, sides, device, reconnects]


def _link_metrics(rigs: Sequence[RigStatus], strangers: Mapping[str, int]) -> "list[Metric]":
    """Of the way to the server. Datagrams of nobody have an empty rig."""
    transport = _gauge("dsin_transport", "1 for how the rig's frames come.", "rig", "transport")
    loss = _gauge("dsin_datagram_loss_ratio", "Datagrams that were lost lately.", "rig")
    parity = _gauge("dsin_parity_ratio", "Parity for each piece of a frame lately.", "rig")
    datagrams = _counter("dsin_datagrams", "Datagrams of the camera.", "rig", "status")
    frames = _counter(
        "dsin_datagram_frames", "Frames whose datagrams were not all there.", "rig", "status"
    )
    late = _counter("dsin_datagrams_late", "Datagrams of frames given up already.", "rig")
    rejected = _counter("dsin_datagrams_rejected", "Datagrams not taken.", "rig", "reason")
    for rig in rigs:
        link = rig.link
        if link.transport:
            transport.add_metric([rig.rig, link.transport], 1)
        for reason, count in link.rejected.items():
            rejected.add_metric([rig.rig, reason], count)
        if not link.received:
            continue
        loss.add_metric([rig.rig], link.loss)
        parity.add_metric([rig.rig], link.parity)
        late.add_metric([rig.rig], link.late)
        for status in ("received", "lost"):
            datagrams.add_metric([rig.rig, status], getattr(link, status))
        for status in ("incomplete", "repaired"):
            frames.add_metric([rig.rig, status], getattr(link, status))
    for reason, count in strangers.items():
        rejected.add_metric(["", reason], count)
    return [transport, loss, parity, datagrams, frames, late, rejected]


def _gauges(rigs: Sequence[RigStatus]) -> "list[Metric]":
    connected = _gauge("dsin_camera_connected", "1 while it is connected.", "rig", "camera")
    rate = _gauge("dsin_packet_bytes_per_second", "Packets in the last five seconds.", "rig")
    fps = _gauge("dsin_frames_per_second", "Decoded frames in the last five seconds.", "rig")
    newest = _gauge(
        "dsin_newest_frame_age_seconds", "Age of the newest decoded picture now.", "rig"
    )
    offset = _gauge("dsin_clock_offset_seconds", "The camera's clock minus the server's.", "rig")
    error = _gauge("dsin_clock_error_seconds", "What that may be wrong by.", "rig")
    device = {told: _gauge(f"dsin_device_{name}", f"{text} Told by the device.", "rig")
              for told, (name, _, text) in _GAUGES_OF_DEVICE.items()}  # fmt: skip
    for rig in rigs:
        connected.add_metric([rig.rig, "x"], rig.camera_connected)
        connected.add_metric([rig.rig, "y"], rig.side_connected)
        rate.add_metric([rig.rig], _KILOBITS * rig.kbps)
        fps.add_metric([rig.rig], rig.fps)
        known = [
            (newest, rig.newest_age_ms, _MILLISECONDS),
            (offset, rig.clock_offset_ms, _MILLISECONDS),
            (error, rig.clock_error_ms, _MILLISECONDS),
        ]
        known += [(g, rig.device.get(n), _GAUGES_OF_DEVICE[n][1]) for n, g in device.items()]
        for gauge, value, unit in known:
            if value is not None:
                gauge.add_metric([rig.rig], unit * value)
    return [connected, rate, fps, newest, offset, error, *device.values()]


def _counter(name: str, text: str, *labels: str) -> "CounterMetricFamily":
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(name, text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> "GaugeMetricFamily":
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, labels=labels)
