"""What the side image adds: search, and a network that merges what was found with x_dec.

    paper   x_dec, y_dec ─► search ─► y_syn ─► fusion(x_dec, y_syn)
    edge    x_dec, y_dec ─► search ─► refinement by blocks ─► y_syn, y_dec_syn, cost
            ─► fusion(x_dec, features, y_syn, y_dec_syn, cost, rate)

y_dec_syn is y_dec put together like y_syn: with it the network sees what coding took from y.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dsin.runtime.backend import Backend, open_session
from dsin.runtime.block_refinement import BLOCK, side_planes
from dsin.runtime.bundle import Bundle
from dsin.runtime.codecs import Reconstruction
from dsin.runtime.hyper_codec import HyperTables
from dsin.runtime.patch_correlation import Matches, PreparedSide
from dsin.runtime.pictures import Image, from_planes, pad, padded_size, to_planes, to_uint8
from dsin.runtime.side_search import open_search
from dsin.runtime.stopwatch import Stopwatch

LEAST_SCORE = 0.945
"""Median score of the patches below which the side image is of another scene. On training pairs
the median is 0.96 and more, and with another scene's picture 0.69 to 0.95."""


@dataclass(frozen=True)
class Side:
    """The side image, uint8 H×W×3, and itself as decoded, of one size; `prepared` is None on a
    backend that prepares nothing."""

    y: Image
    y_dec: npt.NDArray[Any]
    prepared: PreparedSide | None


class Fused(NamedTuple):
    """x_hat and y_syn, H×W×3 in 0..255, and the positions that the search found. Where the side
    image does not show the scene, `related` is false and x_hat is x_dec."""

    x_hat: npt.NDArray[Any]
    y_syn: npt.NDArray[Any]
    matches: Matches
    related: bool


class SideFusion(Protocol):
    """Made for one bundle. `watch` gets the stages search and fusion."""

    def prepare(self, image: Image, decoded: Reconstruction) -> Side:
        """What depends on the side image alone."""

    def fuse(
        self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch
    ) -> Fused:  # fmt: skip
        """Merge a picture with the side image."""


def open_side_fusion(bundle: Bundle, backend: Backend, threads: int | None) -> SideFusion:
    """The way of a bundle. Raises BackendError."""
    kind = BlockFusion if isinstance(bundle.entropy, HyperTables) else PatchFusion
    return kind(bundle, backend, threads)


class PatchFusion:
    """The paper's: whole patches."""

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None) -> None:
        self._multiple = bundle.frame_multiple
        self._session = open_session(bundle.graph_path("fusion"), backend, threads=threads)
        self._search = open_search(bundle.search, backend, threads)

    def prepare(self, image: Image, decoded: Reconstruction) -> Side:
        y_dec = from_planes(decoded.x_dec)
        return Side(pad(image, self._multiple), y_dec, self._search.prepare(y_dec))

    def fuse(self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch) -> Fused:
        with watch.stage("search"):
            matches, y_syn = self._search.find(
                from_planes(decoded.x_dec), side.y_dec, side.y, side.prepared
            )
        with watch.stage("fusion"):
            x_hat = self._session.run(x_dec=decoded.x_dec, y_syn=to_planes(y_syn))["x_hat"]
        return Fused(from_planes(x_hat), y_syn, matches, related=True)


class BlockFusion:
    """The `edge` codec's. It works on the picture without most of its padding: to whole blocks
    only, and at least one patch."""

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None) -> None:
        self._patch = bundle.search.patch
        rows, columns = self._patch
        self._least = padded_size(rows, columns, (BLOCK, BLOCK))
        self._session = open_session(bundle.graph_path("fusion"), backend, threads=threads)
        self._search = open_search(bundle.search, backend, threads)

    def prepare(self, image: Image, decoded: Reconstruction) -> Side:
        whole = padded_size(image.shape[0], image.shape[1], (BLOCK, BLOCK))
        size = max(whole[0], self._least[0]), max(whole[1], self._least[1])
        y_dec = to_uint8(from_planes(decoded.x_dec), size, truncate=False)
        return Side(pad(image, size), y_dec, self._search.prepare(y_dec))

    def fuse(self, decoded: Reconstruction, side: Side, rate: int, watch: Stopwatch) -> Fused:
        rows, columns = side.y.shape[:2]
        planes = np.ascontiguousarray(decoded.x_dec[:, :, :rows, :columns])
        assert decoded.features is not None
        features = decoded.features[:, :, : rows // BLOCK, : columns // BLOCK]
        with watch.stage("search"):
            x_dec = to_uint8(from_planes(planes), (rows, columns), truncate=False)
            matches = self._search.positions(x_dec, side.y_dec, side.prepared)
            found = side_planes(x_dec, side.y_dec, side.y, matches, self._patch)
        y_syn = from_planes(found.y_syn)
        if float(np.median(matches.score)) < LEAST_SCORE:
            return Fused(x_dec, y_syn, matches, related=False)
        with watch.stage("fusion"):
            x_hat = self._session.run(
                x_dec=planes, features=np.ascontiguousarray(features),
                rate=np.array([rate], np.int64), **found._asdict(),
            )["x_hat"]  # fmt: skip
        return Fused(from_planes(x_hat), y_syn, matches, related=True)
