"""The server's own side cameras: whose they are, and who gets what a live one sees."""

import logging
from typing import Any

import numpy as np
import pytest
from support.rig_fakes import SIZE, picture, wait_until

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.server import side_cameras
from dsin.runtime.server.side_cameras import SideCameras, side_specs
from dsin.runtime.sources.cameras import CapturedFrame


@pytest.mark.parametrize(
    ("options", "specs"),
    [
        ([], {}),
        (["camera:1"], {None: "camera:1"}),
        (["front=camera:1", "r=camera:2", "x/y"],
         {"front": "camera:1", "r": "camera:2", None: "x/y"}),
        # What has an equals sign behind a slash, a colon or a pipeline's mark is a source.
        (["/data/run=3"], {None: "/data/run=3"}),
        (["rtsp://host?a=b"], {None: "rtsp://host?a=b"}),
        (["v4l2src device=/dev/video0 ! videoconvert"],
         {None: "v4l2src device=/dev/video0 ! videoconvert"}),
    ],
)  # fmt: skip
def test_a_side_camera_is_of_one_rig_or_of_all_others(
    options: list[str], specs: dict[str | None, str]
) -> None:
    assert side_specs(options) == specs


def test_a_rig_has_one_side_camera() -> None:
    with pytest.raises(DsinError) as twice:
        side_specs(["a=camera:1", "a=camera:2"])
    assert str(twice.value) == "--side a=camera:2: there is a side camera for a already"
    with pytest.raises(DsinError) as twice:
        side_specs(["camera:1", "camera:2"])
    assert str(twice.value) == "--side camera:2: there is a side camera for all already"


class Live:
    """A live camera that gives what a test puts into `coming`, and then ends."""

    size = SIZE

    def __init__(self, *coming: CapturedFrame | FrameError | None) -> None:
        self.coming = list(coming)
        self.closed = False

    @property
    def ended(self) -> bool:
        return self.closed

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        assert timeout_s == side_cameras.POLL_S
        if not self.coming:
            wait_until(lambda: self.closed)
            return None
        now = self.coming.pop(0)
        if isinstance(now, FrameError):
            raise now
        return now

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> dict[str, Live]:
    """What opens instead of a live camera, by its spec; a recording is the built-in rig's."""
    found: dict[str, Live] = {}

    def open_camera(spec: str, side: str) -> Live:
        assert side == "right"
        return found[spec]

    monkeypatch.setattr(side_cameras, "open_camera", open_camera)
    return found


def captured(number: int) -> CapturedFrame:
    return CapturedFrame(number, 1000 + number, picture(number), 0.0, 0.0)


def test_what_a_live_camera_sees_goes_to_all_of_its_rigs(
    cameras: dict[str, Live], caplog: pytest.LogCaptureFixture
) -> None:
    """A picture that cannot be had is told, and those after it come."""
    cameras["camera:1"] = Live(captured(0), None, FrameError("unplugged"), captured(1))
    cameras["camera:2"] = Live(captured(7))
    seen: dict[str, list[tuple[int, int, int]]] = {name: [] for name in ("a", "b", "c", "d")}
    sides = SideCameras(["camera:1", "c=camera:2", "e=synthetic:2"])
    for rig in seen:

        def take(view: Any, captured_ns: int, rig: str = rig) -> None:
            assert np.array_equal(view.image, picture(view.number))
            seen[rig].append((view.number, view.timestamp_ns, captured_ns))

        sides.feed(rig, take)
    sides.feed("d", None)
    sides.feed("nobody", None)
    sides.feed("e", print)  # type: ignore[arg-type]  # whose recording is asked, and never feeds
    with caplog.at_level(logging.WARNING), sides:
        wait_until(lambda: len(seen["b"]) == 2 and seen["c"])
        assert not any(camera.closed for camera in cameras.values())
    assert all(camera.closed for camera in cameras.values())
    assert seen == {
        "a": [(0, 1000, 1000), (1, 1001, 1001)], "b": [(0, 1000, 1000), (1, 1001, 1001)],
        "c": [(7, 1007, 1007)], "d": [],
    }  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == ["side camera camera:1: unplugged"]
    assert not any(thread.is_alive() for thread in sides._threads)


def test_the_size_of_a_rigs_side_camera_is_known_where_there_is_one(
    cameras: dict[str, Live],
) -> None:
    cameras["camera:1"] = Live()
    sides = SideCameras(["a=camera:1", "b=synthetic:2"])
    recorded = sides.recorded("b")
    assert recorded is not None
    assert sides.sizes == [recorded.size, SIZE]
    assert [sides.size(rig) for rig in ("a", "b", "c")] == [SIZE, recorded.size, None]
    assert [sides.live_size(rig) for rig in ("a", "b", "c")] == [SIZE, None, None]
    assert sides.recorded("a") is sides.recorded("c") is None
    smaller = sides.recorded("b", SIZE)
    assert smaller is not None
    assert smaller.size == SIZE
