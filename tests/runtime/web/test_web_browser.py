"""The live page in headless Chromium: what a person sees, on a laptop and on a phone."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.headless_chromium import Browser, find_chromium, open_chromium
from support.web_feed import FedRig, code

from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.web.http_server import LOOPBACK, HttpServer
from dsin.runtime.web.page import WebPage

AWKWARD = "<img src=x onerror=alert(1)> & rear"
SIZES = {"laptop": (1440, 900, False), "phone": (390, 844, True)}
INK = """(id => {
  const canvas = document.getElementById(id), context = canvas.getContext("2d");
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(pixels.buffer)).size;
})"""
"""How many colours a canvas has."""
STAGES = "document.getElementById('stages')"
CUT = """[...document.querySelectorAll('dt, dd, h2, .soft, .key, button, .pill')]
  .filter(box => box.offsetParent && !box.closest('#rigs') && box.scrollWidth > box.clientWidth + 1
    && getComputedStyle(box).display !== 'inline')
  .map(box => `${box.id} ${box.textContent.trim()}: ${box.scrollWidth} in ${box.clientWidth}`)"""
"""Texts that do not fit into their boxes."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("page") / "blocks")


@pytest.fixture
def rigs(bundle: Path) -> list[FedRig]:
    coded = code(SyntheticRig(width=480, height=145, frames=2), bundle)  # of KITTI's shape
    return [FedRig("front", coded), FedRig(AWKWARD, coded, side_connected=False)]


