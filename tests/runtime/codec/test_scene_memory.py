"""Within a stream the decision whether y shows the scene stands until it is clearly wrong."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dsin.runtime.codec import scene_memory
from dsin.runtime.codec.decoder import Decoded, SideFeatures
from dsin.runtime.codec.scene_memory import SceneMemory
from dsin.runtime.codec.side_fusion import LEAST_SHOWN, SHOWN_MARGIN, FlowFusion, Side
from dsin.runtime.stopwatch import Stopwatch

SIZE = (8, 8)
INSIDE, BEYOND = 0.5 * SHOWN_MARGIN, 1.5 * SHOWN_MARGIN


def decision(shown: float, before: bool | None) -> bool:
    """What the fusion decides where so many blocks are shown, after that decision."""
    fusion = FlowFusion.__new__(FlowFusion)
    planes = {"y_flow": np.zeros((1, 3, *SIZE), np.float32)}
    found = SimpleNamespace(find=lambda x, prepared: (None, planes, shown))
    merged = SimpleNamespace(merge=lambda x, decoded, planes, rate: x)
    fusion._search, fusion._network = cast(Any, found), cast(Any, merged)
    fusion._truncates = False
    decoded = SimpleNamespace(x_dec=np.zeros((1, 3, *SIZE), np.float32))
    side = Side(SIZE, None, before)
    return fusion.fuse(cast(Any, decoded), side, 0, Stopwatch()).related


@pytest.mark.parametrize(
    ("shown", "alone", "after_yes", "after_no"),
    [
        (LEAST_SHOWN - BEYOND, False, False, False),
        (LEAST_SHOWN - INSIDE, False, True, False),
        (LEAST_SHOWN + INSIDE, True, True, False),
        (LEAST_SHOWN + BEYOND, True, True, True),
    ],
)
def test_a_decision_flips_only_beyond_the_margin(
    shown: float, alone: bool, after_yes: bool, after_no: bool
) -> None:
    assert decision(shown, None) is alone
    assert decision(shown, True) is after_yes
    assert decision(shown, False) is after_no


def features() -> SideFeatures:
    return SideFeatures(np.zeros((*SIZE, 3), np.uint8), None, Side(SIZE, None), {})


def decoded(used_side: bool) -> Decoded:
    image = np.zeros((*SIZE, 3), np.uint8)
    return Decoded(image, image, None, None, used_side, None, {})


def test_each_stream_is_remembered_for_itself() -> None:
    memory, new = SceneMemory(), features()
    assert memory.remind("a", new) is new
    memory.note("a", decoded(True))
    memory.note("b", decoded(False))
    reminded = [memory.remind(stream, new).side.related_before for stream in "abc"]
    assert reminded == [True, False, None]
    assert new.side.related_before is None
    memory.note("a", decoded(False))
    assert memory.remind("a", new).side.related_before is False


def test_streams_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_memory, "MOST_STREAMS", 2)
    memory = SceneMemory()
    for stream in "abac":
        memory.note(stream, decoded(True))
    known = {s for s in "abc" if memory.remind(s, features()).side.related_before}
    assert known == {"a", "c"}
