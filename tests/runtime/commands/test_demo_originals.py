"""What the demo's processes share to compare with."""

import os
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from dsin.runtime.commands import demo, demo_processes
from dsin.runtime.commands.demo_originals import (
    SLOTS,
    Originals,
    SharedPictures,
    SharedRecording,
)
from dsin.runtime.errors import DsinError
from dsin.runtime.pictures import Image
from dsin.runtime.sources.recordings import StereoRecording, open_stereo

SIZE = 4, 6


class Numbered:
    """A recording whose pictures are full of their numbers, and tell that they were read."""

    size = SIZE

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 3

    def timestamp_ns(self, number: int) -> int:
        return 7 * number

    def image(self, number: int) -> Image:
        self.read.append(number)
        return full_of(number)


def full_of(number: int) -> Image:
    return np.full((*SIZE, 3), number, np.uint8)


def test_the_newest_pictures_are_there() -> None:
    shared = SharedPictures(SIZE)
    assert shared.taken(0) is None
    for number in range(SLOTS + 2):
        shared.put(number, full_of(number))
    assert shared.taken(0) is None
    for number in range(2, SLOTS + 2):
        assert np.array_equal(shared.taken(number), full_of(number))


def test_a_picture_that_is_replaced_meanwhile_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedPictures(SIZE)
    shared.put(1, full_of(1))
    places = shared._pictures

    def replaced() -> Image:
        monkeypatch.setattr(shared, "_pictures", places)
        shared.put(1 + SLOTS, full_of(9))
        return places()

    monkeypatch.setattr(shared, "_pictures", replaced)
    assert shared.taken(1) is None


def test_originals_are_read_only_where_they_are_not_shared() -> None:
    shared, left, right = SharedPictures(SIZE), Numbered(), Numbered()
    camera = SharedRecording(left, shared)
    assert (camera.size, len(camera), camera.timestamp_ns(2)) == (SIZE, 3, 14)
    assert np.array_equal(camera.image(1), full_of(1))
    originals = Originals(StereoRecording(left, right), shared)
    left.read.clear()
    assert np.array_equal(originals.view(4), full_of(1))  # in the second round
    assert left.read == []
    assert np.array_equal(originals.view(2), full_of(2))
    assert np.array_equal(Originals(originals.source, None).view(4), full_of(1))
    assert (left.read, right.read) == ([2, 1], [])


def test_the_demo_shares_what_its_camera_sees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[demo_processes.Settings] = []

    def started(settings: demo_processes.Settings) -> None:
        told.append(settings)
        raise DsinError("enough")

    monkeypatch.setattr(demo, "_started", started)
    with pytest.raises(DsinError, match="enough"):
        demo.run_demo(frames=1, out=tmp_path)
    (settings,) = told
    assert settings.shared is not None
    picture = demo_processes._shown(settings).image(0)
    assert np.array_equal(settings.shared.taken(0), picture)


def test_what_is_drawn_is_drawn_before_time_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[object] = []
    monkeypatch.setattr(demo_processes, "draw_ahead", drawn.append)
    settings = demo_processes.Settings(
        None, None, 1, None, None, None, tmp_path, "cpu", None, None
    )  # fmt: skip
    camera = demo_processes._shown(settings)

    def server(*_: object, **__: object) -> None:
        raise DsinError("enough")

    monkeypatch.setattr(demo_processes, "running_server", server)
    ours, theirs = Pipe()
    with pytest.raises(SystemExit):
        demo_processes.run_server(theirs, settings)
    assert ours.recv() == demo_processes.Failed("DsinError", "enough")
    assert drawn == [camera, settings.source().right]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_drawing_gives_way(tmp_path: Path) -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with demo_processes._Gallery(Pipe()[1], tmp_path, open_stereo("synthetic:1"), None) as gallery:
        drawing = gallery._thread.submit(threading.get_native_id).result()
        assert os.getpriority(os.PRIO_PROCESS, drawing) == min(19, own + 5)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
