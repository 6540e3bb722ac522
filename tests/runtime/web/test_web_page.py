"""The live page: what viewers get, and what they cannot do."""

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.web_feed import FedRig, code, without_side

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.errors import BackendError, DsinError
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse
from dsin.runtime.outputs.displacement_map import displacement_map, displacements_px, scale_px
from dsin.runtime.patch_correlation import Matches
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.web import pictures as web_pictures
from dsin.runtime.web import state as web_state
from dsin.runtime.web.history import History, stages_of
from dsin.runtime.web.http_server import LOOPBACK, HttpServer
from dsin.runtime.web.page import FULL, MOST_VIEWERS, WebPage, describe
from dsin.runtime.web.pictures import FramePictures

WIDTH, HEIGHT = 240, 120
RUNTIME = Path(web_pictures.__file__).parent
ALL = ["result", "x_dec", "side", "matches", "positions", "y_syn"]
AWKWARD = "<img src=x onerror=alert(1)> & rear"
SOON_S = 30
SCRIPTS = ("page.js", "page_pictures.js", "page_plots.js")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("page") / "blocks")


@pytest.fixture(scope="module")
def coded(bundle: Path) -> list[DecodedFrame]:
    return code(SyntheticRig(width=WIDTH, height=HEIGHT, frames=3), bundle)


@pytest.fixture
def rigs(coded: list[DecodedFrame]) -> list[FedRig]:
    return [FedRig("front", coded), FedRig(AWKWARD, coded, side_connected=False)]


@pytest.fixture
def page(rigs: list[FedRig], bundle: Path) -> WebPage:
    patch = open_bundle(bundle).search.patch
    return WebPage(lambda: [rig.status() for rig in rigs], patch=patch, networks="8 bits")


@pytest.fixture
def server(page: WebPage) -> Iterator[HttpServer]:
    with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
        yield server


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every JPEG that is made."""
    made: list[int] = []

    def counting(picture: web_pictures.Image) -> bytes:
        made.append(picture.size)
        return plain(picture)

    plain = web_pictures.to_jpeg
    monkeypatch.setattr(web_pictures, "to_jpeg", counting)
    return made


class Shown(NamedTuple):
    """A frame as a viewer gets it."""

    header: dict[str, Any]
    views: dict[str, bytes]


class Viewer:
    """One that speaks the page's protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def ask(self, **wish: Any) -> None:
        await self.socket.send_str(json.dumps(wish))

    async def frame(self) -> Shown:
        while True:
            message = await self.socket.receive(SOON_S)
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
            if message.type is aiohttp.WSMsgType.BINARY:
                return unpack(message.data)

    async def status(self) -> dict[str, Any]:
        while True:
            message = await self.socket.receive(SOON_S)
            if message.type is aiohttp.WSMsgType.TEXT:
                told: dict[str, Any] = json.loads(message.data)
                return told

    async def close_code(self) -> int | None:
        while not self.socket.closed:
            await self.socket.receive(SOON_S)
        return self.socket.close_code


def unpack(data: bytes) -> Shown:
    start = 4 + int.from_bytes(data[:4], "big")
    header = json.loads(data[4:start])
    views = {}
    for name, size in header["views"]:
        views[name] = data[start : start + size]
        start += size
    assert start == len(data)
    return Shown(header, views)


@contextlib.asynccontextmanager
async def looking(server: HttpServer, **wish: Any) -> AsyncIterator[Viewer]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}live") as socket,
    ):
        viewer = Viewer(socket)
        await viewer.status()
        if wish:
            await viewer.ask(**wish)
        yield viewer


def soon(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 2 * SOON_S))


def picture(file: bytes) -> web_pictures.Image:
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)


