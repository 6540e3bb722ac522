"""The live view for Foxglove: a websocket client sees what a recording would hold, and more."""

import asyncio
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.rig_frames import make_frames

from dsin.runtime.errors import DsinError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs import foxglove_messages, foxglove_sink
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.foxglove_sink import FoxgloveSink
from dsin.runtime.outputs.recording_messages import SCHEMAS, status_message

pytest.importorskip("foxglove")
LONG_S = 30.0
TOPICS = ("x/packet", "side", "frame", "result", "x_dec", "disparity", "plots")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[DecodedFrame]:
    return make_frames(write_block_bundle(tmp_path_factory.mktemp("foxglove") / "blocks"), 2)


@pytest.fixture
def sink(frames: list[DecodedFrame]) -> Iterator[FoxgloveSink]:
    def status() -> Any:
        return [SimpleNamespace(rig="car", kbps=123.5), SimpleNamespace(rig="other", kbps=1.0)]

    sink = FoxgloveSink("127.0.0.1", 0, status, original=lambda frame: frame.decoded.x_dec)
    yield sink
    sink.close()


async def look(sink: FoxgloveSink, frame: DecodedFrame, *topics: str) -> dict[str, Any]:
    """What a viewer is told: the channels by topic, and the first message of each topic."""
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(sink.url, protocols=["foxglove.sdk.v1"])
        channels: dict[str, Any] = {}
        while len(channels) < len(TOPICS):
            told = json.loads((await socket.receive(LONG_S)).data)
            if told["op"] == "advertise":
                channels |= {each["topic"]: each for each in told["channels"]}
        wanted = [{"id": n, "channelId": channels[t]["id"]} for n, t in enumerate(topics)]
        await socket.send_json({"op": "subscribe", "subscriptions": wanted})
        base = {name: channel.has_sinks for (_, name), channel in sink._channels.items()}
        while sum(has() for has in base.values()) < len(topics):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(sink.take, frame)
        messages: dict[str, tuple[int, bytes]] = {}
        while len(messages) < len(topics):
            data = (await socket.receive(LONG_S)).data
            if isinstance(data, bytes):
                kind, number, log_ns = struct.unpack_from("<BIQ", data)
                assert kind == 1
                messages[topics[number]] = log_ns, data[13:]
        await socket.close()
    return {"channels": channels, "messages": messages}


def picture(message: bytes) -> Any:
    data, _ = foxglove_messages.unpack_image(message)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_a_viewer_sees_the_recordings_messages_and_more(
    sink: FoxgloveSink, frames: list[DecodedFrame]
) -> None:
    sink.take(frames[0])  # which announces the topics
    topics = [f"/car/{name}" for name in TOPICS]
    seen = asyncio.run(look(sink, frames[1], *topics))
    channels, messages = seen["channels"], seen["messages"]
    for topic, channel in channels.items():
        name = channel["schemaName"]
        if name in SCHEMAS:
            assert channel["schemaEncoding"] == SCHEMAS[name][0]
        if name == "dsin.FrameStatus":
            assert channel["schema"].encode() == SCHEMAS[name][1], topic
    assert {log_ns for log_ns, _ in messages.values()} == {frames[1].decoded_ns}
    assert messages["/car/frame"][1] == status_message(frames[1]).data
    result = picture(messages["/car/result"][1]).astype(int)
    assert np.abs(result - frames[1].decoded.image).mean() < 5
    x_dec = picture(messages["/car/x_dec"][1]).astype(int)
    assert np.abs(x_dec - frames[1].decoded.x_dec).mean() < 5
    assert picture(messages["/car/disparity"][1]).shape == (120, 216, 3)
    side = frames[1].side
    assert side is not None
    assert {
        name: messages[f"/car/{name}"][1] for name in ("x_dec", "disparity", "side")
    } == {
        name: foxglove_messages.pack_image(
            foxglove_messages.unpack_image(messages[f"/car/{name}"][1])[0], "jpeg", *taken
        )
        for name, taken in (
            ("x_dec", (frames[1].captured_ns, "car/x")),
            ("disparity", (frames[1].captured_ns, "car/x")),
            ("side", (side.timestamp_ns, "car/y")),
        )
    }  # fmt: skip
    plots = json.loads(messages["/car/plots"][1])
    assert (plots["kbps"], plots["age_ms"]) == (123.5, frames[1].age_ms)
    assert plots["bpp"] == 8 * len(frames[1].packet) / (120 * 216)
    decoded = frames[1].decoded
    assert plots["psnr_db"] == psnr_db(decoded.image, decoded.x_dec)
    assert plots["psnr_db_no_side"] == 100


