"""`dsin serve` and `dsin stream`."""

import enum
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsin.runtime.cli_options import BackendName, BackendOption, BundleOption

if TYPE_CHECKING:
    from dsin.runtime.rpc import Certificates

CaOption = Annotated[
    Path | None, typer.Option("--ca", metavar="PEM", help="Certificate of the authority.")
]
CertOption = Annotated[
    Path | None, typer.Option("--cert", metavar="PEM", help="Own certificate, signed by it.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", metavar="PEM", help="Its private key.")]
PlaintextOption = Annotated[
    bool,
    typer.Option("--plaintext", help="No certificates, no encryption: on loopback only."),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log connections too, not only troubles.")
]


class CameraName(str, enum.Enum):
    """Which camera of the rig."""

    x = "x"
    y = "y"


def serve(
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1:7000",
    side: Annotated[
        list[str] | None,
        typer.Option(
            "--side",
            metavar="[RIG=]SOURCE",
            help="Side camera that this server has itself, as dsin stream's --source; without, the "
            "rig's camera y sends its pictures. May be given for several rigs.",
        ),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Frames decoded at once.")
    ] = 1,
    budget_mib: Annotated[
        float | None,
        typer.Option(
            "--budget-mib", metavar="M", min=1, help="Memory of all rigs [half the machine's]."
        ),
    ] = None,
    tolerance_ms: Annotated[
        float, typer.Option("--tolerance-ms", min=0, help="Side images so near are of one moment.")
    ] = 50.0,
    side_wait_ms: Annotated[
        float, typer.Option("--side-wait-ms", min=0, help="Wait so long for a late side image.")
    ] = 50.0,
    side_max_age_ms: Annotated[
        float, typer.Option("--side-max-age-ms", min=0, help="Else use one at most so much older.")
    ] = 300.0,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="DIR", help="Write decoded pictures.")
    ] = None,
    jpeg: Annotated[bool, typer.Option("--jpeg", help="Pictures as JPEG [PNG].")] = False,
    panels: Annotated[
        bool, typer.Option("--panels", help="With --pictures: x_dec, y, y_syn on sheets too.")
    ] = False,
    video: Annotated[
        Path | None, typer.Option("--video", metavar="FILE", help="Video: .mp4, .avi or .mkv.")
    ] = None,
    mcap: Annotated[
        Path | None, typer.Option("--mcap", metavar="FILE", help="Record packets and side images.")
    ] = None,
    rerun: Annotated[
        Path | None, typer.Option("--rerun", metavar="FILE", help="Rerun recording, .rrd.")
    ] = None,
    web: Annotated[
        int | None, typer.Option("--web", metavar="PORT", help="Page, metrics and health.")
    ] = None,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Metrics and health alone.")
    ] = None,
    web_host: Annotated[
        str, typer.Option("--web-host", metavar="HOST", help="Where both HTTP servers listen.")
    ] = "127.0.0.1",
    ray: Annotated[
        bool, typer.Option("--ray", help="Decode on Ray Serve, on several decoders or machines.")
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="HOST:PORT", help="A Ray that runs [start one here]"),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", min=1, help="With --ray: decoders.")
    ] = 2,
    replica_cpus: Annotated[
        float, typer.Option("--replica-cpus", metavar="C", min=0, help="Of each.")
    ] = 1.0,
    replica_gpus: Annotated[
        float, typer.Option("--replica-gpus", metavar="G", min=0, help="Of each.")
    ] = 0.0,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    plaintext: PlaintextOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Decode the streams of rigs, each beside its side camera."""
    _set_up_logs(verbose)
    if ray_address is not None and not ray:
        raise typer.BadParameter("--ray-address goes with --ray")
    from dsin.runtime.fleet import FleetOptions
    from dsin.runtime.outputs import Outputs
    from dsin.runtime.serve import ServeOptions
    from dsin.runtime.serve import serve as run
    from dsin.runtime.side_buffer import PairingPolicy

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
    run(options, _announce)


def stream(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server.")],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="KITTI folder, pictures, video file, camera:N, gst:PIPELINE or synthetic.",
        ),
    ] = "synthetic",
    rig: Annotated[
        str, typer.Option("--rig", metavar="NAME", help="As in the certificate.")
    ] = "rig",
    camera: Annotated[
        CameraName,
        typer.Option("--camera", help="x is encoded; y, the side camera, is sent as pictures."),
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
        typer.Option("--fps", metavar="F", help="Pace of the source [as recorded, or its own]."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", metavar="N", min=1, help="Stop after N frames.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play a recording again and again.")] = False,
    every: Annotated[
        bool,
        typer.Option("--every", help="Send all frames of a recording, however long it takes."),
    ] = False,
    quality: Annotated[
        int | None,
        typer.Option("--quality", metavar="Q", min=1, max=100, help="Of y as JPEG [lossless]."),
    ] = None,
    give_up_s: Annotated[
        float | None,
        typer.Option("--give-up-s", metavar="S", min=0, help="End without a server [never]."),
    ] = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    plaintext: PlaintextOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Send a camera's frames to a server, the newest first."""
    if rate is not None and kbps is not None:
        raise typer.BadParameter("give either --rate or --kbps")
    _set_up_logs(verbose)
    from dsin.runtime.stream import StreamOptions
    from dsin.runtime.stream import stream as run

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
        quality=quality,
        certificates=_certificates(ca, cert, key, plaintext),
        give_up_s=give_up_s,
    )
    run(options, _announce)


def _certificates(
    ca: Path | None, cert: Path | None, key: Path | None, plaintext: bool
) -> "Certificates | None":
    from dsin.runtime.errors import DsinError
    from dsin.runtime.rpc import Certificates

    if plaintext:
        if ca or cert or key:
            raise typer.BadParameter("give either certificates or --plaintext")
        return None
    if ca is None or cert is None or key is None:
        raise DsinError(
            "give --ca, --cert and --key (the README tells how to make them), or --plaintext on "
            "loopback"
        )
    return Certificates(ca, cert, key)


def _set_up_logs(verbose: bool) -> None:
    """Structured for journals: one line a record, time, level, place, message."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s level=%(levelname)s logger=%(name)s msg=%(message)r",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


def _announce(line: str) -> None:
    typer.echo(line)
