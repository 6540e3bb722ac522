"""`dsin serve` and `dsin stream`."""

import enum
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsin.runtime.commands.cli_options import BackendName, BackendOption, BundleOption
from dsin.runtime.terminal import say

if TYPE_CHECKING:
    from dsin.runtime.link.rpc import Certificates

CaOption = Annotated[
    Path | None,
    typer.Option("--ca", metavar="PEM", help="Certificate of the authority that both trust."),
]
CertOption = Annotated[
    Path | None,
    typer.Option("--cert", metavar="PEM", help="Own certificate, issued by that authority."),
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="PEM", help="Private key of that certificate.")
]
PlaintextOption = Annotated[
    bool,
    typer.Option(
        "--plaintext", help="Without certificates or encryption; within this machine only."
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log what goes well, too.")]


class CameraName(str, enum.Enum):
    """Which camera of the rig."""

    x = "x"
    y = "y"


def serve(
    address: Annotated[
        str,
        typer.Argument(metavar="HOST:PORT", help="Where to listen; 0.0.0.0:PORT is everywhere."),
    ] = "127.0.0.1:7000",
    side: Annotated[
        list[str] | None,
        typer.Option(
            "--side",
            metavar="[RIG=]SOURCE",
            help="Side camera of this server's own, named as in dsin stream --source, for RIG or "
            "for all. Else it is the rig's camera y that streams. May be given again.",
        ),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Decoders that work at once.")
    ] = 1,
    budget_mib: Annotated[
        float | None,
        typer.Option(
            "--budget-mib", metavar="M", min=1, help="Memory for all rigs [half the machine's]."
        ),
    ] = None,
    tolerance_ms: Annotated[
        float,
        typer.Option(
            "--tolerance-ms",
            metavar="T",
            min=0,
            help="Side images so near, and nearer than half their interval, count as simultaneous.",
        ),
    ] = 50.0,
    side_wait_ms: Annotated[
        float,
        typer.Option(
            "--side-wait-ms", metavar="T", min=0, help="Longest wait for a late side image."
        ),
    ] = 50.0,
    side_max_age_ms: Annotated[
        float,
        typer.Option(
            "--side-max-age-ms", metavar="T", min=0, help="Then take an older one, at most so old."
        ),
    ] = 300.0,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="DIR", help="Write each decoded picture.")
    ] = None,
    jpeg: Annotated[
        bool, typer.Option("--jpeg", help="With --pictures: as JPEG, not PNG.")
    ] = False,
    panels: Annotated[
        bool, typer.Option("--panels", help="With --pictures: x_dec, y, y_syn too.")
    ] = False,
    video: Annotated[
        Path | None,
        typer.Option("--video", metavar="FILE", help="Write a video: .mp4, .avi, .mkv."),
    ] = None,
    mcap: Annotated[
        Path | None, typer.Option("--mcap", metavar="FILE", help="Record, for dsin replay.")
    ] = None,
    rerun: Annotated[
        Path | None, typer.Option("--rerun", metavar="FILE", help="Record for Rerun, .rrd.")
    ] = None,
    web: Annotated[
        int | None,
        typer.Option("--web", metavar="PORT", help="Live page, metrics, health; 0: any port."),
    ] = None,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Metrics and health only.")
    ] = None,
    web_host: Annotated[
        str, typer.Option("--web-host", metavar="HOST", help="Where these two listen.")
    ] = "127.0.0.1",
    ray: Annotated[
        bool, typer.Option("--ray", help="Decode on Ray Serve, with several decoders.")
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="HOST:PORT", help="Ray that runs there [start one]."),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", min=1, help="With --ray: so many decoders.")
    ] = 2,
    replica_cpus: Annotated[
        float, typer.Option("--replica-cpus", metavar="C", min=0, help="With --ray: of each.")
    ] = 1.0,
    replica_gpus: Annotated[
        float, typer.Option("--replica-gpus", metavar="G", min=0, help="With --ray: of each.")
    ] = 0.0,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    plaintext: PlaintextOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Decode what rigs stream, with the help of their side cameras.

    Ends at Ctrl-C or SIGTERM. The README tells how to make certificates.
    """
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
        web_host=web_host,
        fleet=FleetOptions(
            ray_address, replicas, replica_cpus, replica_gpus,
            bundle=bundle, backend=backend.value,
        )
        if ray
        else None,
    )  # fmt: skip
    run(options, say)


def stream(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server.")],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="KITTI folder, folder of pictures, video, camera:N, gst:PIPELINE, synthetic.",
        ),
    ] = "synthetic",
    rig: Annotated[
        str, typer.Option("--rig", metavar="NAME", help="The name in the certificate.")
    ] = "rig",
    camera: Annotated[
        CameraName,
        typer.Option("--camera", help="x is encoded, y helps: it is sent as pictures."),
    ] = CameraName.x,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    rate: Annotated[
        int | None,
        typer.Option("--rate", metavar="R", min=0, help="Rate point [bundle's default]."),
    ] = None,
    kbps: Annotated[
        float | None,
        typer.Option("--kbps", metavar="K", help="Choose rates for K kbit/s, frame by frame."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", metavar="F", help="Frames per second [as the source has]."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", min=1, help="Stop after N frames.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play a recording again and again.")] = False,
    every: Annotated[
        bool,
        typer.Option("--every", help="Drop no frame of a recording, however long it takes."),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="HH:MM:SS",
            help="When a recording begins; the same for cameras x and y of a rig [now].",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality", metavar="Q", min=1, max=100, help="JPEG quality of camera y [no loss]."
        ),
    ] = None,
    give_up_s: Annotated[
        float | None,
        typer.Option(
            "--give-up-s", metavar="S", min=0, help="End after S without a server [never]."
        ),
    ] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    plaintext: PlaintextOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Send a camera's frames to dsin serve; what is late is dropped.

    Ends with its source, at Ctrl-C or SIGTERM. The README tells how to make certificates.
    """
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
        kbps=kbps,
        fps=fps,
        frames=frames,
        loop=loop,
        every=every,
        start=start,
        quality=quality,
        certificates=_certificates(ca, cert, key, plaintext),
        give_up_s=give_up_s,
    )
    run(options, say)


def _certificates(
    ca: Path | None, cert: Path | None, key: Path | None, plaintext: bool
) -> "Certificates | None":
    from dsin.runtime.errors import DsinError
    from dsin.runtime.link.rpc import Certificates

    if plaintext:
        return None
    if ca is None or cert is None or key is None:
        raise DsinError(
            "give --ca, --cert and --key (the README tells how to make them), or --plaintext on "
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
