"""A rig server with fake decoders as a process of its own, to be frozen and killed.

    cd tests && python -m support.rig_server_process PORT DECODE_S

It prints a line for each frame that it decoded: the rig and the frame's number.
"""

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.stream_server import StreamServer
from support.rig_fakes import FakeDecoder

TESTS = Path(__file__).resolve().parents[1]


class ServerProcess:
    """Starts, freezes and kills it; `lines` are those of all its lives."""

    def __init__(self, port: int, decode_s: float = 0.01) -> None:
        self.port = port
        self._command = [
            sys.executable,
            "-m",
            "support.rig_server_process",
            str(port),
            str(decode_s),
        ]
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Until it listens."""
        self.process = subprocess.Popen(self._command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"
        self._gatherer = threading.Thread(target=self._gather, args=(self.process,), daemon=True)
        self._gatherer.start()

    def kill(self) -> None:
        """As kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._gatherer.join()

    def _gather(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                if line.endswith("\n"):
                    self.lines.append(line.strip())


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    port, decode_s = int(sys.argv[1]), float(sys.argv[2])

    def show(frame: DecodedFrame) -> None:
        print(frame.rig, frame.number, flush=True)

    decoder = cast(Decoder, FakeDecoder(decode_s))
    with (
        DecodePool([LocalWorker(decoder)], PairingPolicy(), show) as pool,
        StreamServer(pool, "127.0.0.1", port),
    ):
        print("listening", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
