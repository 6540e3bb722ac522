"""The words and figures of a profile's table and page, of a made-up profile."""

from dataclasses import replace
from xml.etree import ElementTree

from dsin.runtime.profiling.graphs import GraphProfile
from dsin.runtime.profiling.html_report import to_html
from dsin.runtime.profiling.machine import Commit, Heat, Machine
from dsin.runtime.profiling.power import Power
from dsin.runtime.profiling.report import (
    Conditions,
    Identity,
    Memory,
    Profile,
    Roofline,
    Start,
)
from dsin.runtime.profiling.statistics import Statistics


def times(p50: float) -> Statistics:
    """Each figure another one: half of it at least, three times at most."""
    return Statistics(
        2, p50 / 2, p50, 1.5 * p50, 1.75 * p50, 2 * p50, 3 * p50, 1.25 * p50, 0.125
    )  # fmt: skip


FIRST = GraphProfile(
    "encoder", 1, times(10), 2.5, 40.25, "float32", 250.0, 5.0, "memory", 0.5, None
)
SECOND = GraphProfile("fusion", 2, times(4), 0.5, 8.0, "int8", 125.0, None, None, None, "in 8 bits")
PROFILE = Profile(
    dsin_profile=1,
    valid=False,
    invalid_reasons=("too short: 2 samples", "throttled: it was hot"),
    notes=("the camera is a file",),
    single_stream_p90_ms=45.0,
    conditions=Conditions("edge", "cpu", 3, 2, 1, 12.5, 2),
    seconds=60.0,
    throughput_fps=22.22,
    late_frames=0,
    bytes_per_frame=times(800),
    bits_per_pixel=0.125,
    latency_ms={
        "device": times(12), "link": times(1), "side": times(3), "server": times(14),
        "end_to_end": times(30),
    },
    stages_ms={
        "device.capture": times(2), "device.host_to_device": times(10), "link.network": times(1),
        "side.compute": times(3), "server.x_decoder": times(14),
    },
    start=Start((900.0, 800.0, 850.0), 100.0, 20.0, 3.0, 41.0, 52.0),
    memory=Memory(512.0, 128.0, None),
    power=Power("NVML", "Card", 25.25, 1.125),
    power_absent=None,
    roofline=Roofline(300.0, 310.0, 12.5, (FIRST, SECOND), "a core is shared", None),
    precision={"encoder": "float32"},
    backend_requested="cuda",
    provider_actual={"encoder": "TensorRT", "fusion": "CUDA", "x_decoder": "CUDA"},
    identity=Identity("ab" * 8, "0a1b", "model", "float", "drive", 9, "cd" * 8, 640, 480),
    machine=Machine("Chip", "riscv64", "Linux 6", 4, 0.5, None),
    heat_before=Heat(None, None, None),
    heat_after=Heat(None, None, None),
    versions={"python": "3.12", "numpy": "2"},
    source=Commit("0123456789abcdef", True),
    measured_at="2026-01-02 03:04",
    end_to_end_ms=(15.0, 45.0),
)  # fmt: skip

TABLE = """\
p90       45.0 ms from frame to picture (single stream)
valid     no
          too short: 2 samples
          throttled: it was hot
measured  edge (float) at rate 3 on cpu, 640x480 (drive), paced at 12.5 frames/s, 2 frames after 1
on        Chip, riscv64, 2 of 4 threads, load 0.5 at the start
note      the camera is a file

milliseconds                min      p50      p90      p95      p99      max     mean    CV, %
device  capture            1.00     2.00     3.00     3.50     4.00     6.00     2.50     12.5
        host_to_device     5.00    10.00    15.00    17.50    20.00    30.00    12.50     12.5
link    network            0.50     1.00     1.50     1.75     2.00     3.00     1.25     12.5
side    compute            1.50     3.00     4.50     5.25     6.00     9.00     3.75     12.5
server  x_decoder          7.00    14.00    21.00    24.50    28.00    42.00    17.50     12.5
all of device              6.00    12.00    18.00    21.00    24.00    36.00    15.00     12.5
all of side                1.50     3.00     4.50     5.25     6.00     9.00     3.75     12.5
all of server              7.00    14.00    21.00    24.50    28.00    42.00    17.50     12.5
end to end                15.00    30.00    45.00    52.50    60.00    90.00    37.50     12.5

rate      1000 bytes per frame, 0.1250 bpp; 22.22 frames/s
start     first packet of a fresh process after 900, 800, 850 ms; loading 123 ms; first frame \
41 + 52 ms
memory    512 MiB resident at most, 128 MiB on the GPU
power     25.25 W, 1.125 J per frame (Card, NVML)
provider  CUDA, TensorRT, cuda was asked for
source    commit 0123456789ab, modified
versions  python 3.12 numpy 2

the processor did 310.0 GMAC/s in a float32 product and copied 12.5 GB/s; each graph alone:
graph               runs      GMAC        MB        ms    GMAC/s  bound ms  of bound
encoder                1     2.500      40.2     10.00     250.0      5.00      50 %
fusion                 2     0.500       8.0      4.00     125.0         -         -
no bound: in 8 bits
doubtful: a core is shared
"""