class TestPictures:
    def test_a_viewer_gets_the_views_of_the_newest_frame(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer
    ) -> None:
        async def story() -> None:
            page.take(rigs[0].next_frame())
            newest = rigs[0].next_frame()
            page.take(newest)
            async with looking(server, rig="front", views=ALL, credits=1) as viewer:
                header, views = await viewer.frame()
            assert header["number"] == 1
            assert header["bpp"] == round(8 * len(newest.packet) / (WIDTH * HEIGHT), 4)
            assert (header["use"], header["used_side"]) == ("paired", newest.decoded.used_side)
            assert set(views) == set(ALL)
            assert newest.side is not None
            for view, original in (
                ("result", newest.decoded.image), ("x_dec", newest.decoded.x_dec),
                ("side", newest.side.image), ("y_syn", newest.decoded.y_syn),
            ):  # fmt: skip
                assert original is not None
                assert np.abs(picture(views[view]) - original.astype(float)).mean() < 8
            matches = newest.decoded.matches
            assert matches is not None
            found = np.frombuffer(views["positions"], "<i2").reshape(*matches.row.shape, 2)
            np.testing.assert_array_equal(found, np.stack([matches.col, matches.row], -1))
            search = header["search"]
            assert (search["rows"], search["columns"]) == matches.row.shape

        soon(story)

    def test_without_a_side_image_there_is_none(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer
    ) -> None:
        async def story() -> None:
            page.take(rigs[1].next_frame())
            async with looking(server, rig=AWKWARD, views=ALL, credits=1) as viewer:
                header, views = await viewer.frame()
            assert set(views) == {"result", "x_dec"}
            assert (header["use"], header["used_side"]) == ("missing", False)
            assert header["search"] is header["side_number"] is None

        soon(story)

    def test_without_viewers_nothing_is_encoded(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer, encoded: list[int]
    ) -> None:
        async def story() -> None:
            for _ in range(5):
                page.take(rigs[0].next_frame())
            async with looking(server, rig=AWKWARD, views=ALL, credits=2) as viewer:
                told = await viewer.status()  # one who looks at another rig
            assert told["networks"] == "8 bits"
            assert encoded == []

        soon(story)

    def test_a_view_is_encoded_once_for_all_and_only_if_wanted(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer, encoded: list[int]
    ) -> None:
        async def story() -> None:
            page.take(rigs[0].next_frame())
            wish: dict[str, Any] = {"rig": "front", "views": ["result", "side"], "credits": 1}
            async with looking(server, **wish) as one, looking(server, **wish) as other:
                assert (await one.frame()).views == (await other.frame()).views
                assert len(encoded) == 2
                await other.ask(views=["result", "y_syn"], credits=1)
                assert set((await other.frame()).views) == {"result", "y_syn"}
                assert len(encoded) == 3

        soon(story)

    def test_a_slow_viewer_skips_to_the_newest(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer, encoded: list[int]
    ) -> None:
        async def story() -> None:
            async with looking(server, rig="front", views=["result"], credits=1) as viewer:
                page.take(rigs[0].next_frame())
                assert (await viewer.frame()).header["number"] == 0
                for _ in range(50):
                    page.take(rigs[0].next_frame())
                await viewer.status()
                await viewer.status()
                assert len(encoded) == 1
                await viewer.ask(credits=1)
                assert (await viewer.frame()).header["number"] == 50
                # and yet the plots know all frames
                told = await viewer.status()
                await viewer.ask(rig="front")
                while told.get("after") != 0:
                    told = await viewer.status()
                assert len(told["frames"]) == 51

        soon(story)

    def test_credits_are_limited(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer, encoded: list[int]
    ) -> None:
        async def story() -> None:
            async with looking(server, rig="front", views=["result"], credits=10**9) as viewer:
                for _ in range(10):
                    page.take(rigs[0].next_frame())
                    await asyncio.sleep(0.05)
                await viewer.status()
                await viewer.status()
                assert len(encoded) == 2

        soon(story)

    def test_wide_pictures_are_made_smaller(self) -> None:
        for size, shown in (
            ((100, 2560), (50, 1280)), ((100, 1281), (100, 1280)), ((1, 5120), (1, 1280)),
            ((100, 1280), (100, 1280)), ((2560, 100), (2560, 100)),
        ):  # fmt: skip
            made = picture(web_pictures.to_jpeg(np.zeros((*size, 3), np.uint8)))
            assert made.shape == (*shown, 3)


