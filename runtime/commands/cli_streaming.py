"""`dsin serve` and `dsin stream`."""

import enum
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from dsin.runtime.commands.cli_options import (
    BackendName,
    BackendOption,
    BundleOption,
    LookName,
    LookOption,
    PrecisionName,
    PrecisionOption,
    RateOption,
    TraceOption,
    bundle_at,
)
from dsin.runtime.terminal import say

if TYPE_CHECKING:
    from dsin.runtime.link.rpc import Certificates

CaOption = Annotated[
    Path | None,
    typer.Option("--ca", metavar="PEM", help="Certificate of the authority that both sides trust."),
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--cert", metavar="PEM", help="Certificate of this side, issued by that authority."
    ),
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="PEM", help="Private key of that certificate.")
]
PlaintextOption = Annotated[
    bool,
    typer.Option(
        "--plaintext",
        help="Use neither certificates nor encryption; possible within this machine only.",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log normal events too, not only problems.")
]


class CameraName(str, enum.Enum):
    """Which camera of the rig."""

    x = "x"
    y = "y"


class TransportName(str, enum.Enum):
    """How frames go to the server."""

    auto = "auto"
    grpc = "grpc"
    datagram = "datagram"


def serve(
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT", help="Address to listen at; 0.0.0.0:PORT means every interface."
        ),
    ] = "127.0.0.1:7000",
    side: Annotated[
        list[str] | None,
        typer.Option(
            "--side",
            metavar="[RIG=]SOURCE",
            help="A side camera at this server, named as in dsin stream --source, for RIG or for "
            "every rig. A rig without one streams its own camera y. May be given more than once.",
        ),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    look: LookOption = LookName.faithful,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=1, help="Number of decoders that work in parallel."
        ),
    ] = 1,
    budget_mib: Annotated[
        float | None,
        typer.Option(
            "--budget-mib",
            metavar="M",
            min=1,
            help="Memory that all rigs may use, in MiB [half of the machine's].",
        ),
    ] = None,
    tolerance_ms: Annotated[
        float,
        typer.Option(
            "--tolerance-ms",
            metavar="T",
            min=0,
            help="Pair a frame with a side image taken within T ms of it (and within half a frame "
            "interval).",
        ),
    ] = 50.0,
    side_wait_ms: Annotated[
        float,
        typer.Option(
            "--side-wait-ms", metavar="T", min=0, help="Wait for a late side image for up to T ms."
        ),
    ] = 50.0,
    side_max_age_ms: Annotated[
        float,
        typer.Option(
            "--side-max-age-ms",
            metavar="T",
            min=0,
            help="If the side image of a frame is not there in time, use an older one, up to T ms "
            "old.",
        ),
    ] = 300.0,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="Write each decoded picture to DIR."),
    ] = None,
    jpeg: Annotated[
        bool, typer.Option("--jpeg", help="With --pictures, write JPEG files instead of PNG files.")
    ] = False,
    panels: Annotated[
        bool, typer.Option("--panels", help="With --pictures, also write x_dec, y and y_syn.")
    ] = False,
    video: Annotated[
        Path | None,
        typer.Option("--video", metavar="FILE", help="Write a video to FILE (.mp4, .avi or .mkv)."),
    ] = None,
    mcap: Annotated[
        Path | None,
        typer.Option("--mcap", metavar="FILE", help="Record the stream to FILE for dsin replay."),
    ] = None,
    rerun: Annotated[
        Path | None,
        typer.Option("--rerun", metavar="FILE", help="Record the stream to FILE for Rerun (.rrd)."),
    ] = None,
    web: Annotated[
        int | None,
        typer.Option(
            "--web",
            metavar="PORT",
            help="Serve a live page, metrics and health on PORT; 0 picks a free one.",
        ),
    ] = None,
    metrics: Annotated[
        int | None,
        typer.Option(
            "--metrics", metavar="PORT", help="Serve metrics and health on PORT, without a page."
        ),
    ] = None,
    foxglove: Annotated[
        int | None,
        typer.Option(
            "--foxglove",
            metavar="PORT",
            help="Serve a live view for Foxglove on PORT; 0 picks a free one.",
        ),
    ] = None,
    web_host: Annotated[
        str,
        typer.Option(
            "--web-host",
            metavar="HOST",
            help="Address at which --web, --metrics and --foxglove listen.",
        ),
    ] = "127.0.0.1",
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Decode on Ray Serve, with several replicas of the decoder."),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="With --ray, join the cluster at this address [start one].",
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option("--replicas", metavar="N", min=1, help="With --ray, the number of replicas."),
    ] = 2,
    replica_cpus: Annotated[
        float,
        typer.Option(
            "--replica-cpus",
            metavar="C",
            min=0,
            help="With --ray, the number of CPUs of each replica.",
        ),
    ] = 1.0,
    replica_gpus: Annotated[
        float,
        typer.Option(
            "--replica-gpus",
            metavar="G",
            min=0,
            help="With --ray, the number of GPUs of each replica.",
        ),
    ] = 0.0,
    no_datagrams: Annotated[
        bool,
        typer.Option(
            "--no-datagrams", help="Take frames by gRPC only, and listen at no port of UDP."
        ),
    ] = False,
    trace: TraceOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    plaintext: PlaintextOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Decode what rigs stream, with the help of their side cameras.

    Runs until Ctrl-C or SIGTERM. The README explains how to make certificates.
    """
    bundle = bundle_at(bundle, precision, look)
    _set_up_logs(verbose)
    from dsin.runtime.commands.serve import ServeOptions
    from dsin.runtime.commands.serve import serve as run
    from dsin.runtime.fleet.decoders import FleetOptions
    from dsin.runtime.outputs.outputs import Outputs
    from dsin.runtime.server.side_buffer import PairingPolicy

    options = ServeOptions(
        address=address,
        bundle=bundle,
        backend=backend.value,
        workers=workers,
        budget_mib=budget_mib,
        sides=side or (),
        policy=PairingPolicy(tolerance_ms, side_wait_ms, side_max_age_ms),
        certificates=_certificates(ca, cert, key, plaintext),
        outputs=Outputs(pictures, jpeg, panels, video, mcap=mcap, rerun=rerun),
        web=web,
        metrics=metrics,
        foxglove=foxglove,
        web_host=web_host,
        datagrams=not no_datagrams,
        trace=trace,
        fleet=FleetOptions(
            ray_address, replicas, replica_cpus, replica_gpus,
            bundle=bundle, backend=backend.value,
        )
        if ray
        else None,
    )  # fmt: skip
    run(options, say)


def stream(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Address of the server.")],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="What to send: a KITTI folder, a folder of pictures, a video file, a topic of a "
            "ROS bag (bag:PATH,x=/topic), camera:N, gst:PIPELINE, a network stream or synthetic.",
        ),
    ] = "synthetic",
    rig: Annotated[
        str, typer.Option("--rig", metavar="NAME", help="Name of the rig, as in its certificate.")
    ] = "rig",
    camera: Annotated[
        CameraName,
        typer.Option(
            "--camera",
            help="Camera of the rig: x is encoded, y helps to decode and is sent as pictures.",
        ),
    ] = CameraName.x,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    rate: RateOption = None,
    kbps: Annotated[
        str | None,
        typer.Option(
            "--kbps",
            metavar="K|auto",
            help="Choose the rate of each frame so that the stream takes K kbit/s and no more; "
            "auto follows what the link takes. Where even the lowest rate is too much, frames are "
            "left out.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", metavar="F", help="Frames per second [the rate of the source]."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            metavar="N",
            min=1,
            help="Stop after the first N frames of a recording, dropped ones included, or when N "
            "frames of a live camera were sent.",
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Repeat a recording endlessly.")] = False,
    every: Annotated[
        bool,
        typer.Option("--every", help="Send every frame of a recording, however long that takes."),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="HH:MM:SS",
            help="Time at which a recording begins; give both cameras of a rig the same [now].",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            metavar="Q",
            min=1,
            max=100,
            help="Send the pictures of camera y as JPEG of this quality [lossless].",
        ),
    ] = None,
    give_up_s: Annotated[
        float | None,
        typer.Option(
            "--give-up-s", metavar="S", min=0, help="End after S seconds without a server [never]."
        ),
    ] = None,
    transport: Annotated[
        TransportName,
        typer.Option(
            "--transport",
            help="How frames of camera x go: in datagrams, which lose a frame rather than wait for "
            "it, by gRPC, or auto: in datagrams where these get through.",
        ),
    ] = TransportName.auto,
    independent: Annotated[
        bool,
        typer.Option(
            "--independent",
            help="Have every frame stand alone, even where little has changed since one that the "
            "server has decoded.",
        ),
    ] = False,
    trace: TraceOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    plaintext: PlaintextOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Send the frames of a camera to dsin serve.

    Frames that would be late are dropped. Runs until the source ends, or until
    Ctrl-C or SIGTERM. The README explains how to make certificates.
    """
    bundle = bundle_at(bundle, precision)
    _set_up_logs(verbose)
    from dsin.runtime.commands.stream import StreamOptions
    from dsin.runtime.commands.stream import stream as run

    options = StreamOptions(
        address=address,
        source=source,
        rig=rig,
        camera=camera.value,
        bundle=bundle,
        backend=backend.value,
        rate=rate,
        kbps=_kbps(kbps),
        fps=fps,
        frames=frames,
        loop=loop,
        every=every,
        start=start,
        quality=quality,
        certificates=_certificates(ca, cert, key, plaintext),
        give_up_s=give_up_s,
        trace=trace,
        transport=transport.value,
        independent=independent,
    )
    run(options, say)


def _kbps(text: str | None) -> "float | Literal['auto'] | None":
    if text is None or text == "auto":
        return cast("Literal['auto'] | None", text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"--kbps {text}: give a finite number of kbit/s, or auto")
    return number


def _certificates(
    ca: Path | None, cert: Path | None, key: Path | None, plaintext: bool
) -> "Certificates | None":
    from dsin.runtime.errors import DsinError
    from dsin.runtime.link.rpc import Certificates

    if plaintext:
        return None
    if ca is None or cert is None or key is None:
        raise DsinError(
            "give --ca, --cert and --key (the README explains how to make them), or --plaintext on "
            "loopback"
        )
    return Certificates(ca, cert, key)


def _set_up_logs(verbose: bool) -> None:
    """Structured for journals: one line a record, time, level, place, message.

    gRPC's own lines, raw and one for each failed handshake, come with `verbose` only.
    """
    if not verbose:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s level=%(levelname)s logger=%(name)s msg=%(message)r",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
