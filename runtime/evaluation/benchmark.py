"""`dsin benchmark`: one table of every bundle, precision and backend that this machine has.

Each row runs in a process of its own (`dsin.runtime.evaluation.benchmark_row`), one after the
other. What cannot run has a row too, with the reason.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dsin.runtime.backends.session import BACKENDS, Backend
from dsin.runtime.codec.bundle import open_bundle, shipped_bundles
from dsin.runtime.errors import BackendError
from dsin.runtime.evaluation import benchmark_row
from dsin.runtime.evaluation.benchmark_row import Figures, Request
from dsin.runtime.evaluation.pairs import Pair, read_pair, read_pair_list
from dsin.runtime.files import check_target, write_bytes_atomically, write_image, write_json
from dsin.runtime.profiling.machine import Machine, describe_machine, versions
from dsin.runtime.progress import ProgressLine
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.terminal import counted

FORMAT = 1
"""Version of the JSON."""
FRAMES = 3
"""As many frames unless more are asked for: a minute or two for all rows on two CPU cores."""
RIG_SIZE = 375, 1242
"""Height and width of the built-in rig's frames."""
HEADER = (
    "bundle", "networks", "backend", "rate", "MB", "bpp", "PSNR", "no side", "MS-SSIM", "device ms",
    "side ms", "server ms", "fps", "MiB", "equal bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What to measure. `bundles` and `backends` empty are all, `pairs` None the built-in rig,
    `rate` None each bundle's default; `crop` is (height, width)."""

    bundles: Sequence[str] = ()
    backends: Sequence[Backend] = ()
    rate: int | None = None
    frames: int = FRAMES
    pairs: Path | None = None
    root: Path = Path()
    crop: tuple[int, int] | None = None


class Way(NamedTuple):
    """A way to run a bundle: `name` is as `open_bundle` takes it."""

    bundle: str
    name: str
    networks: str
    backend: Backend


@dataclass(frozen=True)
class Row:
    """A way and its figures, or why there are none."""

    bundle: str
    networks: str
    backend: Backend
    figures: Figures | None
    reason: str | None

    def cells(self) -> list[str]:
        """As in HEADER; of a row without figures the first three and the reason."""
        head, found = [self.bundle, self.networks, self.backend], self.figures
        if found is None:
            return [*head, self.reason or ""]
        rooms = [
            sum(ms for name, ms in found.stages_ms.items() if name.startswith(room + "."))
            for room in ("device", "side", "server")
        ]
        ssim = "" if found.ms_ssim is None else f"{found.ms_ssim:.4f}"
        return [
            *head, str(found.rate), f"{found.megabytes:.1f}", f"{found.bpp:.4f}",
            f"{found.psnr_db:.2f}", f"{found.psnr_db_no_side:.2f}", ssim,
            *(f"{ms:.0f}" for ms in rooms), f"{found.fps:.2f}", f"{found.peak_mib:.0f}",
            "yes" if found.equal_bytes else "NO",
        ]  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """All rows; `to_json` is what `dsin benchmark --json` writes."""

    machine: Machine
    versions: dict[str, str]
    input_name: str
    frames: int
    width: int
    height: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {"dsin_benchmark": FORMAT, **asdict(self)}

    def title(self) -> str:
        """What was measured, and where."""
        machine = self.machine
        frames = counted(self.frames, "frame")
        return (
            f"{frames} of {self.width}x{self.height} ({self.input_name}) on "
            f"{machine.name}, {machine.architecture}, {machine.threads} threads"
        )

    def table(self) -> str:
        """Rows for a person, without a newline at the end; reasons come last."""
        ran = [HEADER, *(row.cells() for row in self.rows if row.figures is not None)]
        widths = [max(map(len, column)) for column in zip(*ran, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if number < 3 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in ran
        ]
        absent: dict[str, list[str]] = {}
        for row in self.rows:
            if row.figures is None:
                reason = f"not on {row.backend}: {row.reason}"
                absent.setdefault(reason, []).append(f"{row.bundle} in {row.networks}")
        lines += [""] if absent else []
        lines += [f"{', '.join(names)} {reason}" for reason, names in absent.items()]
        return "\n".join([self.title(), "", *lines])

    def markdown(self) -> str:
        """The same as a page."""
        lines = [
            f"# dsin benchmark\n\n{self.title()}\n",
            _bars(HEADER),
            _bars(["---"] * len(HEADER)),
        ]
        lines += [_bars(row.cells()) for row in self.rows if row.figures is not None]
        absent = [row for row in self.rows if row.figures is None]
        if absent:
            lines += ["", _bars(["bundle", "networks", "backend", "why not"]), _bars(["---"] * 4)]
            lines += [_bars(row.cells()) for row in absent]
        return "\n".join(lines) + "\n"


def run_benchmark(
    options: Options, json_path: Path | None = None, markdown_path: Path | None = None
) -> Benchmark:
    """Measure everything, print the table, write the files that are named.

    Raises DsinError for pairs or a bundle that cannot be used and for files that cannot be
    written; a way that cannot run is a row with its reason.
    """
    check_target(json_path, markdown_path)
    with ProgressLine() as progress:
        done = benchmark(options, progress.show)
    print(done.table())
    if json_path is not None:
        write_json(json_path, done.to_json())
    if markdown_path is not None:
        write_bytes_atomically(markdown_path, done.markdown().encode())
    return done


def benchmark(options: Options, tell: Callable[[str], None] = lambda line: None) -> Benchmark:
    """All rows; `tell` gets which one is being measured."""
    ways = list(_ways(options))
    with (
        tempfile.TemporaryDirectory(prefix="dsin-benchmark-") as name,
        _frames(options, Path(name), tell) as pairs,
    ):
        height, width = read_pair(pairs[0], options.crop)[0].shape[:2]
        reasons = {way.backend: _absent(way.backend) for way in ways}
        rows = []
        for number, way in enumerate(ways):
            tell(f"{way.bundle} {way.networks} on {way.backend}, {number + 1} of {len(ways)}")
            reference = Path(name) / f"{way.bundle.replace('/', '_')}.json"
            request = Request(
                way.name, way.backend, options.rate,
                [[str(pair.x.absolute()), str(pair.y.absolute())] for pair in pairs],
                options.crop, str(reference),
            )  # fmt: skip
            reason = reasons[way.backend]
            figures = None
            if reason is None:
                figures, reason = _measured(request)
            rows.append(Row(way.bundle, way.networks, way.backend, figures, reason))
    input_name = "built-in rig" if options.pairs is None else options.pairs.name
    return Benchmark(
        describe_machine(), versions(), input_name, len(pairs), width, height, tuple(rows)
    )


def _ways(options: Options) -> Iterator[Way]:
    """By bundle, the one on the CPU in float first: it is the reference of the others. 8-bit
    networks of bundles are for the CPU; TensorRT has 8 bits of its own."""
    for name in options.bundles or shipped_bundles():
        bundle = open_bundle(name)
        bundle.rate_index(options.rate)
        title = "".join(name.rsplit(f"@{bundle.precision}", 1))  # a look may stand behind it
        for backend in options.backends or BACKENDS:
            if bundle.precision == "auto" and bundle.int8:
                yield Way(title, f"{name}@float", "float", backend)
                if backend == "cpu":
                    yield Way(title, f"{name}@int8", "8 bits", backend)
            else:
                only = "calibration" in bundle.training or bundle.precision == "int8"
                yield Way(title, name, "8 bits" if only else "float", backend)


@contextmanager
def _frames(options: Options, folder: Path, tell: Callable[[str], None]) -> Iterator[list[Pair]]:
    """The pairs to measure with; the built-in rig's are drawn into `folder`."""
    if options.pairs is not None:
        yield read_pair_list(options.pairs, options.root)[: options.frames]
        return
    height, width = RIG_SIZE
    rig = SyntheticRig(width=width, height=height, frames=options.frames)
    pairs = []
    for number in range(options.frames):
        tell(f"drawing frame {number + 1} of {options.frames}")
        frame = rig.frame(number)
        pair = Pair(folder / f"{number}_x.png", folder / f"{number}_y.png")
        write_image(pair.x, frame.left)
        write_image(pair.y, frame.right)
        pairs.append(pair)
    yield pairs


def _absent(backend: Backend) -> str | None:
    """Why a backend is not there, as far as that is known without a graph."""
    from dsin.runtime.backends.ort import CPU, CUDA, onnxruntime
    from dsin.runtime.backends.tensorrt_api import tensorrt
    from dsin.runtime.gpu.cuda_driver import chosen_device

    try:
        if backend in ("cpu", "cuda"):
            onnxruntime(CPU if backend == "cpu" else CUDA)
        else:
            tensorrt()
        if backend != "cpu":
            chosen_device()
    except BackendError as error:
        return str(error)
    return None


def _measured(request: Request) -> tuple[Figures | None, str | None]:
    """Figures from a child, or why there are none: what it said last."""
    command = [sys.executable, "-m", benchmark_row.__name__, json.dumps(asdict(request))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Figures(**json.loads(done.stdout.splitlines()[-1])), None
    if done.returncode < 0:
        return None, f"killed by signal {-done.returncode}: the machine may be short of memory"
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    return None, last.removeprefix("dsin: ")


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