class TestViewers:
    def test_at_most_so_many(self, page: WebPage, server: HttpServer) -> None:
        async def story() -> None:
            async with contextlib.AsyncExitStack() as stack:
                seated = [await stack.enter_async_context(looking(server)) for _ in range(8)]
                assert page.viewers == MOST_VIEWERS == len(seated)
                session = await stack.enter_async_context(aiohttp.ClientSession())
                late = Viewer(await session.ws_connect(f"{server.url}live"))
                assert await late.close_code() == FULL
                await seated[0].socket.close()
                while page.viewers == MOST_VIEWERS:
                    await asyncio.sleep(0.02)
                async with looking(server) as next_one:
                    await next_one.status()

        soon(story)

    @pytest.mark.parametrize(
        "message",
        ["", "{", "5", "[]", "null", '"rig"', '{"views": 5}', '{"credits": "many"}',
         '{"credits": 1e999}', '{"credits": null}', "[" * 2000, b"\xff\xfe"],
    )  # fmt: skip
    def test_nonsense_ends_that_viewer_only(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer, message: str | bytes
    ) -> None:
        async def story() -> None:
            page.take(rigs[0].next_frame())
            async with looking(server) as bad, looking(server) as good:
                if isinstance(message, str):
                    await bad.socket.send_str(message)
                else:
                    await bad.socket.send_bytes(message)
                assert await bad.close_code() == 1008
                await good.ask(rig="front", views=["result"], credits=1)
                assert (await good.frame()).header["number"] == 0

        soon(story)

    def test_a_message_that_is_too_long_ends_the_viewer(self, server: HttpServer) -> None:
        async def story() -> None:
            async with looking(server) as viewer:
                await viewer.socket.send_str("x" * 100_000)
                assert await viewer.close_code() == 1009

        soon(story)

    @pytest.mark.parametrize("origin", ["http://attacker.example", "null", "http://127.0.0.1:1"])
    def test_pages_of_other_origins_may_not_look(self, server: HttpServer, origin: str) -> None:
        async def story() -> None:
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await session.ws_connect(f"{server.url}live", headers={"Origin": origin})
                assert caught.value.status == 403
                own = server.url.rstrip("/")
                socket = await session.ws_connect(f"{server.url}live", headers={"Origin": own})
                await socket.close()

        soon(story)

    def test_one_that_does_not_read_slows_nobody(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer
    ) -> None:
        async def story() -> None:
            wish: dict[str, Any] = {"rig": "front", "views": ALL, "credits": 1}
            async with looking(server, **wish), looking(server, **wish) as viewer:
                for number in range(30):
                    page.take(rigs[0].next_frame())
                    assert (await viewer.frame()).header["number"] == number
                    await viewer.ask(credits=1)

        soon(story)

    def test_the_servers_end_closes_the_page(self, page: WebPage) -> None:
        async def story() -> None:
            with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
                async with looking(server) as viewer:
                    ending = asyncio.create_task(
                        asyncio.to_thread(server.__exit__, None, None, None)
                    )
                    assert await viewer.close_code() == 1001
                    await ending

        soon(story)


