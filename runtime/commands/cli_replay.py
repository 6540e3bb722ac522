"""`dsin replay`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dsin.runtime.commands.cli_options import (
    BackendName,
    BackendOption,
    BundleOption,
    LookName,
    LookOption,
    PrecisionName,
    PrecisionOption,
    bundle_at,
)
from dsin.runtime.terminal import say


def replay(
    recordings: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDING", help="MCAP file, or the parts of a recording in order."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write each decoded picture to DIR."),
    ] = None,
    panels: Annotated[
        bool,
        typer.Option(
            "--panels", help="With -o, also write sheets with x_dec, y, y_syn and the result."
        ),
    ] = False,
    mcap: Annotated[
        Path | None,
        typer.Option("--mcap", metavar="FILE", help="Record to FILE what is decoded now."),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option("--video", metavar="FILE", help="Write a video to FILE (.mp4, .avi or .mkv)."),
    ] = None,
    fps: Annotated[
        float, typer.Option("--fps", metavar="F", help="Frame rate of the video.")
    ] = 10.0,
    rerun: Annotated[
        Path | None,
        typer.Option("--rerun", metavar="FILE", help="Record to FILE for Rerun (.rrd)."),
    ] = None,
    bag: Annotated[
        Path | None,
        typer.Option("--bag", metavar="DIR", help="Write the results to DIR as a ROS 2 bag."),
    ] = None,
    rig: Annotated[
        str | None, typer.Option("--rig", metavar="R", help="Decode this rig only [all rigs].")
    ] = None,
    no_side: Annotated[bool, typer.Option("--no-side", help="Decode without side images.")] = False,
    repair_side: Annotated[
        bool,
        typer.Option(
            "--repair-side/--live-side",
            help="Choose side images by time again, late ones included, or take those that "
            "were used live.",
        ),
    ] = True,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
    look: LookOption = LookName.faithful,
) -> None:
    """Decode a recording again, with other settings if you like."""
    bundle = bundle_at(bundle, precision, look)
    from dsin.runtime.codec.decoder import Decoder
    from dsin.runtime.outputs.decoded_frame import DecodedFrame
    from dsin.runtime.outputs.outputs import Outputs
    from dsin.runtime.replay.replay import replay_recordings

    outputs = Outputs(
        pictures=output, panels=panels, video=video, fps=fps, mcap=mcap, rerun=rerun, bag=bag
    )  # fmt: skip
    with ExitStack() as stack:
        decoder = stack.enter_context(Decoder(bundle, backend.value))
        sinks = outputs.open()
        for sink in sinks:
            stack.callback(sink.close)

        def show(frame: DecodedFrame) -> None:
            for sink in sinks:
                sink.take(frame)

        report = replay_recordings(
            recordings, decoder, rig=rig, use_side=not no_side, repair_side=repair_side,
            on_frame=show,
        )  # fmt: skip
    typer.echo(report.table())
    for sink in sinks:
        say(f"{sink.name}: {', '.join(map(str, sink.paths))}")
