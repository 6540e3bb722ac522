"""The decoder's search on the backend it was opened with: the same positions on each.

    x_dec, y_dec, y ─► positions of patches ─► y_syn                       `open_patch_search`
                                            └─► refined by blocks          `open_block_search`
                                                ─► y_syn, y_dec_syn, cost
    x_dec, y ─► positions at half size ─► flow, blocks                     `FlowSearch`
                                      ─► y_flow, y_blocks, doubt

What depends on the side image alone is done first, in `prepare`. Pictures are as the networks have
them (`dsin.runtime.codec.layouts`): arrays of the host, or tensors of the GPU where the backend has
them there. What is found are planes (1, 3, H, W) in 0..255, but by flow pictures in whole levels.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.layouts import as_levels
from dsin.runtime.gpu.device_tensor import Tensor, on_host
from dsin.runtime.patch_correlation.block_refinement import side_planes
from dsin.runtime.patch_correlation.definition import (
    Image,
    Matches,
    PreparedSide,
)
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.side_flow import FlowSide, find_side_views, prepare_flow_side
from dsin.runtime.pictures import from_planes, to_planes


class Found(NamedTuple):
    """Where the patches of x_dec lie in y, and what the fusion takes of that, by the names of its
    inputs: y_syn, with blocks y_dec_syn and cost too; with flow y_flow, y_blocks and doubt."""

    matches: Matches
    planes: dict[str, Tensor]
    shown: float | None = None
    """With flow, the share of blocks that y shows."""


Prepared = Any
"""A side image as one search prepared it for itself."""


class SideSearch(Protocol):
    """Finds the pieces of y that look like x_dec, as a bundle's search settings say."""

    def prepare(self, y: Image, y_dec: Tensor) -> Prepared:
        """What can be done before x_dec is there; y is uint8 H×W×3, y_dec of its size."""

    def find(self, x_dec: Tensor, prepared: Prepared) -> Found:
        """The pieces; x_dec is of the same size."""


class _Side(NamedTuple):
    """The side image and itself as decoded, H×W×3."""

    y: Image
    y_dec: Image
    prepared: PreparedSide


class CpuPatchSearch:
    """`match` and `synthesise` on `threads` threads (None: one per core)."""

    def __init__(self, search: SearchOptions, threads: int | None) -> None:
        self._search = search
        self._threads = threads

    def prepare(self, y: Image, y_dec: Tensor) -> _Side:
        return self._prepared(y, from_planes(on_host(y_dec)))

    def find(self, x_dec: Tensor, prepared: _Side) -> Found:
        matches = self._positions(from_planes(on_host(x_dec)), prepared)
        y_syn = self._search.synthesise(prepared.y, matches)
        return Found(matches, {"y_syn": to_planes(y_syn)})

    def _prepared(self, y: Image, y_dec: Image) -> _Side:
        return _Side(y, y_dec, self._search.prepare(y_dec, self._threads))

    def _positions(self, x_dec: Image, side: _Side) -> Matches:
        return self._search.match(
            x_dec, side.y_dec, prepared=side.prepared, threads=self._threads
        )  # fmt: skip


class CpuBlockSearch(CpuPatchSearch):
    """The same on pictures rounded to whole levels, refined by `side_planes`."""

    def prepare(self, y: Image, y_dec: Tensor) -> _Side:
        return self._prepared(y, _levels(y_dec))

    def find(self, x_dec: Tensor, prepared: _Side) -> Found:
        x = _levels(x_dec)
        matches = self._positions(x, prepared)
        planes = side_planes(x, prepared.y_dec, prepared.y, matches, self._search.patch)
        return Found(matches, {**planes._asdict()})


class FlowSearch:
    """By `dsin.runtime.patch_correlation.side_flow`, on the CPU whatever the backend: the networks
    around it run where they are, and pictures go to and fro. It does not need y_dec."""

    def __init__(self, search: SearchOptions, threads: int | None) -> None:
        self._search = search
        self._threads = threads

    def prepare(self, y: Image) -> FlowSide:
        """As `SideSearch.prepare`, from y alone."""
        return prepare_flow_side(y, self._search, self._threads)

    def find(self, x_dec: Tensor, prepared: FlowSide) -> Found:
        """As `SideSearch.find`."""
        x = _levels(x_dec)
        found = find_side_views(x, prepared, self._search, self._threads)
        seen = {"y_flow": found.y_flow[None], "y_blocks": found.y_blocks[None]}
        return Found(found.matches, {**seen, "doubt": found.doubt}, found.shown)


def _levels(shown: Tensor) -> Image:
    return np.asarray(on_host(as_levels(shown))[0])


def open_patch_search(search: SearchOptions, backend: Backend, threads: int | None) -> SideSearch:
    """The search of one bundle on one backend, for y_syn of whole patches.

    Raises BackendError where the backend is asked for and absent.
    """
    if backend == "cpu":
        return CpuPatchSearch(search, threads)
    from dsin.runtime.codec.side_search_cuda import CudaPatchSearch

    return CudaPatchSearch(search)


def open_block_search(search: SearchOptions, backend: Backend, threads: int | None) -> SideSearch:
    """The same, refined by blocks."""
    if backend == "cpu":
        return CpuBlockSearch(search, threads)
    from dsin.runtime.codec.side_search_cuda import CudaBlockSearch

    return CudaBlockSearch(search)