def test_what_nobody_looks_at_is_not_made(
    sink: FoxgloveSink, frames: list[DecodedFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foxglove_sink, "encode_picture", None)
    sink.take(frames[0])
    alone = replace(frames[1], decoded=replace(frames[1].decoded, matches=None), side=None)
    seen = asyncio.run(look(sink, alone, "/car/plots"))
    assert list(seen["messages"]) == ["/car/plots"]


def test_times_before_1970_are_shown_as_its_start(
    sink: FoxgloveSink, frames: list[DecodedFrame]
) -> None:
    sink.take(frames[0])
    early = replace(frames[1], captured_ns=-5, decoded_ns=-1)
    seen = asyncio.run(look(sink, early, "/car/x_dec"))["messages"]
    log_ns, message = seen["/car/x_dec"]
    assert (log_ns, foxglove_messages.unpack_image(message)[1]) == (0, 0)


def test_a_viewer_is_told_whose_server_it_is_and_when_it_ends() -> None:
    """The port is free again then."""
    sink = FoxgloveSink("127.0.0.1", 0, list)

    async def story() -> str:
        async with aiohttp.ClientSession() as session:
            socket = await session.ws_connect(sink.url, protocols=["foxglove.sdk.v1"])
            about = json.loads((await socket.receive(LONG_S)).data)
            assert about["op"] == "serverInfo"
            await asyncio.to_thread(sink.close)
            while not (await socket.receive(LONG_S)).type.name.startswith("CLOS"):
                pass
            return str(about["name"])

    assert asyncio.run(story()) == "dsin"
    FoxgloveSink("127.0.0.1", int(sink.url.rpartition(":")[2]), list).close()


def test_a_port_that_is_taken(sink: FoxgloveSink) -> None:
    port = int(sink.url.rpartition(":")[2])
    with pytest.raises(DsinError, match=f"cannot serve Foxglove at 127.0.0.1:{port}: "):
        FoxgloveSink("127.0.0.1", port, list)


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "foxglove", None)
    with pytest.raises(DsinError, match=r"--foxglove needs foxglove.*dsin\[foxglove\]"):
        FoxgloveSink("127.0.0.1", 0, list)


def test_the_demo_serves_it_with_the_original_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only what is particular to the demo: the settings arrive, and frames are repeated."""
    from dsin.runtime.commands import demo_processes

    taken: list[Any] = []

    class Server:
        def __init__(self, options: Any, on_frame: Any) -> None:
            taken.append(options)
            self.address, self.urls, self.foxglove_url = "a:1", ["http://page"], "ws://b:2"

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None: ...

    told: list[Any] = []
    pipe: Any = SimpleNamespace(send=told.append, recv=lambda: "stop")
    monkeypatch.setattr(demo_processes, "running_server", Server)
    settings = demo_processes.Settings(
        None, None, 1, None, None, None, tmp_path, "cpu", 10.0, None, 8765
    )  # fmt: skip
    assert settings.repeats
    demo_processes.run_server(pipe, settings)
    assert told[0].urls == ("http://page", "ws://b:2 in Foxglove")
    assert taken[0].foxglove == 8765
    frame: Any = SimpleNamespace(number=1)
    expected = settings.source().view(0, "left")
    assert np.array_equal(taken[0].original(frame), expected)
