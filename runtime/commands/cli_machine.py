"""Commands about this machine and one's own pictures: what is there, and what to expect."""

from pathlib import Path
from typing import Annotated

import typer

from dsin.runtime.commands.cli_app import parse_size
from dsin.runtime.commands.cli_options import (
    BackendName,
    BackendOption,
    BundleOption,
    JsonOption,
    LookName,
    LookOption,
    PrecisionName,
    PrecisionOption,
    RateOption,
    RootOption,
    bundle_at,
)


def selftest(
    json_path: JsonOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
) -> None:
    """Check that this machine codes as all others do.

    Decodes packets that are shipped with dsin, encodes the built-in pictures, and compares. The
    exit status is 1 where anything is unequal; the report can be sent in.
    """
    from dsin.runtime.diagnosis.selftest import run_selftest

    run_selftest(backend.value, precision.value, json_path)


def doctor(json_path: JsonOption = None) -> None:
    """Show what this machine has, and what it lacks.

    Looks for extras, backends, cameras, video codecs, compilers and caches, and says how what is
    missing is installed.
    """
    from dsin.runtime.diagnosis.doctor import run_doctor

    run_doctor(json_path)


def benchmark(
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            "--bundle",
            metavar="B",
            help="Bundle directory or name, a look behind it (edge@sharp); may be given several "
            "times [all shipped ones].",
        ),
    ] = None,
    backend: Annotated[
        list[BackendName] | None,
        typer.Option("--backend", help="What runs the networks; may be given several times [all]."),
    ] = None,
    rate: RateOption = None,
    frames: Annotated[
        int, typer.Option("--frames", metavar="N", min=1, help="Number of frames to measure.")
    ] = 3,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", metavar="LIST", help="List of pairs to measure on [the built-in rig]."
        ),
    ] = None,
    root: RootOption = None,
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="HxW", help="Crop the pairs about their centre."),
    ] = None,
    json_path: JsonOption = None,
    markdown_path: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write the table to FILE as Markdown."),
    ] = None,
) -> None:
    """Compare bundles and backends in one table.

    Every bundle, precision and backend of this machine: size, bits, quality, time, memory, and
    whether bytes are equal; or why one could not run.
    """
    size = None if crop is None else parse_size(crop, "--crop")
    from dsin.runtime.evaluation.benchmark import Options, run_benchmark

    options = Options(
        bundle or (), [name.value for name in backend or ()], rate, frames, pairs, root or Path(),
        size,
    )  # fmt: skip
    run_benchmark(options, json_path, markdown_path)


def try_pictures(
    left: Annotated[Path, typer.Argument(metavar="LEFT", help="Picture to encode, 8-bit colour.")],
    right: Annotated[
        Path, typer.Argument(metavar="RIGHT", help="The receiver's own view of the scene.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="HTML", help="Page to write.")
    ] = Path("dsin-try.html"),
    bundle: BundleOption = None,
    rate: RateOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    look: LookOption = LookName.faithful,
) -> None:
    """Try two pictures of your own, and write one page about them.

    Shows the pictures, bits and quality beside HEVC and JPEG at equal bytes, and where the second
    picture helped.
    """
    bundle = bundle_at(bundle, precision, look)
    from dsin.runtime.evaluation.two_pictures import run_try

    run_try(left, right, output, bundle=bundle, rate=rate, backend=backend.value)
