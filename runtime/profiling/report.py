"""A finished profile: its figures, as JSON and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsin.runtime.profiling.graphs import GraphProfile
from dsin.runtime.profiling.machine import Commit, Heat, Machine
from dsin.runtime.profiling.pipeline import ROOMS
from dsin.runtime.profiling.power import Power
from dsin.runtime.profiling.statistics import Statistics

FORMAT = 1
"""Version of the JSON."""
COLUMNS = ("min", "p50", "p90", "p95", "p99", "max", "mean", "CV, %")
"""What `cells` gives of a stage."""
_ORDER = (
    "queue", "capture", "preprocess", "host_to_device", "compute", "device_to_host", "entropy",
    "packetise", "network", "prepare", "x_decoder", "search", "fusion", "postprocess",
)  # fmt: skip


@dataclass(frozen=True)
class Conditions:
    """What was asked for. `fps` is None in a closed loop, `threads` None for all."""

    bundle: str
    backend: str
    rate: int
    samples: int
    warmup: int
    fps: float | None
    threads: int | None

    @property
    def pace(self) -> str:
        """In words."""
        return "closed loop" if self.fps is None else f"paced at {self.fps:g} frames/s"


@dataclass(frozen=True)
class Start:
    """Milliseconds. `cold_ms` are from the start of a fresh process to its first packet, one each;
    loading is opening the bundle (all its files are hashed), Encoder and Decoder; the first frame
    is the first one that this process encoded and decoded."""

    cold_ms: tuple[float, ...]
    load_bundle_ms: float
    load_encoder_ms: float
    load_decoder_ms: float
    first_encode_ms: float
    first_decode_ms: float


@dataclass(frozen=True)
class Identity:
    """What was measured: `bundle_sha256` is of bundle.json, which has the hashes of all its files;
    `networks` says what they compute in, `input_sha256` is of the pixels of all frames."""

    bundle_sha256: str
    codec_id: str
    model_id: str
    networks: str
    input_name: str
    input_frames: int
    input_sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Memory:
    """MiB at most until the end of the measured frames: of the process, and of it on the GPU."""

    peak_rss_mib: float
    gpu_mib: float | None
    gpu_absent: str | None


@dataclass(frozen=True)
class Roofline:
    """What the processor was measured to do (float32 products in GMAC/s, copies in GB/s read and
    written) and how near the graphs come to it. `doubt` says why that may be wrong, `absent` why
    there are no graphs."""

    gmacs_before: float
    gmacs_after: float
    gbytes: float
    graphs: tuple[GraphProfile, ...]
    doubt: str | None
    absent: str | None


@dataclass(frozen=True)
class Profile:
    """The fields are the keys of `dsin profile --json`; times are milliseconds.

    `single_stream_p90_ms` is p90 of `latency_ms["end_to_end"]`, as in MLPerf's single stream: one
    frame after the other, each one's latency. `throughput_fps` is of the whole loop, capture
    included. `notes` say what a reader might take for something else. `precision` is what each
    graph's products are computed in. Where something cannot be measured, its value is null and a
    key …absent says why. `end_to_end_ms` are all samples in order.
    """

    dsin_profile: int
    valid: bool
    invalid_reasons: tuple[str, ...]
    notes: tuple[str, ...]
    single_stream_p90_ms: float
    conditions: Conditions
    seconds: float
    throughput_fps: float
    late_frames: int
    bytes_per_frame: Statistics
    bits_per_pixel: float
    latency_ms: Mapping[str, Statistics]
    stages_ms: Mapping[str, Statistics]
    start: Start
    memory: Memory
    power: Power | None
    power_absent: str | None
    roofline: Roofline
    precision: Mapping[str, str]
    backend_requested: str
    provider_actual: Mapping[str, str]
    identity: Identity
    machine: Machine
    heat_before: Heat
    heat_after: Heat
    versions: Mapping[str, str]
    source: Commit | None
    measured_at: str
    end_to_end_ms: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)

    def table(self) -> str:
        """The figures for a person, without a newline at the end."""
        lines = [
            f"p90       {self.single_stream_p90_ms:.1f} ms from frame to picture (single stream)",
            f"valid     {'yes' if self.valid else 'no'}",
            *(f"          {reason}" for reason in self.invalid_reasons),
            f"measured  {describe(self)}",
            f"on        {describe_machine(self)}",
            *(f"note      {note}" for note in self.notes),
            "",
            f"{'milliseconds':22}" + "".join(f"{name:>9}" for name in COLUMNS),
        ]
        room = ""
        for name, times in self.stages_ms.items():
            before, room = room, name.partition(".")[0]
            label = f"{room if room != before else '':8}{name.partition('.')[2]}"
            lines.append(_row(label, times))
        lines += [_row(f"all of {name}", self.latency_ms[name]) for name in ROOMS[:1] + ROOMS[2:]]
        lines += [_row("end to end", self.latency_ms["end_to_end"]), ""]
        lines += [f"{name:10}{value}" for name, value in facts(self)]
        lines += ["", *_roofline_rows(self.roofline)]
        return "\n".join(lines)


def ordered(stages: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of stages in the order in which a frame meets them."""

    def place(name: str) -> tuple[int, int]:
        room, _, stage = name.partition(".")
        return ROOMS.index(room), _ORDER.index(stage) if stage in _ORDER else len(_ORDER)

    return sorted(stages, key=place)