def test_the_table() -> None:
    assert PROFILE.table() + "\n" == TABLE


def test_what_is_absent_is_told_in_the_table() -> None:
    """And an installed copy in a closed loop, on all threads, says so."""
    bare = replace(
        PROFILE,
        valid=True,
        invalid_reasons=(),
        notes=(),
        conditions=replace(PROFILE.conditions, fps=None, threads=None),
        memory=Memory(512.0, None, "no card"),
        power=None,
        power_absent="no meter",
        roofline=replace(PROFILE.roofline, graphs=(), doubt=None, absent="not counted"),
        machine=replace(PROFILE.machine, load_1min=None),
        source=None,
    )
    lines = bare.table().splitlines()
    assert lines[1:5] == [
        "valid     yes",
        "measured  edge (float) at rate 3 on cpu, 640x480 (drive), closed loop, 2 frames after 1",
        "on        Chip, riscv64, 4 threads",
        "",
    ]
    assert {line for line in lines if line.startswith(("memory", "power", "source", "roof"))} == {
        "memory    512 MiB resident at most",
        "power     not measured: no meter",
        "source    an installed copy, no checkout",
        "roofline  none: not counted",
    }
    clean = replace(PROFILE, source=Commit("0123456789abcdef", False)).table().splitlines()
    assert "source    commit 0123456789ab" in clean


PAGE = """\
dsin profile
edge (float) at rate 3 on cpu, 640x480 (drive), paced at 12.5 frames/s, 2 frames after 1
Chip, riscv64, 2 of 4 threads, load 0.5 at the start; 2026-01-02 03:04
the camera is a file
not valid
too short: 2 samples
throttled: it was hot
45.00 ms|p90 latency, single stream
22.22|frames per second, all in turn
1000 B|per frame, 0.1250 bpp
512 MiB|resident memory at most
850 ms|cold start to the first packet
1.12|J per frame at 25.2 W
Where the time goes
Median of each stage, one after the other; the thin line goes on to its p99.
device: frame to packet
capture|min 1.00 ms, p50 2.00 ms, p90 3.00 ms, p99 4.00 ms, max 6.00 ms|2.00 ms
host to device|min 5.00 ms, p50 10.00 ms, p90 15.00 ms, p99 20.00 ms, max 30.00 ms|10.00 ms
link: loopback, there and back
network|min 0.50 ms, p50 1.00 ms, p90 1.50 ms, p99 2.00 ms, max 3.00 ms|1.00 ms
server: its own view
compute|min 1.50 ms, p50 3.00 ms, p90 4.50 ms, p99 6.00 ms, max 9.00 ms|3.00 ms
server: packet to picture
x decoder|min 7.00 ms, p50 14.00 ms, p90 21.00 ms, p99 28.00 ms, max 42.00 ms|14.00 ms
Latency, frame to picture
2 frames; mean 37.5 ms, CV 12.5 %.
p50 30.0 ms|p90 45.0 ms|p99 60.0 ms
15.0 to 18.8 ms: 1|18.8 to 22.5 ms: 0|22.5 to 26.2 ms: 0|26.2 to 30.0 ms: 0|30.0 to 33.8 ms: \
0|33.8 to 37.5 ms: 0|37.5 to 41.2 ms: 0|41.2 to 45.0 ms: 1|15.0 ms|45.0 ms
frame after frame, from 0 to 45.0 ms|first|last
Stages, in milliseconds
Capture counts in neither device nor end to end. The server's own view is prepared in turn \
here, and counts.
stage|min|p50|p90|p95|p99|max|mean|CV, %
device capture|1.00|2.00|3.00|3.50|4.00|6.00|2.50|12.5
device host to device|5.00|10.00|15.00|17.50|20.00|30.00|12.50|12.5
link network|0.50|1.00|1.50|1.75|2.00|3.00|1.25|12.5
side compute|1.50|3.00|4.50|5.25|6.00|9.00|3.75|12.5
server x decoder|7.00|14.00|21.00|24.50|28.00|42.00|17.50|12.5
all of device|6.00|12.00|18.00|21.00|24.00|36.00|15.00|12.5
all of link|0.50|1.00|1.50|1.75|2.00|3.00|1.25|12.5
all of side|1.50|3.00|4.50|5.25|6.00|9.00|3.75|12.5
all of server|7.00|14.00|21.00|24.50|28.00|42.00|17.50|12.5
end to end|15.00|30.00|45.00|52.50|60.00|90.00|37.50|12.5
Rooflines
The processor did 300.0 GMAC/s in a float32 product before the run and 310.0 after it, and \
copied 12.5 GB/s, read and written. Each graph alone on one frame's inputs: the bound is the \
least time for its products and for what they read and write. No bound: in 8 bits.
Doubtful: a core is shared.
graph|runs|GMAC|MB|ms alone|GMAC/s|bound, ms|by|of bound
encoder (float32)|1|2.500|40.2|10.00|250.0|5.00|memory|50 %
fusion (int8)|2|0.500|8.0|4.00|125.0|-|-|-
Also measured, and on what
rate|1000 bytes per frame, 0.1250 bpp; 22.22 frames/s
start|first packet of a fresh process after 900, 800, 850 ms; loading 123 ms; first frame 41 + 52 ms
memory|512 MiB resident at most, 128 MiB on the GPU
power|25.25 W, 1.125 J per frame (Card, NVML)
provider|CUDA, TensorRT, cuda was asked for
source|commit 0123456789ab, modified
versions|python 3.12 numpy 2
bundle|codec id 0a1b, bundle.json sha256 abababababababab
input|drive, 9 frames, sha256 cdcdcdcdcdcdcdcd
system|Linux 6
"""


