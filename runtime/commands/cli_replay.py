"""`dsin replay`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dsin.runtime.commands.cli_options import BackendName, BackendOption, BundleOption
from dsin.runtime.terminal import say


def replay(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="RECORDING", help="MCAP file, or its parts in order.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for pictures.")
    ] = None,
    panels: Annotated[
        bool, typer.Option("--panels", help="With -o: x_dec, y, y_syn and result on sheets too.")
    ] = False,
    mcap: Annotated[
        Path | None, typer.Option("--mcap", metavar="FILE", help="Record what is decoded now.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option("--video", metavar="FILE", help="Video: .mp4, .avi or .mkv.")
    ] = None,
    fps: Annotated[
        float, typer.Option("--fps", metavar="F", help="Frames per second of the video.")
    ] = 10.0,
    rerun: Annotated[
        Path | None, typer.Option("--rerun", metavar="FILE", help="Rerun recording, .rrd.")
    ] = None,
    rig: Annotated[
        str | None, typer.Option("--rig", metavar="R", help="This rig alone [all].")
    ] = None,
    no_side: Annotated[bool, typer.Option("--no-side", help="Decode without side images.")] = False,
    repair_side: Annotated[
        bool,
        typer.Option(
            "--repair-side/--live-side",
            help="Side images by time, late ones too, or those that were used live.",
        ),
    ] = True,
    bundle: BundleOption = None,
    backend: BackendOption = BackendName.cpu,
) -> None:
    """Decode a recording again, with better settings if wanted."""
    from dsin.runtime.codec.decoder import Decoder
    from dsin.runtime.outputs.decoded_frame import DecodedFrame
    from dsin.runtime.outputs.outputs import Outputs
    from dsin.runtime.replay.replay import replay_recordings

    outputs = Outputs(
        pictures=output, panels=panels, video=video, fps=fps, mcap=mcap, rerun=rerun
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
