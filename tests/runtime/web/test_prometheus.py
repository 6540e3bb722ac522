"""/metrics, read back with the library's own parser."""

import http.client
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.errors import BackendError
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse
from dsin.runtime.outputs.rig_status import LinkStatus, RigStatus
from dsin.runtime.web.http_server import LOOPBACK, HttpServer
from dsin.runtime.web.prometheus_metrics import Metrics, SinkCounts

AWKWARD = 'a"b\\c\nd{},e="f'
PICTURE = np.zeros((8, 8, 3), np.uint8)

STATUS = RigStatus(
    rig="front", camera_connected=True, side_connected=False, width=8, height=8, decoded=40,
    superseded=3, rejected=2, side_uses={"paired": 30, "missing": 10}, kbps=287.5, fps=9.8,
    referring=25,
    newest_age_ms=212.0, clock_offset_ms=-1.5, clock_error_ms=0.25,
    device={"captured": 50.0, "dropped": 4.0, "lost": 1.0, "reconnects": 2.0, "encode_ms": 48.0,
            "target_kbps": 300.0, "delivered_kbps": 280.0, "queueing_ms": 20.0, "loss": 0.25},
)  # fmt: skip


def frame(rig: str, age_ms: float, **stage_ms: float) -> DecodedFrame:
    decoded = Decoded(PICTURE, PICTURE, None, None, False, None, {})
    captured = 10**18
    return DecodedFrame(
        rig, 0, 0, captured, captured, captured + int(1e6 * age_ms), b"", decoded, None,
        SideUse.MISSING, {name.replace("__", "."): ms for name, ms in stage_ms.items()},
    )  # fmt: skip


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Values by name and labels."""

    def of(self, name: str, **labels: str) -> float:
        return self[name, frozenset(labels.items())]


def scrape(metrics: Metrics) -> Samples:
    with HttpServer(LOOPBACK, 0, [metrics.routes()]) as server:  # noqa: SIM117
        with closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)) as connection:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            return Samples(parsed(answer.read().decode()))


def parsed(text: str) -> Iterator[tuple[tuple[str, frozenset[tuple[str, str]]], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), sample.value


def test_status_becomes_counters_and_gauges() -> None:
    samples = scrape(Metrics(lambda: [STATUS]))
    assert samples.of("dsin_frames_total", rig="front", status="decoded") == 40
    assert samples.of("dsin_frames_total", rig="front", status="superseded") == 3
    assert samples.of("dsin_frames_total", rig="front", status="rejected") == 2
    assert samples.of("dsin_frames_with_reference_total", rig="front") == 25
    assert samples.of("dsin_side_total", rig="front", use="paired") == 30
    assert samples.of("dsin_side_total", rig="front", use="missing") == 10
    assert samples.of("dsin_camera_connected", rig="front", camera="x") == 1
    assert samples.of("dsin_camera_connected", rig="front", camera="y") == 0
    assert samples.of("dsin_packet_bytes_per_second", rig="front") == 35937.5
    assert samples.of("dsin_newest_frame_age_seconds", rig="front") == pytest.approx(0.212)
    assert samples.of("dsin_clock_offset_seconds", rig="front") == pytest.approx(-0.0015)
    assert samples.of("dsin_clock_error_seconds", rig="front") == pytest.approx(0.00025)
    assert samples.of("dsin_frames_per_second", rig="front") == 9.8
    device = {s: samples.of("dsin_device_frames_total", rig="front", status=s)
              for s in ("captured", "dropped", "lost")}  # fmt: skip
    assert device == {"captured": 50, "dropped": 4, "lost": 1}
    assert samples.of("dsin_device_reconnects_total", rig="front") == 2
    assert samples.of("dsin_device_encode_seconds", rig="front") == pytest.approx(0.048)
    assert samples.of("dsin_device_target_bytes_per_second", rig="front") == 37500
    assert samples.of("dsin_device_delivered_bytes_per_second", rig="front") == 35000
    assert samples.of("dsin_device_queueing_seconds", rig="front") == pytest.approx(0.02)
    assert samples.of("dsin_device_loss_ratio", rig="front") == 0.25


def test_the_way_of_datagrams_is_told_by_rig_and_what_is_of_nobody_without() -> None:
    link = LinkStatus("datagram", 0.05, 0.5, 950, 50, 3, 20, 4, {"repeated": 7, "forged": 1})
    samples = scrape(
        Metrics(lambda: [replace(STATUS, link=link)], strangers={"unknown_session": 9})
    )
    assert samples.of("dsin_transport", rig="front", transport="datagram") == 1
    assert samples.of("dsin_datagram_loss_ratio", rig="front") == pytest.approx(0.05)
    assert samples.of("dsin_parity_ratio", rig="front") == pytest.approx(0.5)
    assert samples.of("dsin_datagrams_total", rig="front", status="received") == 950
    assert samples.of("dsin_datagrams_total", rig="front", status="lost") == 50
    assert samples.of("dsin_datagram_frames_total", rig="front", status="incomplete") == 3
    assert samples.of("dsin_datagram_frames_total", rig="front", status="repaired") == 20
    assert samples.of("dsin_datagrams_late_total", rig="front") == 4
    assert samples.of("dsin_datagrams_rejected_total", rig="front", reason="repeated") == 7
    assert samples.of("dsin_datagrams_rejected_total", rig="front", reason="forged") == 1
    assert samples.of("dsin_datagrams_rejected_total", rig="", reason="unknown_session") == 9


def test_without_datagrams_nothing_is_told_of_them() -> None:
    by_grpc = replace(STATUS, link=LinkStatus("grpc"))
    samples = scrape(Metrics(lambda: [by_grpc]))
    assert samples.of("dsin_transport", rig="front", transport="grpc") == 1
    assert not {name for name, _ in samples if "datagram" in name or "parity" in name}


def test_what_is_not_known_is_absent_rather_than_zero() -> None:
    unknown = replace(
        STATUS, newest_age_ms=None, clock_offset_ms=None, clock_error_ms=None, device={}
    )
    names = {name for name, _ in scrape(Metrics(lambda: [unknown]))}
    assert "dsin_packet_bytes_per_second" in names
    assert not {name for name in names if "clock" in name or "device" in name or "newest" in name}


def test_ages_and_stages_are_counted_frame_by_frame() -> None:
    metrics = Metrics(lambda: [STATUS])
    for age_ms in (20, 100, 100.001, 9000):
        metrics.take(frame("front", age_ms, side__compute=5, server__search=40, server__fusion=20))
    samples = scrape(metrics)
    below = {
        limit: samples.of("dsin_frame_age_seconds_bucket", rig="front", le=limit)
        for limit in ("0.01", "0.025", "0.1", "0.15", "5.0", "+Inf")
    }
    assert list(below.values()) == [0, 1, 2, 3, 3, 4]
    assert samples.of("dsin_frame_age_seconds_count", rig="front") == 4
    assert samples.of("dsin_frame_age_seconds_sum", rig="front") == pytest.approx(9.220001)
    assert samples.of("dsin_decode_seconds_sum", rig="front") == pytest.approx(
        0.24
    )  # without the side image's stages
    assert samples.of("dsin_stage_seconds_sum", rig="front", stage="side.compute") == pytest.approx(
        0.02
    )
    assert (
        samples.of("dsin_stage_seconds_bucket", rig="front", stage="server.search", le="0.05") == 4
    )


def test_rigs_that_are_gone_are_forgotten() -> None:
    known: list[Sequence[RigStatus]] = [[STATUS]]
    metrics = Metrics(lambda: known[0])
    metrics.take(frame("front", 20, server__search=1))
    assert scrape(metrics).of("dsin_frame_age_seconds_count", rig="front") == 1
    known[0] = []
    assert not any(labels for _, labels in scrape(metrics))
    known[0] = [STATUS]
    assert not any("age_seconds_count" in name for name, _ in scrape(metrics))


def test_what_the_networks_compute_in_is_told() -> None:
    samples = scrape(Metrics(list, networks={"bundle": "edge", "precision": "8 bits"}))
    assert samples.of("dsin_networks_info", bundle="edge", precision="8 bits") == 1
    assert not any(name == "dsin_networks_info" for name, _ in scrape(Metrics(list)))


def test_outputs_are_counted() -> None:
    metrics = Metrics(list, lambda: {"png": SinkCounts(taken=7, missed=2, failed=1)})
    samples = scrape(metrics)
    counts = [
        samples.of("dsin_sink_frames_total", sink="png", status=s) for s in SinkCounts._fields
    ]
    assert counts == [7, 2, 1]


def test_any_name_of_a_rig_survives() -> None:
    metrics = Metrics(lambda: [replace(STATUS, rig=AWKWARD)])
    metrics.take(frame(AWKWARD, 20))
    samples = scrape(metrics)
    assert samples.of("dsin_packet_bytes_per_second", rig=AWKWARD) == 35937.5
    assert samples.of("dsin_frame_age_seconds_count", rig=AWKWARD) == 1


def test_without_the_library_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(BackendError, match=r"pip install 'dsin\[serve\]'"):
        Metrics(list)


PREFIXES = (
    "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega",
    "mebi", "giga", "gibi", "tera", "tebi", "peta", "pebi",
)  # fmt: skip
BASE_UNITS = {
    "amperes", "bytes", "celsius", "grams", "joules", "kelvin", "meters", "seconds", "volts",
}  # fmt: skip
OTHER_UNITS = {"minutes", "hours", "days", "weeks", "bits", "inches", "miles", "pounds", "calories"}
ABBREVIATIONS = {
    "s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "m", "h", "d", "kbps", "bps", "fps",
}  # fmt: skip
TYPES = {"counter", "gauge", "histogram", "summary", "metric"}


def test_names_are_as_prometheus_wants_them() -> None:
    """The rules that `promtool check metrics` and prometheus.io/docs/practices/naming state."""
    metrics = Metrics(lambda: [STATUS], lambda: {"png": SinkCounts(1, 2, 3)})
    metrics.take(frame("front", 20, server__search=1))
    with HttpServer(LOOPBACK, 0, [metrics.routes()]) as server:  # noqa: SIM117
        with closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)) as connection:
            connection.request("GET", "/metrics")
            families = list(
                text_string_to_metric_families(connection.getresponse().read().decode())
            )
    names = [family.name for family in families]
    assert len(names) > 12
    assert len(set(names)) == len(names)
    for family in families:
        assert re.fullmatch(r"dsin(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        words = set(family.name.split("_"))
        assert not words & (OTHER_UNITS | ABBREVIATIONS | TYPES), family.name
        prefixed = {prefix + unit for prefix in PREFIXES for unit in BASE_UNITS | OTHER_UNITS}
        assert not words & prefixed, family.name
        endings = {sample.name.removeprefix(family.name) for sample in family.samples}
        allowed = {
            "counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"},
        }[family.type]  # fmt: skip
        assert endings <= allowed, (family.name, endings)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


HELP = """\
dsin_frames counter Frames that came from the camera.
dsin_frames_with_reference counter Decoded frames that referred to an earlier one.
dsin_side counter Decoded frames by their side image.
dsin_device_frames counter Frames on the device, as it tells.
dsin_device_reconnects counter Reconnections, as the device tells.
dsin_camera_connected gauge 1 while it is connected.
dsin_packet_bytes_per_second gauge Packets in the last five seconds.
dsin_frames_per_second gauge Decoded frames in the last five seconds.
dsin_newest_frame_age_seconds gauge Age of the newest decoded picture now.
dsin_clock_offset_seconds gauge The camera's clock minus the server's.
dsin_clock_error_seconds gauge What that may be wrong by.
dsin_device_capture_seconds gauge Median time that the camera took for a picture. @
dsin_device_encode_seconds gauge Median time from picture to packet. @
dsin_device_target_bytes_per_second gauge What rate control aims at, 0 without. @
dsin_device_delivered_bytes_per_second gauge What the link delivered in the last second. @
dsin_device_queueing_seconds gauge Delay of frames on the link beyond its quickest way. @
dsin_device_loss_ratio gauge Share of frames that the link loses. @
dsin_transport gauge 1 for how the rig's frames come.
dsin_datagram_loss_ratio gauge Datagrams that were lost lately.
dsin_parity_ratio gauge Parity for each piece of a frame lately.
dsin_datagrams counter Datagrams of the camera.
dsin_datagram_frames counter Frames whose datagrams were not all there.
dsin_datagrams_late counter Datagrams of frames given up already.
dsin_datagrams_rejected counter Datagrams not taken.
dsin_frame_age_seconds histogram From capture to the end of decoding.
dsin_decode_seconds histogram The server's stages of a frame together.
dsin_stage_seconds histogram Each stage on the server.
dsin_sink_frames counter Frames at each output.
dsin_networks info The networks that decode: their bundle, and what they compute in.
"""  # @: Told by the device.


def test_every_metric_has_a_type_and_a_line_of_help() -> None:
    """In the order of the page."""
    link = LinkStatus("datagram", 0.05, 0.5, 950, 50, 3, 20, 4, {"forged": 1})
    metrics = Metrics(
        lambda: [replace(STATUS, link=link)], lambda: {"png": SinkCounts(1, 2, 3)},
        {"bundle": "edge"},
    )  # fmt: skip
    metrics.take(frame("front", 20, server__search=1))
    lines = HELP.replace("@", "Told by the device.").splitlines()
    families = metrics._registry.collect()
    assert [f"{f.name} {f.type} {f.documentation}" for f in families] == lines


def test_a_rig_without_datagrams_does_not_hide_the_next_one() -> None:
    link = LinkStatus("datagram", 0.05, 0.5, 950, 50, 3, 20, 4)
    rigs = [replace(STATUS, rig=name, link=it) for name, it in (("a", LinkStatus()), ("b", link))]
    samples = scrape(Metrics(lambda: rigs))
    assert samples.of("dsin_datagrams_total", rig="b", status="received") == 950
    assert samples.of("dsin_parity_ratio", rig="b") == pytest.approx(0.5)
    assert not {name for name, labels in samples if ("rig", "a") in labels and "datagram" in name}


def test_openmetrics_is_for_who_asks_for_it() -> None:
    with HttpServer(LOOPBACK, 0, [Metrics(list).routes()]) as server:  # noqa: SIM117
        with closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)) as connection:
            connection.request(
                "GET", "/metrics", headers={"Accept": "application/openmetrics-text"}
            )
            answer = connection.getresponse()
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text;")
            assert answer.read().endswith(b"# EOF\n")
