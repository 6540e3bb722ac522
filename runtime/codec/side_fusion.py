"""What the side image adds: search, and a network that merges what was found with x_dec.

    paper   x_dec, y_dec ─► search ─► y_syn ─► fusion(x_dec, y_syn)
    edge    x_dec, y ─► search ─► flow, blocks ─► y_flow, y_blocks, doubt
            ─► fusion(x_dec, features, y_flow, y_blocks, doubt, rate)
    or      x_dec, y_dec ─► search ─► refinement by blocks ─► y_syn, y_dec_syn, cost
            ─► fusion(x_dec, features, y_syn, y_dec_syn, cost, rate)

y_dec_syn is y_dec put together like y_syn: with it the network sees what coding took from y.
"""

from typing import NamedTuple, Protocol

import numpy as np

from dsin.runtime.backends.session import Backend, open_session
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.layouts import as_levels, cut, for_network, size_of
from dsin.runtime.codec.protocols import Reconstruction
from dsin.runtime.codec.side_search import (
    FlowSearch,
    Prepared,
    open_block_search,
    open_patch_search,
)
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.patch_correlation import Matches
from dsin.runtime.patch_correlation.block_refinement import BLOCK
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.side_flow import LEAST_SIDE
from dsin.runtime.pictures import Image, pad, padded_size
from dsin.runtime.stopwatch import Stopwatch

LEAST_SCORE = 0.945
"""Median score of the patches below which the side image is of another scene. On training pairs
the median is 0.96 and more, and with another scene's picture 0.69 to 0.95."""

LEAST_SHOWN = 0.15
"""Share of blocks below which a side image searched by flow is of another scene. So 4 % of true
ones, mostly of other cameras at the lowest rate, are refused, and 5 % of others taken, by
`tests/benchmarks/side_decision.py`. Taking one costs a few hundredths of a decibel, since the
fusion leaves alone what does not match; refusing one costs what it would have given."""


SHOWN_MARGIN = 0.05
"""Within a stream a decision stands until the share is so far beyond LEAST_SHOWN."""


class Fused(NamedTuple):
    """x_hat, y_syn and x_dec, as networks have pictures, and the positions that the search found.
    Where the side image does not show the scene, `related` is false and x_hat is x_dec."""

    x_hat: Tensor
    y_syn: Tensor
    x_dec: Tensor
    """In whole levels where the search takes it so."""
    matches: Matches
    related: bool


class Side(NamedTuple):
    """A side image of the (height, width) that the fusion works on, as the search prepared it."""

    size: tuple[int, int]
    prepared: Prepared
    related_before: bool | None = None
    """What was decided of the side image before it in the same stream, if there was one."""


class SideFusion(Protocol):
    """Made for one bundle. `watch` gets the stages search and fusion.

    `decodes_side` tells whether it needs the side image encoded and decoded, and
    `side_depends_on_rate` whether a side image is prepared for one rate or for all of them.
    """

    decodes_side: bool
    side_depends_on_rate: bool

    def prepare(self, image: Image, decoded: Reconstruction | None) -> Side:
        """What depends on the side image alone."""

    def fuse(self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch) -> Fused:
        """Merge a picture with the side image."""


class PatchFusion:
    """The paper's: whole patches."""

    decodes_side, side_depends_on_rate = True, False

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None) -> None:
        self._multiple = bundle.frame_multiple
        self._session = open_session(bundle.graph_path("fusion"), backend, threads=threads)
        self._search = open_patch_search(bundle.search, backend, threads)

    def prepare(self, image: Image, decoded: Reconstruction | None) -> Side:
        assert decoded is not None
        y = pad(image, self._multiple)
        return Side(y.shape[:2], self._search.prepare(y, decoded.x_dec))

    def fuse(self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch) -> Fused:
        with watch.stage("search"):
            matches, planes, _ = self._search.find(decoded.x_dec, side.prepared)
        with watch.stage("fusion"):
            x_hat = self._session.keep(x_dec=decoded.x_dec, **planes)["x_hat"]
        return Fused(x_hat, planes["y_syn"], decoded.x_dec, matches, related=True)


