"""Which outputs a command was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dsin.runtime.outputs.sinks import Sink


class FileSink(Sink, Protocol):
    """A sink that writes files."""

    @property
    def paths(self) -> list[Path]:
        """The files begun so far, or their folder."""


@dataclass(frozen=True)
class Outputs:
    """Where decoded frames go; None and False are off.

    `pictures` is a folder, `jpeg` writes smaller, lossy files, `panels` adds a sheet of
    four pictures for each frame; `video` names the files (dsin.runtime.outputs.video_sink) that
    play at `fps`; `mcap` and `rerun` are recordings, `bag` is a ROS 2 bag.
    """

    pictures: Path | None = None
    jpeg: bool = False
    panels: bool = False
    video: Path | None = None
    fps: float = 10.0
    mcap: Path | None = None
    rerun: Path | None = None
    bag: Path | None = None

    def open(self) -> list[FileSink]:
        """The sinks, in that order. Raises DsinError for one that cannot be opened; the others are
        closed then."""
        sinks: list[FileSink] = []
        try:
            if self.pictures is not None:
                from dsin.runtime.outputs.picture_sink import PictureSink

                suffix = ".jpg" if self.jpeg else ".png"
                sinks.append(PictureSink(self.pictures, suffix, panels=self.panels))
            if self.video is not None:
                from dsin.runtime.outputs.video_sink import VideoSink

                sinks.append(VideoSink(self.video, self.fps))
            if self.mcap is not None:
                from dsin.runtime.outputs.mcap_sink import McapSink

                sinks.append(McapSink(self.mcap))
            if self.rerun is not None:
                from dsin.runtime.outputs.rerun_sink import RerunSink

                sinks.append(RerunSink(self.rerun))
            if self.bag is not None:
                from dsin.runtime.outputs.bag_sink import BagSink

                sinks.append(BagSink(self.bag))
        except BaseException:
            for sink in sinks:
                sink.close()
            raise
        return sinks