@pytest.fixture
def page(rigs: list[FedRig]) -> WebPage:
    return WebPage(lambda: [rig.status() for rig in rigs])


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
class TestInBrowser:
    @pytest.mark.parametrize("size", SIZES)
    def test_a_person_sees_what_happens(
        self, page: WebPage, rigs: list[FedRig], tmp_path: Path, size: str
    ) -> None:
        width, height, mobile = SIZES[size]

        async def story() -> None:
            with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
                async with open_chromium(tmp_path / "profile") as browser:
                    await browser.open(server.url, width=width, height=height, mobile=mobile)
                    await browser.wait_for(text("state", "Waiting for the first frame"))
                    async with feeding(page, rigs):
                        await self._live(browser, tmp_path / f"{size}.png")
                        await self._other_rig(browser)
                    await browser.wait_for(text("state", "Stale"))
                    rigs[1].camera_connected = False
                    await browser.wait_for(text("state", "Camera disconnected"))
                    assert browser.complaints == []
                    await asyncio.to_thread(server.__exit__, None, None, None)
                    await browser.wait_for(text("state", "Server unreachable"))

        asyncio.run(asyncio.wait_for(story(), 300))

    @pytest.mark.parametrize("size", [(1280, 800), (1440, 900), (1920, 1080)])
    def test_all_of_it_is_seen_at_once(
        self, page: WebPage, rigs: list[FedRig], tmp_path: Path, size: tuple[int, int]
    ) -> None:
        async def story() -> None:
            with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
                async with open_chromium(tmp_path / "profile") as browser:
                    await browser.open(server.url, width=size[0], height=size[1])
                    async with feeding(page, rigs):
                        await browser.wait_for(text("state", "Live"))
                        await browser.wait_for(f"{STAGES}.children.length > 20")
                        assert await browser.evaluate(CUT) == []
                    await browser.wait_for(text("state", "Stale"))
                    assert await browser.evaluate(CUT) == []
                    height = "document.documentElement.scrollHeight"
                    assert await browser.evaluate(height) <= size[1]

        asyncio.run(asyncio.wait_for(story(), 300))

    def test_what_is_over_is_not_green_and_no_limit_moves(
        self, page: WebPage, rigs: list[FedRig], tmp_path: Path
    ) -> None:
        async def story() -> None:
            limit = "(document.getElementById('age-note')?.title ?? '')"
            use = "document.getElementById('use').className"
            with HttpServer(LOOPBACK, 0, [page.routes()]) as server:
                async with open_chromium(tmp_path / "profile") as browser:
                    await browser.open(server.url, width=1280, height=800)
                    async with feeding(page, rigs, every_s=0.6):
                        # Of a slow stream a second would be too little.
                        await browser.wait_for(f"{limit}.startsWith('stale from 1.')")
                        assert await browser.evaluate(use) == "word good"
                        await asyncio.sleep(5)
                    await browser.wait_for(text("state", "Stale"))
                    told = await browser.evaluate(limit)
                    assert await browser.evaluate(use) == "word"
                    await asyncio.sleep(3)
                    assert await browser.evaluate(limit) == told != ""
                    await browser.wait_for(text("use-note", "of the last frame"))

        asyncio.run(asyncio.wait_for(story(), 300))

    async def _live(self, browser: Browser, file: Path) -> None:
        await browser.wait_for(text("state", "Live"))
        await browser.wait_for("document.getElementById('stages').children.length > 20")
        for canvas in ("result", "x_dec", "side", "matches"):
            await browser.wait_for(f"{INK}('{canvas}') > 100")
        for canvas in ("plot-kbps", "plot-age", "plot-drops"):
            await browser.wait_for(f"{INK}('{canvas}') > 3")
        assert await browser.evaluate("document.getElementById('use').textContent") == "paired"
        link = "document.getElementById('link-note').textContent"
        assert await browser.evaluate(link) == "datagrams: loss 4.2 %, parity 66 %"
        await self._point(browser)
        wide = "document.documentElement.scrollWidth <= window.innerWidth"
        assert await browser.evaluate(wide), "the page scrolls sideways"
        await browser.evaluate("document.getElementById('show-y_syn').click()")
        await browser.evaluate("document.getElementById('show-matches').click()")
        file.write_bytes(await browser.photograph(whole=True))
        photograph = cv2.imread(str(file))
        assert photograph is not None
        assert np.std(photograph) > 10

    async def _point(self, browser: Browser) -> None:
        """At the middle of the result: the page says where that patch was found."""
        await browser.evaluate(
            "(() => { const canvas = document.getElementById('result'),"
            " box = canvas.getBoundingClientRect(); canvas.dispatchEvent(new PointerEvent("
            "'pointermove', {clientX: box.left + box.width / 2, clientY: box.top + 9})); })()"
        )
        note = "document.getElementById('side-note').textContent"
        found = await browser.evaluate(note)
        assert re.fullmatch(
            r"The patch was found \d+ px to the (right|left), \d+ px (up|down)", found
        )
        await browser.evaluate(
            "document.getElementById('result').dispatchEvent(new PointerEvent('pointerleave'))"
        )
        assert (await browser.evaluate(note)).startswith("y: the second camera")

    async def _other_rig(self, browser: Browser) -> None:
        """Its name is markup, and stays text."""
        names = "[...document.querySelectorAll('#rigs span')].map(span => span.textContent)"
        assert await browser.evaluate(names) == ["front", AWKWARD]
        assert await browser.evaluate("document.querySelectorAll('img').length") == 0
        await browser.evaluate("document.querySelectorAll('#rigs button')[1].click()")
        await browser.wait_for(text("use", "missing"))
        await browser.wait_for(text("state", "Live, no second camera"))
        badge = "document.getElementById('side-badge')"
        assert await browser.evaluate(f"!{badge}.hidden && {badge}.textContent") == "missing"


def text(element: str, wanted: str) -> str:
    return f"document.getElementById('{element}')?.textContent === '{wanted}'"


@contextlib.asynccontextmanager
async def feeding(
    page: WebPage, rigs: Sequence[FedRig], every_s: float = 0.1
) -> AsyncIterator[None]:
    async def feed() -> None:
        while True:
            for rig in rigs:
                page.take(rig.next_frame())
            await asyncio.sleep(every_s)

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
