"""The command line, `dsin`.

Exit status: 0 done, 1 an error that the user can put right (one line on stderr), 2 wrong usage.
Only typer is imported here; each command imports what it needs when it runs.
"""

import enum
import importlib
import json
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from dsin.runtime.commands.cli_app import command_app, parse_size
from dsin.runtime.commands.cli_machine import benchmark, doctor, selftest, try_pictures
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
    TraceOption,
    bundle_at,
)
from dsin.runtime.commands.cli_replay import replay
from dsin.runtime.commands.cli_streaming import serve, stream
from dsin.runtime.commands.option_rules import command
from dsin.runtime.errors import DsinError
from dsin.runtime.terminal import run_app, say

app = command_app(
    "dsin", "Compress images for a receiver that sees the same scene with a camera of its own."
)

PairsOption = Annotated[
    Path | None,
    typer.Option(
        "--pairs", metavar="LIST", help="List of pairs: the paths of x and y on alternate lines."
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="SOURCE", help="A recording, as dsin stream takes it."),
]
SideOption = Annotated[
    str | None,
    typer.Option("--side", metavar="SOURCE", help="The side camera's, where it is another one."),
]


@command(app)
def encode(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image to encode, 8-bit colour.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PACKET",
            help="Packet to write [IMAGE with the suffix .dsin].",
        ),
    ] = None,
    bundle: BundleOption = None,
    rate: RateOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
) -> None:
    """Encode one image into a packet."""
    bundle = bundle_at(bundle, precision)
    from dsin.runtime.codec.encoder import Encoder
    from dsin.runtime.files import check_target, write_bytes_atomically
    from dsin.runtime.picture_files import read_image

    target = output or image.with_suffix(".dsin")
    check_target(target)
    frame = read_image(image)
    with Encoder(bundle, backend.value) as encoder:
        packet = encoder.encode(frame, rate)
    write_bytes_atomically(target, bytes(packet))
    bpp = 8 * len(packet) / (packet.header.width * packet.header.height)
    say(f"{target}: {len(packet)} bytes, {bpp:.4f} bpp", wrote=target)