class TestStatus:
    def test_all_rigs_and_the_chosen_ones_points(
        self, page: WebPage, rigs: list[FedRig], server: HttpServer
    ) -> None:
        async def story() -> None:
            for _ in range(3):
                page.take(rigs[0].next_frame())
            async with looking(server, rig="front") as viewer:
                told = await viewer.status()
                assert [rig["rig"] for rig in told["rigs"]] == ["front", AWKWARD]
                assert (told["rig"], told["after"]) == ("front", 0)
                assert [point[3] for point in told["frames"]] == ["paired"] * 3
                assert told["drops"]
                assert {"server.search", "side.compute"} < set(told["stage_ms"])
                page.take(rigs[0].next_frame())
                later = await viewer.status()
                assert len(later["frames"]) == 1
                assert later["after"] > 0

        soon(story)

    def test_numbers_that_are_none_are_null(
        self, rigs: list[FedRig], bundle: Path
    ) -> None:  # fmt: skip
        async def story() -> None:
            odd = replace(rigs[0].status(), device={"encode_ms": float("nan")}, kbps=float("inf"))
            page = WebPage(lambda: [odd])
            with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
                async with looking(server) as viewer:
                    (rig,) = (await viewer.status())["rigs"]
            assert rig["device"]["encode_ms"] is rig["kbps"] is None

        soon(story)

    def test_rigs_that_are_gone_are_forgotten(self, rigs: list[FedRig]) -> None:
        async def story() -> None:
            known: list[FedRig] = list(rigs)
            page = WebPage(lambda: [rig.status() for rig in known])
            page.take(known[0].next_frame())
            with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
                async with looking(server, rig="front") as viewer:
                    assert (await viewer.status())["frames"]
                    del known[0]
                    while len((await viewer.status())["rigs"]) == 2:
                        pass
                    await viewer.ask(rig="front", views=["result"], credits=1)
                    told = await viewer.status()
                    while told["after"]:
                        told = await viewer.status()
                    assert told["frames"] == []

        soon(story)


class TestHistory:
    def test_keeps_a_minute(self, coded: list[DecodedFrame]) -> None:
        history = History()
        for second in range(200):
            history.add_frame(coded[0], second)
        assert [point.at_s for point in history.frames_after(0)] == list(range(139, 200))
        assert [point.at_s for point in history.frames_after(198)] == [198, 199]

    def test_tells_what_was_lost_in_the_order_that_the_page_draws(
        self, coded: list[DecodedFrame]
    ) -> None:
        status = replace(
            FedRig("front", coded).status(), superseded=1, rejected=2,
            device={"dropped": 3.0, "lost": 4.0},
        )  # fmt: skip
        history = History()
        history.add_status(status, 5.0)
        history.add_status(replace(status, device={}), 6.0)
        assert history.drops_after(0) == [(5.0, 1, 2, 3, 4), (6.0, 1, 2, 0, 0)]

    def test_names_the_way_here_and_the_waiting(self, coded: list[DecodedFrame]) -> None:
        history = History()
        frame = replace(
            coded[0], captured_ns=0, received_ns=70_000_000, decoded_ns=130_000_000,
            stage_ms={"side.compute": 30.0, "server.search": 50.0}, waited_ms=10.0,
        )  # fmt: skip
        history.add_frame(frame, 0)
        assert history.stage_ms() == {
            "way.capture to arrival": 70, "server.waiting": 10, "server.search": 50,
            "side.compute": 30,
        }  # fmt: skip

    def test_stages_are_medians_of_the_frames_that_have_them(
        self, coded: list[DecodedFrame]
    ) -> None:
        history = History()
        for ms in (10.0, 90.0, 20.0):
            history.add_frame(replace(coded[0], stage_ms={"server.search": ms}), 0)
        history.add_frame(replace(coded[0], stage_ms={}), 0)
        assert history.stage_ms()["server.search"] == 20

    def test_no_way_is_shorter_than_nothing(self, coded: list[DecodedFrame]) -> None:
        """As where the camera's clock is known to a few milliseconds only."""
        early = replace(coded[0], captured_ns=5_000_000, received_ns=3_000_000)
        assert stages_of(early)["way.capture to arrival"] == 0


