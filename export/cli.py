"""`dsin-export`: checkpoints to bundles and back, bundles to engines."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from dsin.runtime.backends.session import BACKENDS, Backend
from dsin.runtime.commands.cli import parse_size
from dsin.runtime.commands.option_rules import command
from dsin.runtime.errors import DsinError, ExportError
from dsin.runtime.terminal import run_app, say

app = typer.Typer(
    help="Export trained checkpoints to the bundles that devices and servers run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Storage(str, enum.Enum):
    """How the weights are stored; arithmetic is float32 with both."""

    float32 = "float32"
    float16 = "float16"


class Precision(str, enum.Enum):
    """What the networks compute in; the entropy model is exact float32 in each."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@app.callback()
def _app() -> None:
    """Export trained checkpoints to the bundles that devices and servers run."""


@command(app)
def onnx(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint of dsin train or dsin import-tf")],
    output: Annotated[Path, typer.Option("-o", "--output", help="bundle directory to write")],
    weights: Annotated[Storage, typer.Option(help="storage of the weights")] = Storage.float32,
    frames: Annotated[
        Path | None,
        typer.Option(
            help="folder of pictures, or a list of their paths (pairs, one path a line, relative "
            "to the list or to --root), to calibrate and verify on; default: the synthetic rig"
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="where paths in the list start")] = None,
    name: Annotated[str | None, typer.Option(help="name of the model; default: preset's")] = None,
    licence: Annotated[str | None, typer.Option(help="licence of the weights")] = None,
) -> None:
    """Write a bundle: ONNX graphs, checked against PyTorch, and integer tables."""
    from dsin.export.calibration_frames import read_frames
    from dsin.export.write_bundle import write_bundle

    pictures = None if frames is None else read_frames(frames, root)

    comparisons = write_bundle(
        checkpoint,
        output,
        weights=weights.value,
        calibration_frames=pictures,
        name=name,
        licence=licence,
    )
    for comparison in comparisons:
        typer.echo(str(comparison))
    size = sum(path.stat().st_size for path in output.iterdir())
    say(f"wrote {output}: {size / 1e6:.1f} MB")


@command(app)
def checkpoint(
    bundle: Annotated[str, typer.Argument(help="bundle directory, or name of a shipped one")],
    output: Annotated[Path, typer.Option("-o", "--output", help="checkpoint to write")],
) -> None:
    """Restore the checkpoint of a bundle, to train it further with dsin train --start-from."""
    from dsin.export.restore import restore_checkpoint

    restore_checkpoint(bundle, output)
    say(f"wrote {output}: train it further with dsin train PRESET --start-from {output}")


@command(app)
def trt(
    bundle: Annotated[str, typer.Argument(help="bundle directory, or name of a shipped one")],
    precision: Annotated[Precision, typer.Option(help="what is written into the graphs")],
    frame: Annotated[
        str,
        typer.Option(
            metavar="HxW",
            help="size of the pictures; engines serve all that are padded to the same size",
        ),
    ] = "375x1242",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="folder to be DSIN_ENGINES when engines run "
                     "[$DSIN_ENGINES, or ~/.cache/dsin/engines]"),
    ] = None,
    dla: Annotated[
        bool, typer.Option("--dla", help="use the deep-learning accelerator where layers fit")
    ] = False,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="GPU memory that a layer may use [all of it]")
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="file to keep measurements in, which makes the next build faster"),
    ] = None,
) -> None:  # fmt: skip
    """Build TensorRT engines of all graphs of a bundle, on the machine that will run them."""
    size = parse_size(frame, "--frame")
    try:
        from dsin.export.tensorrt_engine import Options, build_engines
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "dsin":
            raise
        raise DsinError(f"{error.name} is missing: pip install 'dsin[tensorrt]'") from error
    options = Options(precision.value, size, dla, workspace_mib, timing_cache)
    build_engines(bundle, options, output, report=say)


@command(app)
def decoder(
    bundle: Annotated[str, typer.Argument(help="edge bundle: directory, or name of a shipped one")],
    output: Annotated[Path, typer.Option("-o", "--output", help="ONNX file to write")],
) -> None:
    """Write the whole decoder of an edge bundle, search and refinement included, as one graph."""
    from dsin.export.edge.decoder import write_edge_decoder
    from dsin.runtime.codec.bundle import open_bundle

    size = write_edge_decoder(open_bundle(bundle), output)
    say(f"wrote {output}: {size / 1e6:.1f} MB")


@command(app)
def verify(
    bundle: Annotated[str, typer.Argument(help="bundle directory, or name of a shipped one")],
    frames: Annotated[
        Path | None,
        typer.Option(help="folder or list of pictures, in pairs; default: the synthetic rig"),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="where paths in the list start")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="a backend that must be there; may be given again")
    ] = None,
) -> None:
    """Compare all ways to run a bundle on this machine: bytes, symbols, pictures."""
    from dsin.export.calibration_frames import read_frames, synthetic_pictures
    from dsin.export.verify_backends import HEADER, verify_backends
    from dsin.runtime.codec.bundle import open_bundle

    pictures = synthetic_pictures() if frames is None else read_frames(frames, root)
    checks = verify_backends(open_bundle(bundle), pictures, wanted=_backends(backend or []))
    typer.echo(HEADER)
    for check in checks:
        typer.echo(str(check))
    failed = sum(not check for check in checks)
    if failed:
        raise ExportError(f"{failed} of {len(checks)} comparisons failed: see above")


def _backends(names: list[str]) -> list[Backend]:
    """Raises ExportError for a name that is none."""
    for name in names:
        if name not in BACKENDS:
            raise ExportError(f"there is no backend {name!r}: use {', '.join(BACKENDS)}")
    return [backend for backend in BACKENDS if backend in names]


def main() -> None:
    """Run `dsin-export`: a user's error is one line on stderr and exit status 1."""
    run_app(app, "dsin-export")


if __name__ == "__main__":
    main()
