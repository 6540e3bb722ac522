"""What a front costs for each connection and message: TLS, HTTP/2, protobuf; for .docs/fleet.md.

    python tests/benchmarks/front_cost.py

A gRPC server with mutual TLS that acknowledges every frame, and cameras in another process.
Processor time is the server's alone. The openssl command makes the certificates.
"""

import asyncio
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from dsin.runtime.link import dsin_v1_pb2 as dsin_v1

METHOD = "/dsin.v1.Rig/Stream"
SIZES = {"packet, rate 0": 1017, "packet, rate 2": 3170, "packet, rate 7": 15998,
         "side image, JPEG 95": 182605, "side image, PNG": 824244}  # fmt: skip
MESSAGES = 300
CONNECTIONS = 200


def make_certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("localhost", "rig"):
        openssl(
            "req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-extfile", "names",
        )  # fmt: skip


async def answer(
    messages: AsyncIterator[dsin_v1.CameraMessage], context: object
) -> AsyncIterator[dsin_v1.ServerMessage]:
    async for message in messages:
        if message.HasField("hello"):
            yield dsin_v1.ServerMessage(welcome=dsin_v1.Welcome(credits=2))
        else:
            number = message.side.frame_number
            ack = dsin_v1.Ack(frame_number=number, status=dsin_v1.STORED)
            yield dsin_v1.ServerMessage(ack=ack)


async def camera(port: int, folder: Path, size: int, count: int) -> tuple[object, object]:
    """A channel and its stream, which stays open as long as both are kept."""
    credentials = grpc.ssl_channel_credentials(
        *((folder / name).read_bytes() for name in ("ca.crt", "rig.key", "rig.crt"))
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.secure_channel(f"localhost:{port}", credentials, options)
    call = channel.stream_stream(
        METHOD,
        dsin_v1.CameraMessage.SerializeToString,
        dsin_v1.ServerMessage.FromString,
    )()
    await call.write(dsin_v1.CameraMessage(hello=dsin_v1.Hello(rig="rig")))
    await call.read()
    picture = os.urandom(size)
    for number in range(count):
        side = dsin_v1.SideFrame(picture=picture, frame_number=number)
        await call.write(dsin_v1.CameraMessage(side=side))
        await call.read()
    return channel, call


def cameras(port: int, folder: Path, orders: Any, done: Any) -> None:
    async def run() -> None:
        channels = []
        while (order := orders.get()) is not None:
            connections, size, count = order
            for _ in range(connections):
                channels.append(await camera(port, folder, size, count))
            done.put(None)

    asyncio.run(run())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(folder: Path) -> None:
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        answer, dsin_v1.CameraMessage.FromString, dsin_v1.ServerMessage.SerializeToString
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("dsin.v1.Rig", {"Stream": handler})]
    )
    pair = [(folder / name).read_bytes() for name in ("localhost.key", "localhost.crt")]
    authority = (folder / "ca.crt").read_bytes()
    credentials = grpc.ssl_server_credentials([(pair[0], pair[1])], authority, True)
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    context = multiprocessing.get_context("spawn")
    orders, done = context.Queue(), context.Queue()
    process = context.Process(target=cameras, args=(port, folder, orders, done))
    process.start()

    async def cost(connections: int, size: int, count: int) -> float:
        start = time.process_time()
        orders.put((connections, size, count))
        await asyncio.to_thread(done.get)
        return 1e3 * (time.process_time() - start)

    await cost(1, 1000, 10)
    before = resident_mib()
    hello = await cost(CONNECTIONS, 0, 0) / CONNECTIONS
    memory = 1024 * (resident_mib() - before) / CONNECTIONS
    print(f"connection with handshake: {hello:.2f} CPU ms, {memory:.0f} KiB while it is idle")
    for name, size in SIZES.items():
        per_message = await cost(1, size, MESSAGES) / MESSAGES
        print(f"{name}, {size} bytes: {per_message:.3f} CPU ms")
    orders.put(None)
    process.join()
    await server.stop(0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(Path(folder))
        asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
