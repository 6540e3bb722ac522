"""How topics of ROS bags are named on the command line."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from dsin.runtime.errors import FrameError
from dsin.runtime.sources.frames import StereoSide

BAG = "bag:"
EXAMPLE = "bag:drive.bag,x=/left/image_raw,y=/right/image_raw"
BagTime = Literal["header", "log"]


class BagSpec(NamedTuple):
    """A bag and the topics of a rig's cameras in it; one of them may be missing."""

    path: Path
    x: str | None
    y: str | None
    time: BagTime
    """Which time counts: that of each message's header, or when it was recorded."""

    def topic(self, side: StereoSide) -> str:
        """Of that camera, or of the only one."""
        own, other = (self.x, self.y) if side == "left" else (self.y, self.x)
        topic = own or other
        assert topic is not None
        return topic


def is_bag(spec: str) -> bool:
    """Whether a source's name is that of topics in a bag."""
    return spec.startswith(BAG)


def parse_bag_spec(spec: str) -> BagSpec:
    """Parse `bag:PATH,x=/topic[,y=/topic][,time=header|log]`; FrameError for anything else.

    The path may hold commas, but not `,x=`, `,y=` or `,time=`.
    """
    start = re.search(r",(x|y|time)=", spec)
    path = spec[len(BAG) : start.start() if start else None]
    if not path:
        raise FrameError(f"{spec} names no bag: write it as {EXAMPLE}")
    given: dict[str, str] = {}
    for option in spec[start.end() - len(start[0]) + 1 :].split(",") if start else ():
        name, equals, value = option.partition("=")
        if name not in ("x", "y", "time") or not equals or name in given:
            raise FrameError(f"{spec}: {option!r} is not an option; there are x=, y= and time=")
        given[name] = value
    wanted = given.pop("time", "header")
    if wanted not in ("header", "log"):
        raise FrameError(f"{spec}: time= is header or log, not {wanted!r}")
    time: BagTime = "log" if wanted == "log" else "header"
    for name, topic in given.items():
        if not topic.startswith("/"):
            raise FrameError(f"{spec}: {name}={topic} is not a topic, which begins with /")
    if len(given) == 2 and given["x"] == given["y"]:
        raise FrameError(f"{spec}: x and y are the same topic")
    return BagSpec(Path(path), given.get("x"), given.get("y"), time)