def texts(page: str) -> list[str]:
    """What a person reads on it, piece by piece."""
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    body = tree.find("body")
    assert body is not None
    return [piece for text in body.itertext() if (piece := " ".join(text.split()))]


def test_the_words_of_the_page() -> None:
    assert texts(to_html(PROFILE)) == PAGE.replace("\n", "|").strip("|").split("|")


def shapes(page: str, *names: str) -> list[tuple[str, list[str | None]]]:
    """Rectangles, lines and curves, in turn, with these attributes."""
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    found = (each for each in tree.iter() if each.tag in ("rect", "line", "polyline"))
    return [(each.tag, [each.get(name) for name in names]) for each in found]


def test_bars_begin_where_the_stage_before_ends_and_a_line_goes_on_to_p99() -> None:
    """The line that ends last, 16 ms + 28 ms, takes the whole width."""
    drawn = shapes(to_html(PROFILE), "x", "width", "x1", "x2")[:10]
    expected: list[tuple[str, list[str | None]]] = []
    for start, p50 in ((0, 2), (2, 10), (12, 1), (13, 3), (16, 14)):
        x, width, tail = (f"{100 * ms / 44:.3f}%" for ms in (start, p50, start + 2 * p50))
        expected += [("line", [None, None, x, tail]), ("rect", [x, width, None, None])]
    assert drawn == expected


def test_samples_are_drawn_by_how_many_and_in_turn() -> None:
    """Of 15 and 45 ms; with lines at p50, p90 and p99, which are 30, 45 and 60 ms here."""
    drawn = shapes(to_html(PROFILE), "x", "y", "width", "height")[10:]
    bars = [attributes for tag, attributes in drawn if tag == "rect"]
    empty = ["100.000", "11.750", "0.000"]
    assert bars == [
        ["0.000", "4.000", "11.750", "96.000"],
        *([f"{12.5 * n:.3f}", *empty] for n in range(1, 7)),
        ["87.500", "4.000", "11.750", "96.000"],
    ]
    lines = [a for tag, a in shapes(to_html(PROFILE), "x1", "y1", "x2", "y2") if tag == "line"][5:]
    heights = [f"{100 - 100 * ms / 46.8:.3f}" for ms in (30, 45, 60)]
    assert lines == [
        *([x, "0.000", x, "100.000"] for x in ("50.000", "100.000", "150.000")),
        *(["0.000", y, "100.000", y] for y in heights),
    ]
    first, last = (f"{100 - 100 * ms / 46.8:.3f}" for ms in (15, 45))
    assert shapes(to_html(PROFILE), "points")[-1] == ("polyline", [f"0.000,{first} 100.000,{last}"])