@command(app)
def decode(
    packet: Annotated[
        Path, typer.Argument(metavar="PACKET", help="Packet that dsin encode has written.")
    ],
    side: Annotated[
        Path | None,
        typer.Option("--side", metavar="IMAGE", help="The receiver's own view of the scene."),
    ] = None,
    no_side: Annotated[
        bool, typer.Option("--no-side", help="Decode without the receiver's own view.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PNG", help="Picture to write [PACKET with the suffix .png]."
        ),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    look: LookOption = LookName.faithful,
) -> None:
    """Decode a packet with the help of the receiver's own view."""
    bundle = bundle_at(bundle, precision, look)
    if (side is None) != no_side:
        raise typer.BadParameter("give either --side IMAGE or --no-side, and not both")
    from dsin.runtime.codec.packet import Packet
    from dsin.runtime.files import check_picture_target, exists, write_image
    from dsin.runtime.picture_files import read_image
    from dsin.runtime.sources.compile_ahead import compile_ahead

    target = output or packet.with_suffix(".png")
    if output is None and exists(target):
        # It may well be the original of the packet.
        raise DsinError(f"{target} exists: name the output with -o")
    check_picture_target(target)
    coded = Packet.parse(_read_packet(packet))
    if coded.header.reference is not None:
        raise DsinError(
            f"{packet} says only what has changed since frame {coded.header.reference.frame_number}"
            " of its stream: dsin replay decodes recorded streams, and dsin stream --independent "
            "sends frames that stand alone"
        )
    view = None if side is None else read_image(side)
    ahead = nullcontext() if view is None else compile_ahead()
    with ahead as compile_rest:
        from dsin.runtime.codec.decoder import Decoder  # takes a second, in which others compile

        with Decoder(bundle, backend.value) as decoder:
            if compile_rest is not None:
                # Of the entropy coder's kernels it needs those that decode, and no encoder.
                compile_rest(lambda: decoder.decode(coded, None))
            decoded = decoder.decode(coded, view)
    write_image(target, decoded.image)
    size = f"{coded.header.width}x{coded.header.height}"
    if view is not None:
        another = "without the side image, which shows another scene"
        size += ", with the side image" if decoded.used_side else f", {another}"
    say(f"{target}: {size}")


@command(app)
def info(
    what: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|PACKET",
            help="Bundle directory, name of a shipped bundle, or packet file.",
        ),
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print everything that is known about a bundle.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what a bundle or a packet contains."""
    from dsin.runtime.codec.bundle import open_bundle
    from dsin.runtime.codec.facts import as_lines, bundle_facts, packet_facts
    from dsin.runtime.codec.packet import Packet
    from dsin.runtime.files import exists, is_folder

    path = Path(what)
    is_packet = exists(path) and not is_folder(path)  # a pipe is one too
    if is_packet or (path.suffix == ".dsin" and not exists(path)):
        facts = {"packet": what, **packet_facts(Packet.parse(_read_packet(path)))}
    else:
        bundle = open_bundle(what)
        if not (verbose or as_json):
            typer.echo(bundle)
            return
        facts = bundle_facts(bundle)
    typer.echo(json.dumps(facts, indent=1) if as_json else as_lines(facts))


@command(app)
def demo(
    kitti: Annotated[
        Path | None,
        typer.Option(
            "--kitti", metavar="DRIVE", help="KITTI raw drive to use [the built-in synthetic rig]."
        ),
    ] = None,
    source: SourceOption = None,
    side: SideOption = None,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", min=1, help="Stop after N frames.")
    ] = None,
    bundle: BundleOption = None,
    rate: RateOption = None,
    kbps: Annotated[
        float | None,
        typer.Option(
            "--kbps",
            metavar="K",
            help="Choose the rate of each frame so that the stream takes K kbit/s.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="F",
            help="Capture F frames per second and drop what is late [send every frame].",
        ),
    ] = None,
    web: Annotated[
        int | None,
        typer.Option(
            "--web",
            metavar="PORT",
            help="Serve a live page on PORT, and repeat the frames until Ctrl-C.",
        ),
    ] = None,
    foxglove: Annotated[
        int | None,
        typer.Option(
            "--foxglove",
            metavar="PORT",
            help="Serve a live view for Foxglove on PORT, and repeat the frames until Ctrl-C.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "--output", "-o", metavar="DIR", help="Folder to write the pictures to."
        ),
    ] = Path("dsin-demo"),
    json_path: JsonOption = None,
    trace: TraceOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    look: LookOption = LookName.faithful,
) -> None:
    """Stream stereo frames between two processes and compare the results."""
    bundle = bundle_at(bundle, precision, look)
    from dsin.runtime.commands.demo import run_demo

    run_demo(
        kitti or source,
        frames,
        bundle,
        rate,
        out,
        json_path,
        backend.value,
        kbps=kbps,
        fps=fps,
        web=web,
        side=side,
        foxglove=foxglove,
        trace=trace,
    )


@command(app)
def profile(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE", help="Bundle directory, or the name of a shipped bundle."),
    ] = None,
    kitti: Annotated[
        Path | None,
        typer.Option(
            "--kitti", metavar="DRIVE", help="KITTI raw drive to use [the built-in synthetic rig]."
        ),
    ] = None,
    source: SourceOption = None,
    side: SideOption = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            "--frames",
            metavar="N",
            min=1,
            help="Number of frames to measure [as many as a valid profile needs].",
        ),
    ] = None,
    warmup: Annotated[
        int,
        typer.Option(
            "--warmup", metavar="N", min=0, help="Number of frames to run before the measured ones."
        ),
    ] = 10,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="F",
            help="Feed F frames per second [each one as soon as the last is done].",
        ),
    ] = None,
    rate: RateOption = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="Number of CPU threads [one per core]."),
    ] = None,
    json_path: JsonOption = None,
    html_path: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a report to FILE as an HTML page."),
    ] = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
) -> None:
    """Measure the latency of each stage on this machine.

    The profile says whether its figures are valid.
    """
    bundle = bundle_at(bundle, precision)
    from dsin.runtime.profiling.profiler import Options, run_profile

    options = Options(
        bundle, kitti or source, samples, warmup, fps, rate, threads, backend.value, side
    )
    run_profile(options, json_path, html_path)


@command(app)
def evaluate(
    pairs: PairsOption = None,
    root: RootOption = None,
    kitti: Annotated[
        Path | None,
        typer.Option(
            "--kitti", metavar="DRIVE", help="KITTI raw drive, whose frames are taken in order."
        ),
    ] = None,
    source: SourceOption = None,
    side: SideOption = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", min=1, help="Of a recording, the first N frames."),
    ] = None,
    bundle: BundleOption = None,
    json_path: JsonOption = None,
    rate: RateOption = None,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop",
            metavar="HxW",
            help="Crop each picture about its centre, for example to 320x1224.",
        ),
    ] = None,
    save_images: Annotated[
        Path | None,
        typer.Option("--save-images", metavar="DIR", help="Write the decoded pictures to DIR."),
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="CODECS",
            help="Codecs to compare with, separated by commas: hevc, avif, jpeg2000, webp, jpeg; "
            "of frames in order also hevc-lowdelay, av1-lowdelay, h264-lowdelay.",
        ),
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="PNG", help="With --against, draw the rate-distortion curves."
        ),
    ] = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    look: LookOption = LookName.faithful,
) -> None:
    """Measure bits, PSNR and MS-SSIM on a list of pairs, or on the frames of a recording."""
    bundle = bundle_at(bundle, precision, look)
    size = None if crop is None else parse_size(crop, "--crop")
    recording = source if kitti is None else str(kitti)
    if recording is None and (pairs is None or root is None):
        raise typer.BadParameter(
            "give --pairs LIST and --root DIR, or --kitti DRIVE, or --source SOURCE"
        )
    from dsin.runtime.evaluation.evaluate import evaluate_list

    with ExitStack() as stack:
        if recording is not None:
            from dsin.runtime.sources.pair_list import pair_list_of

            pairs, root = stack.enter_context(pair_list_of(recording, side, frames))
        assert pairs is not None
        assert root is not None
        evaluate_list(
            pairs, root, bundle=bundle, rate=rate, crop=size, json_path=json_path,
            save_images=save_images, backend=backend.value, in_order=recording is not None,
            against=[name.strip() for name in against.split(",") if name.strip()], plot=plot,
        )  # fmt: skip


@command(app)
def train(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET", help="Name of a shipped preset, or the path of a .toml file."
        ),
    ],
    pairs: Annotated[
        Path | None, typer.Option("--pairs", metavar="LIST", help="List of pairs to train on.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option("--val", metavar="LIST", help="List of pairs to validate on.")
    ] = None,
    root: RootOption = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="DIR",
            help="Folder of pictures without a side image, for edge presets.",
        ),
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(
            "--pack",
            metavar="DIR",
            help="Pack of pictures to use instead of lists, for edge presets.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            metavar="DIR",
            help="Folder to write the run to [runs/PRESET].",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--start-from", metavar="CKPT", help="Checkpoint whose weights to start from."
        ),
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s", min=1, metavar="S", help="Stop after S seconds and save everything."
        ),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the steps, speed and losses of the run to FILE."
        ),
    ] = None,
    graphs: Annotated[
        bool,
        typer.Option(
            "--graphs/--no-graphs", help="On a GPU, capture training steps as CUDA graphs."
        ),
    ] = True,
    devices: Annotated[
        int, typer.Option(min=1, help="Number of processes or GPUs to use on each machine.")
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Number of machines to train on.")] = 1,
) -> None:
    """Train a model through all phases of its preset."""
    module = _load("dsin.training.train_command", "train", "train")
    options = _load("dsin.training.edge.train", "train", "train").EdgeOptions(
        start_from, resume, devices, nodes, budget_s, json_path, graphs, say=say
    )
    pictures = module.PictureOptions(pairs, validation, root, photos, pack)
    best = module.train_preset(preset, pictures, out, options)
    say(f"{best}: export it with dsin-export onnx {best} -o BUNDLE")


@command(app)
def pairs(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A stereo recording, as dsin demo takes it.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write, new or empty."),
    ],
    side: SideOption = None,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", min=2, help="Stop after N frames.")
    ] = None,
    every: Annotated[
        int, typer.Option("--every", metavar="N", min=1, help="Write each Nth frame only.")
    ] = 1,
    validation: Annotated[
        float,
        typer.Option(
            "--val-share", metavar="S", min=0.0, max=0.9,
            help="Share of the frames, the last ones, to validate on.",
        ),
    ] = 0.1,
) -> None:  # fmt: skip
    """Write a recording as pictures and pair lists.

    They are what dsin train, evaluate and calibrate take.
    """
    from dsin.runtime.progress import ProgressLine
    from dsin.runtime.sources.pair_list import write_pairs

    with ProgressLine() as progress:
        done = write_pairs(
            source, output, side=side, frames=frames, every=every, validation=validation,
            tell=progress.show,
        )  # fmt: skip
    say(f"{output}: train.txt with {done.train} pairs, val.txt with {done.validation}")


class TargetName(str, enum.Enum):
    """The runtime whose 8-bit kernels the graphs are made for."""

    cpu = "cpu"
    tensorrt = "tensorrt"


@command(app)
def calibrate(
    bundle: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="Directory or name of a bundle with float weights."),
    ],
    frames: Annotated[
        Path,
        typer.Option(
            "--frames",
            metavar="DIR|LIST|BAG",
            help="Folder or list of pictures to calibrate on, in pairs, or topics of a ROS bag, "
            "as dsin stream takes them.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Bundle directory to write.")
    ],
    target: Annotated[
        TargetName, typer.Option("--target", help="The runtime that will run the 8-bit graphs.")
    ] = TargetName.cpu,
    validation: Annotated[
        Path | None,
        typer.Option(
            "--val", metavar="LIST", help="List of pairs to measure the loss on, as BD-rate."
        ),
    ] = None,
    root: RootOption = None,
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="HxW", help="Crop the pairs of --val about their centre."),
    ] = None,
) -> None:
    """Quantise the networks of an edge bundle to 8 bits.

    Reports how much faster they become and what that costs.
    """
    from dsin.runtime.files import is_folder

    size = None if crop is None else parse_size(crop, "--crop")
    module = _load("dsin.export.int8_bundle", "export,evaluate", "calibrate")
    source = _load("dsin.export.calibration_frames", "export", "calibrate")
    from dsin.runtime.evaluation.pairs import read_pair_list

    start = None if validation is not None and is_folder(frames) else root
    done = module.calibrate_bundle(
        bundle, source.read_frames(frames, start), output, target=target.value, crop=size,
        validation=read_pair_list(validation, root or Path()) if validation else (),
    )  # fmt: skip
    for name, ratio in done.report["speed_ratio"].items():
        error = done.report["graphs"][name]["relative_error"]
        typer.echo(f"{name:10} {ratio:.2f} times as fast, error {100 * error:.2g} % of variance")
    rates = done.report["bd_rate_percent"]
    shown = [
        f"{rates[key]:+.2f} % in {name}"
        for key, name in (("psnr", "PSNR"), ("ms_ssim", "MS-SSIM"))
        if rates and rates[key] is not None
    ]
    if shown:
        typer.echo(f"BD-rate    {', '.join(shown)} against the float bundle")
    megabytes = done.bytes_before / 1e6, done.bytes_after / 1e6
    say(f"wrote {output}: {megabytes[1]:.1f} MB instead of {megabytes[0]:.1f}")


@command(app)
def import_tf(
    source: Annotated[
        Path,
        typer.Argument(metavar="CKPT", help="Path of the TensorFlow checkpoint, without a suffix."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="CHECKPOINT", help="Checkpoint to write.")
    ],
) -> None:
    """Convert a TensorFlow checkpoint of the original code."""
    _load("dsin.training.paper.tf_checkpoint", "tf-import", "import-tf").import_tf(source, output)
    say(f"{output}: export it with dsin-export onnx {output} -o BUNDLE")


command(app)(serve)
command(app)(stream)
command(app)(replay)
command(app, "try")(try_pictures)
command(app)(benchmark)
command(app)(selftest)
command(app)(doctor)


def main() -> None:
    """Run `dsin`."""
    run_app(app, "dsin")


def _load(module: str, extra: str, command: str) -> ModuleType:
    """Import a module of another room, whose packages come with an extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "dsin":
            raise
        raise DsinError(
            f"dsin {command} needs {error.name}, which is missing: pip install 'dsin[{extra}]'"
        ) from error


def _read_packet(path: Path) -> bytes:
    """A packet's bytes, and no more than a packet can have. Raises DsinError."""
    from dsin.runtime.codec.packet import MAX_PACKET_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MAX_PACKET_BYTES + 1)
    except OSError as error:
        raise DsinError(f"cannot read {path}: {error.strerror}") from error


if __name__ == "__main__":
    main()