def test_pictures_of_rigs_that_are_gone_are_not_kept(
    coded: list[DecodedFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_state, "STATUS_EVERY_S", 0)
    rigs = [FedRig("front", coded), FedRig("rear", coded)]
    state = web_state.PageState(lambda: [rig.status() for rig in rigs], (20, 24), "float")
    for rig in rigs:
        state.add(rig.next_frame())
    del rigs[0]
    state.rigs()
    assert (state.newest("front") is None, state.newest("rear") is None) == (True, False)


class TestDisplacementMap:
    def test_shows_the_distance(self) -> None:
        row, col = np.meshgrid(np.arange(2) * 20, np.arange(3) * 24, indexing="ij")
        col[1, 2] -= 30
        row[1, 2] -= 40
        matches = Matches(row.astype(np.int32), col.astype(np.int32), np.ones((2, 3), np.float32))
        distance = displacements_px(matches, (20, 24))
        assert distance.tolist() == [[0, 0, 0], [0, 0, 50]]
        assert scale_px(distance) == 64
        shown = displacement_map(np.full((35, 70, 3), 128, np.uint8), matches, (20, 24), 50)
        assert shown.shape == (35, 70, 3)
        colours = {tuple(c) for c in shown.reshape(-1, 3).tolist()}
        assert len(colours) == 2
        near, far = shown[0, 0], shown[34, 69]
        assert far[0] > far[2]  # red
        assert near[2] >= near[0]
        assert (shown[20:, 48:] == far).all()

    def test_bad_matches_are_pale(self) -> None:
        zeros = np.zeros((1, 2), np.int32)
        matches = Matches(zeros, zeros, np.array([[0.99, 0.3]], np.float32))
        shown = displacement_map(np.full((20, 48, 3), 128, np.uint8), matches, (20, 24), 24)
        off = np.abs(shown.astype(int) - 128).max(axis=2)
        assert off[0, 47] < off[0, 0]


class TestFiles:
    def test_each_is_served_with_its_type(self, server: HttpServer) -> None:
        async def story() -> None:
            async with aiohttp.ClientSession() as session:
                for path, kind in (
                    ("", "text/html"), ("page.css", "text/css"), ("page.svg", "image/svg+xml"),
                    *((script, "text/javascript") for script in SCRIPTS),
                ):  # fmt: skip
                    async with session.get(server.url + path) as answer:
                        assert (answer.status, answer.content_type) == (200, kind)

        soon(story)

    def test_nothing_is_inline_or_from_elsewhere(self) -> None:
        html = (RUNTIME / "page.html").read_text()
        assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", html)
        for name in ("page.html", "page.css", *SCRIPTS):
            text = (RUNTIME / name).read_text()
            assert not re.search(r"https?://(?!www\.w3\.org)", text), name
        for name in SCRIPTS:
            text = (RUNTIME / name).read_text()
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)

    def test_one_that_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(path: Path) -> bytes:
            raise FileNotFoundError(path)

        monkeypatch.setattr(Path, "read_bytes", gone)
        with pytest.raises(DsinError, match=r"^the page's \S+ is missing: install dsin again$"):
            WebPage(list).routes()

    def test_without_aiohttp_the_error_names_the_command(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "aiohttp", None)
        with pytest.raises(BackendError, match=r"pip install 'dsin\[serve\]'"):
            WebPage(list)


def test_frames_without_a_side_image_show_the_picture_alone(coded: list[DecodedFrame]) -> None:
    alone = without_side(coded[0])
    assert alone.side_use is SideUse.MISSING
    assert alone.decoded.image is coded[0].decoded.x_dec


def test_the_age_is_of_one_clock(
    coded: list[DecodedFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock may step meanwhile: times of frames are of one that never does."""
    frame = replace(coded[0], captured_ns=now_ns() - 100_000_000)
    pictures = FramePictures(frame, (20, 24), ThreadPoolExecutor(1))
    for step_ns in (-5_000_000_000, 0, 5_000_000_000):
        wall = time.time_ns() + step_ns
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda wall=wall: wall)
            patch.setattr(time, "time", lambda wall=wall: wall / 1e9)
            assert 100 <= describe(pictures)["age_ms"] < 2000


def test_nothing_of_the_runtime_reads_the_wall_clock_again() -> None:
    readers = {
        path.name
        for path in RUNTIME.parent.rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\(|datetime\.now\(|utcnow", path.read_text("utf-8"))
    }
    # Once, when a process or a recording starts, for the dates of a profile and of a self-test, and
    # where a program pushes frames with times of that clock.
    assert readers == {"clocks.py", "profiler.py", "push_source.py", "selftest.py", "stream.py"}
