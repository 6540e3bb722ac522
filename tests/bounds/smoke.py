"""What a device and a server do, once, with the packages of this environment.

    python tests/bounds/smoke.py

Needs the extras `cpu` and `serve` and nothing of the tests. Prints the versions that it ran with.
"""

import subprocess
import sys
import tempfile
import urllib.request
from importlib import metadata
from pathlib import Path

from dsin.runtime import Decoder, Encoder
from dsin.runtime.commands.serve import ServeOptions, running_server
from dsin.runtime.commands.stream import StreamOptions, stream
from dsin.runtime.files import write_image
from dsin.runtime.outputs.outputs import Outputs
from dsin.runtime.replay.replay import replay_recordings
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.sources.video_file import VideoFile

PACKAGES = (
    "numpy", "numba", "llvmlite", "opencv-python-headless", "typer", "rich", "grpcio", "protobuf",
    "packaging", "cryptography", "reedsolo", "isal",
    "onnxruntime", "av", "aiohttp", "mcap", "prometheus-client", "grpcio-health-checking",
)  # fmt: skip
FRAMES = 3


def dsin(*arguments: object) -> str:
    """Run the command; what it prints. A wrong status raises."""
    command = [sys.executable, "-m", "dsin.runtime.commands.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_rig(folder: Path) -> SyntheticRig:
    """Small frames of both cameras, as folders `left` and `right`."""
    rig = SyntheticRig(width=256, height=128, frames=FRAMES)
    for side in ("left", "right"):
        (folder / side).mkdir(parents=True)
        for number in range(FRAMES):
            write_image(folder / side / f"{number}.png", rig.view(number, side))
    return rig


def command_line(rig: Path) -> None:
    """encode, info and decode as a person runs them, help and a wrong option included."""
    left = rig / "left" / "0.png"
    dsin("encode", left, "--rate", 1, "-o", rig / "a.dsin")
    assert "256" in dsin("info", rig / "a.dsin")
    dsin("decode", rig / "a.dsin", "--side", rig / "right" / "0.png", "-o", rig / "a.png")
    assert (rig / "a.png").is_file()
    assert "cpu" in dsin("doctor")
    for name in ("serve", "stream", "demo", "replay", "encode"):
        assert "Usage" in dsin(name, "--help")
    wrong = [sys.executable, "-m", "dsin.runtime.commands.cli", "serve", "--replicas", "2"]
    assert subprocess.run(wrong, stderr=subprocess.DEVNULL).returncode == 2


def two_halves(rig: Path) -> None:
    """A stream through gRPC beside page, metrics, health, video and recording; and a replay."""
    outputs = Outputs(video=rig / "v.mp4", mcap=rig / "r.mcap")
    options = ServeOptions(
        "127.0.0.1:0", sides=[str(rig)], outputs=outputs, web=0, metrics=0, health=True
    )
    with running_server(options) as server:
        counts = stream(
            StreamOptions(server.address, str(rig), every=True, give_up_s=20), lambda line: None
        )
        assert counts.statuses == {"decoded": FRAMES}, counts
        (url,) = server.metrics_urls
        assert b"dsin_frames_total" in urllib.request.urlopen(f"{url}metrics").read()
        page = urllib.request.urlopen(server.urls[0]).read()
        assert b"dsin" in page
    (video,) = rig.glob("v*.mp4")
    assert len(VideoFile(video)) == FRAMES
    with Decoder() as decoder:
        report = replay_recordings([rig / "r.mcap"], decoder)
    assert str(FRAMES) in report.table()


def main() -> None:
    print(sys.version.split()[0], *(f"{name} {metadata.version(name)}" for name in PACKAGES))
    with tempfile.TemporaryDirectory() as folder:
        rig = Path(folder) / "rig"
        frames = write_rig(rig)
        with Encoder() as encoder, Decoder() as decoder:
            packet = encoder.encode(frames.view(0, "left"))
            decoded = decoder.decode(bytes(packet), frames.view(0, "right"))
            assert decoded.image.shape == (128, 256, 3)
        command_line(rig)
        two_halves(rig)
    print("ok")


if __name__ == "__main__":
    main()