class BlockFusion:
    """The `edge` codec's with blocks alone. It works on the picture without most of its padding: to
    whole blocks only, and at least one patch."""

    decodes_side, side_depends_on_rate = True, True

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None) -> None:
        self._network = _EdgeNetwork(bundle, backend, threads)
        self._least = least_size(bundle.search)
        self._search = open_block_search(bundle.search, backend, threads)

    def prepare(self, image: Image, decoded: Reconstruction | None) -> Side:
        assert decoded is not None
        size = _whole_blocks(image, self._least)
        return Side(size, self._search.prepare(pad(image, size), cut(decoded.x_dec, *size)))

    def fuse(self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch) -> Fused:
        x_dec = cut(decoded.x_dec, *side.size)
        with watch.stage("search"):
            matches, planes, _ = self._search.find(x_dec, side.prepared)
        if float(np.median(matches.score)) < LEAST_SCORE:
            return Fused(x_dec, planes["y_syn"], x_dec, matches, related=False)
        with watch.stage("fusion"):
            x_hat = self._network.merge(x_dec, decoded, planes, rate)
        return Fused(x_hat, planes["y_syn"], x_dec, matches, related=True)


class FlowFusion:
    """The `edge` codec's with flow, on whole blocks too."""

    decodes_side, side_depends_on_rate = False, False

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None) -> None:
        self._network = _EdgeNetwork(bundle, backend, threads)
        self._least = least_size(bundle.search)
        self._search = FlowSearch(bundle.search, threads)
        self._truncates = bundle.truncate_to_uint8

    def prepare(self, image: Image, decoded: Reconstruction | None) -> Side:
        size = _whole_blocks(image, self._least)
        return Side(size, self._search.prepare(pad(image, size)))

    def fuse(self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch) -> Fused:
        x_dec = cut(decoded.x_dec, *side.size)
        with watch.stage("search"):
            levels = as_levels(x_dec)
            matches, planes, shown = self._search.find(levels, side.prepared)
        assert shown is not None
        seen = x_dec if self._truncates else levels  # which are rounded
        if shown < least_shown(side.related_before):
            return Fused(x_dec, planes["y_flow"], seen, matches, related=False)
        with watch.stage("fusion"):
            x_hat = self._network.merge(x_dec, decoded, planes, rate)
        return Fused(x_hat, planes["y_flow"], seen, matches, related=True)


class _EdgeNetwork:
    """The fusion graph of a bundle of the `edge` family."""

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None) -> None:
        self._takes_levels = bundle.has_level_pictures
        self._session = open_session(bundle.graph_path("fusion"), backend, threads=threads)

    def merge(
        self, x_dec: Tensor, decoded: Reconstruction, planes: dict[str, Tensor], rate: int
    ) -> Tensor:
        """x_hat of x_dec's size."""
        assert decoded.features is not None
        rows, columns = size_of(x_dec)
        features = cut(decoded.features, rows // BLOCK, columns // BLOCK)
        return self._session.keep(
            x_dec=x_dec, features=features, rate=np.array([rate], np.int64),
            **for_network(planes, levels=self._takes_levels),
        )["x_hat"]  # fmt: skip


def open_edge_fusion(bundle: Bundle, backend: Backend, threads: int | None) -> SideFusion:
    """That of a bundle of the `edge` family. Raises BackendError."""
    kind = FlowFusion if bundle.search.flow else BlockFusion
    return kind(bundle, backend, threads)


def least_shown(related_before: bool | None) -> float:
    """Share of blocks below which a side image is of another scene, after what was decided of the
    one before it."""
    if related_before is None:
        return LEAST_SHOWN
    return LEAST_SHOWN - SHOWN_MARGIN if related_before else LEAST_SHOWN + SHOWN_MARGIN


def least_size(search: SearchOptions) -> tuple[int, int]:
    """Height and width that the `edge` fusion works on at least: smaller pictures are padded."""
    if search.flow:
        return LEAST_SIDE, LEAST_SIDE
    return padded_size(*search.patch, (BLOCK, BLOCK))


def _whole_blocks(image: Image, least: tuple[int, int]) -> tuple[int, int]:
    rows, columns = padded_size(image.shape[0], image.shape[1], (BLOCK, BLOCK))
    return max(rows, least[0]), max(columns, least[1])
