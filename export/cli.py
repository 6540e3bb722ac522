"""`dsin-export`: checkpoints to bundles and back, bundles to engines."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from dsin.runtime.commands.cli_app import command_app, parse_size
from dsin.runtime.commands.cli_options import BackendName, RootOption
from dsin.runtime.commands.option_rules import command
from dsin.runtime.errors import DsinError, ExportError
from dsin.runtime.terminal import run_app, say

app = command_app(
    "dsin-export", "Export trained checkpoints to the bundles that devices and servers run."
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


class OtherLook(str, enum.Enum):
    """Looks beside the faithful one."""

    structure = "structure"
    sharp = "sharp"


BundleArgument = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", help="Bundle directory, or the name of a shipped bundle."),
]


@command(app)
def onnx(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Checkpoint of dsin train or dsin import-tf."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="BUNDLE", help="Bundle directory to write."),
    ],
    weights: Annotated[
        Storage,
        typer.Option("--weights", help="Number format in which the weights are stored."),
    ] = Storage.float32,
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="DIR|LIST",
            help="Folder or list of pictures, in pairs, to calibrate and verify on; a list has "
            "one path on each line [the built-in synthetic rig].",
        ),
    ] = None,
    root: RootOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of the model [the preset's]."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", metavar="TEXT", help="Licence of the weights [the checkpoint's]."
        ),
    ] = None,
) -> None:
    """Write a bundle from a checkpoint.

    Its ONNX graphs are checked against PyTorch.
    """
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
    say(f"wrote {output}: {_size_mb(output):.1f} MB")


@command(app)
def checkpoint(
    bundle: BundleArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="CHECKPOINT", help="Checkpoint to write."),
    ],
) -> None:
    """Restore the checkpoint of a bundle.

    Train it further with dsin train PRESET --start-from CHECKPOINT.
    """
    from dsin.export.restore import restore_checkpoint

    restore_checkpoint(bundle, output)
    say(f"wrote {output}: train it further with dsin train PRESET --start-from {output}")


@command(app)
def refit(
    bundle: BundleArgument,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Checkpoint of a fusion that was trained for its codec."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Bundle directory to write.")
    ],
) -> None:
    """Give a bundle another fusion; its packets, and the devices that send them, stay the same."""
    from dsin.export.edge.refit import refit_bundle

    refit_bundle(bundle, checkpoint, output)
    say(f"wrote {output}: {_size_mb(output):.1f} MB, for the same packets as {bundle}")


@command(app)
def combine(
    bundle: BundleArgument,
    calibrated: Annotated[
        str,
        typer.Argument(metavar="CALIBRATED", help="Bundle that dsin calibrate made from it."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Bundle directory to write.")
    ],
) -> None:
    """Put a calibrated bundle's 8-bit networks beside the float ones, for one bundle with both."""
    from dsin.export.edge.combine import combine_bundles

    combine_bundles(bundle, calibrated, output)
    say(f"wrote {output}: {_size_mb(output):.1f} MB, float and 8 bits")


@command(app)
def look(
    bundle: BundleArgument,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Checkpoint of a fusion that was trained for its codec."
        ),
    ],
    name: Annotated[OtherLook, typer.Option("--look", help="What the fusion was trained for.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Bundle directory to write.")
    ],
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="DIR|LIST",
            help="Folder or list of pictures, in pairs, to calibrate on where the bundle has 8-bit "
            "networks too.",
        ),
    ] = None,
    root: RootOption = None,
) -> None:
    """Put a further fusion beside a bundle's own, which servers choose by dsin serve --look."""
    from dsin.export.calibration_frames import read_frames
    from dsin.export.edge.look import add_look

    pictures = [] if frames is None else read_frames(frames, root)
    add_look(bundle, name.value, checkpoint, pictures, output)
    say(f"wrote {output}: {_size_mb(output):.1f} MB, with the look {name.value}")


@command(app, "int8")
def int8_networks(
    bundle: BundleArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Bundle directory to write.")
    ],
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="DIR|LIST",
            help="Folder or list of pictures, in pairs, to calibrate on. Without, the networks "
            "stay as they are and are only stored in less space.",
        ),
    ] = None,
    root: RootOption = None,
) -> None:
    """Make the 8-bit networks anew that a bundle has beside its float ones, its looks' too."""
    from dsin.export.calibration_frames import read_frames
    from dsin.export.edge.recalibrate import recalibrate_bundle, repack_bundle

    if frames is None:
        repack_bundle(bundle, output)
    else:
        recalibrate_bundle(bundle, read_frames(frames, root), output)
    say(f"wrote {output}: {_size_mb(output):.1f} MB")


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


@command(app)
def trt(
    bundle: BundleArgument,
    precision: Annotated[
        Precision,
        typer.Option("--precision", help="Arithmetic that the networks compute in."),
    ],
    frame: Annotated[
        str,
        typer.Option(
            "--frame",
            metavar="HxW",
            help="Size of the pictures. Engines serve all sizes that are padded to the same one.",
        ),
    ] = "375x1242",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the engines; set DSIN_ENGINES to it when they are to run "
            "[$DSIN_ENGINES, or ~/.cache/dsin/engines].",
        ),
    ] = None,
    dla: Annotated[
        bool,
        typer.Option(
            "--dla", help="Use the deep-learning accelerator for layers that it supports."
        ),
    ] = False,
    workspace_mib: Annotated[
        int | None,
        typer.Option(
            "--workspace-mib",
            metavar="M",
            min=1,
            help="GPU memory that a layer may use, in MiB [all of it].",
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache",
            metavar="FILE",
            help="File to keep measurements in, which makes the next build faster.",
        ),
    ] = None,
) -> None:
    """Build TensorRT engines for all graphs of a bundle.

    Engines run only on the kind of machine that they were built on.
    """
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
    bundle: BundleArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="ONNX", help="ONNX file to write.")
    ],
) -> None:
    """Write the decoder of an edge bundle as one ONNX graph.

    Search and refinement are included.
    """
    from dsin.export.edge.decoder import write_edge_decoder
    from dsin.runtime.codec.bundle import open_bundle

    size = write_edge_decoder(open_bundle(bundle), output)
    say(f"wrote {output}: {size / 1e6:.1f} MB")


@command(app)
def verify(
    bundle: BundleArgument,
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="DIR|LIST",
            help="Folder or list of pictures, in pairs [the built-in synthetic rig].",
        ),
    ] = None,
    root: RootOption = None,
    backend: Annotated[
        list[BackendName] | None,
        typer.Option(
            "--backend",
            help="Backend that must be present here. May be given more than once.",
        ),
    ] = None,
) -> None:
    """Compare all ways to run a bundle on this machine.

    Their bytes, symbols and pictures must agree.
    """
    from dsin.export.calibration_frames import read_frames, synthetic_pictures
    from dsin.export.verify_backends import HEADER, verify_backends
    from dsin.runtime.codec.bundle import open_bundle

    pictures = synthetic_pictures() if frames is None else read_frames(frames, root)
    checks = verify_backends(
        open_bundle(bundle), pictures, wanted=[name.value for name in backend or []]
    )
    typer.echo(HEADER)
    for check in checks:
        typer.echo(str(check))
    failed = sum(not check for check in checks)
    if failed:
        raise ExportError(f"{failed} of {len(checks)} comparisons failed: see above")


def main() -> None:
    """Run `dsin-export`."""
    run_app(app, "dsin-export")


if __name__ == "__main__":
    main()