def cells(times: Statistics) -> list[str]:
    """The columns of a table."""
    values = times.min, times.p50, times.p90, times.p95, times.p99, times.max, times.mean
    return [*(f"{value:.2f}" for value in values), f"{100 * times.cv:.1f}"]


def describe(profile: Profile) -> str:
    """What was measured, in one line."""
    asked, what = profile.conditions, profile.identity
    return (
        f"{asked.bundle} ({what.networks}) at rate {asked.rate} on {asked.backend}, "
        f"{what.width}x{what.height} ({what.input_name}), {asked.pace}, "
        f"{asked.samples} frames after {asked.warmup}"
    )


def describe_machine(profile: Profile) -> str:
    """The machine in one line."""
    machine = profile.machine
    load = "" if machine.load_1min is None else f", load {machine.load_1min:g} at the start"
    limit = profile.conditions.threads
    used = f"{machine.threads}" if limit is None else f"{limit} of {machine.threads}"
    return f"{machine.name}, {machine.architecture}, {used} threads{load}"


def facts(profile: Profile) -> list[tuple[str, str]]:
    """Everything but the stages, as short names and values."""
    start, size = profile.start, profile.bytes_per_frame
    cold = ", ".join(f"{ms:.0f}" for ms in start.cold_ms)
    load_ms = start.load_bundle_ms + start.load_encoder_ms + start.load_decoder_ms
    memory = f"{profile.memory.peak_rss_mib:.0f} MiB resident at most"
    if profile.memory.gpu_mib is not None:
        memory += f", {profile.memory.gpu_mib:.0f} MiB on the GPU"
    power = f"not measured: {profile.power_absent}"
    if profile.power is not None:
        power = (f"{profile.power.mean_w:.2f} W, {profile.power.energy_per_frame_j:.3f} J per "
                 f"frame ({profile.power.what}, {profile.power.source})")  # fmt: skip
    source = "an installed copy, no checkout"
    if profile.source is not None:
        source = f"commit {profile.source.commit[:12]}"
        source += ", modified" if profile.source.modified else ""
    numbers = " ".join(f"{name} {number}" for name, number in profile.versions.items())
    return [
        ("rate", f"{size.mean:.0f} bytes per frame, {profile.bits_per_pixel:.4f} bpp; "
                 f"{profile.throughput_fps:.2f} frames/s"),
        ("start", f"first packet of a fresh process after {cold} ms; loading {load_ms:.0f} ms; "
                  f"first frame {start.first_encode_ms:.0f} + {start.first_decode_ms:.0f} ms"),
        ("memory", memory),
        ("power", power),
        ("provider", f"{', '.join(sorted(set(profile.provider_actual.values())))}, "
                     f"{profile.backend_requested} was asked for"),
        ("source", source),
        ("versions", numbers),
    ]  # fmt: skip


def _row(label: str, times: Statistics) -> str:
    return f"{label:22}" + "".join(f"{cell:>9}" for cell in cells(times))


def bound_cells(graph: GraphProfile) -> tuple[str, str]:
    """The bound in ms and the share of it; a dash each where there is none."""
    if graph.bound_ms is None or graph.share_of_bound is None:
        return "-", "-"
    return f"{graph.bound_ms:.2f}", f"{100 * graph.share_of_bound:.0f} %"


def absent_bounds(roofline: Roofline) -> list[str]:
    """Why graphs have no bound, each reason once."""
    return sorted({graph.bound_absent for graph in roofline.graphs if graph.bound_absent})


def _roofline_rows(roofline: Roofline) -> list[str]:
    if roofline.absent is not None:
        return [f"roofline  none: {roofline.absent}"]
    head = ("runs", "GMAC", "MB", "ms", "GMAC/s", "bound ms", "of bound")
    rows = [
        f"the processor did {max(roofline.gmacs_before, roofline.gmacs_after):.1f} GMAC/s in a "
        f"float32 product and copied {roofline.gbytes:.1f} GB/s; each graph alone:",
        f"{'graph':14}" + "".join(f"{name:>10}" for name in head),
    ]
    for graph in roofline.graphs:
        values = (f"{graph.runs_per_frame}", f"{graph.gmac:.3f}", f"{graph.mbytes:.1f}",
                  f"{graph.ms.p50:.2f}", f"{graph.achieved_gmacs:.1f}",
                  *bound_cells(graph))  # fmt: skip
        rows.append(f"{graph.graph:14}" + "".join(f"{value:>10}" for value in values))
    rows += [f"no bound: {reason}" for reason in absent_bounds(roofline)]
    return rows if roofline.doubt is None else [*rows, f"doubtful: {roofline.doubt}"]
