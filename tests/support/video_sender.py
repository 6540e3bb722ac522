"""Cameras in the network: MPEG-TS over HTTP and UDP, MJPEG over HTTP, MPEG-4 over RTSP.

Every picture is of one level.
"""

import contextlib
import socket
import threading
from typing import Any

import av
import cv2
import numpy as np

LONG_S = 30.0
SIZE = (48, 64)
_SDP = (
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\na=control:track1\r\n"
)
_ANSWERS = {
    b"OPTIONS": b"Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n",
    b"DESCRIBE": b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_SDP), _SDP),
    b"SETUP": b"Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
    b"PLAY": b"Session: 1\r\n\r\n",
}


def free_port(protocol: str) -> int:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(type=kind) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Sender:
    """Sends to whoever asks (http, mjpeg, rtsp) or to the port (udp) until it is stopped."""

    def __init__(self, protocol: str, port: int, level: int) -> None:
        self._protocol, self._port = protocol, port
        self._picture = np.full((*SIZE, 3), level, np.uint8)
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", port)) if protocol != "udp" else None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """As a cable that is pulled."""
        self._stop.set()
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        self._thread.join(LONG_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError, av.error.FFmpegError):  # whoever listened is gone
                if self._listening is None:
                    self._send(f"udp://127.0.0.1:{self._port}?pkt_size=1316")
                    continue
                with self._listening.accept()[0] as peer:
                    getattr(self, f"_{self._protocol}")(peer)

    def _http(self, peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        self._send(_Writer(peer.sendall))

    def _mjpeg(self, peer: socket.socket) -> None:
        """As most cheap cameras do."""
        peer.recv(4096)
        kind = b"multipart/x-mixed-replace;boundary=frame"
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n")
        data = bytes(cv2.imencode(".jpg", self._picture)[1])
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
        while not self._stop.wait(0.02):
            peer.sendall(head + data + b"\r\n")

    def _rtsp(self, peer: socket.socket) -> None:
        """RTP packets of FFmpeg's, within the connection."""
        request = b""
        while not request.startswith(b"PLAY"):
            request = peer.recv(4096)
            if not request:
                return
            number = request.partition(b"CSeq: ")[2].partition(b"\r\n")[0]
            answer = _ANSWERS[request.partition(b" ")[0]]
            peer.sendall(b"RTSP/1.0 200 OK\r\nCSeq: %b\r\n%b" % (number, answer))
        with socket.socket(type=socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", 0))
            packets.settimeout(0.2)
            address = f"rtp://127.0.0.1:{packets.getsockname()[1]}?pkt_size=1200"
            sending = threading.Thread(target=self._send, args=(address, "rtp"), daemon=True)
            sending.start()
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    packet = packets.recv(2000)
                    peer.sendall(b"$\x00%b%b" % (len(packet).to_bytes(2, "big"), packet))
            sending.join(LONG_S)

    def _send(self, to: Any, container: str = "mpegts") -> None:
        with av.open(to, "w", container) as video:
            track: Any = video.add_stream("mpeg4", rate=25, options={"g": "5"})
            (track.height, track.width), track.pix_fmt = SIZE, "yuv420p"
            while not self._stop.wait(0.02):
                for packet in track.encode(av.VideoFrame.from_ndarray(self._picture, "rgb24")):
                    video.mux(packet)


class _Writer:
    """What PyAV needs of a file."""

    def __init__(self, write: Any) -> None:
        self.write = write
