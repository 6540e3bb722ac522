"""The decoder's search on the backend it was opened with: the same positions on each."""

from typing import Any, Protocol

import numpy.typing as npt

from dsin.runtime.backend import Backend
from dsin.runtime.bundle import SearchOptions
from dsin.runtime.patch_correlation import Image, Matches, PreparedSide, match, prepare, synthesise


class SideSearch(Protocol):
    """Finds the pieces of y that look like x_dec, as a bundle's search settings say."""

    def prepare(self, y_dec: Image) -> PreparedSide | None:
        """What can be done before x_dec is there; None where nothing is worth it."""

    def positions(self, x_dec: Image, y_dec: Image, prepared: PreparedSide | None) -> Matches:
        """Positions in y_dec; both images H×W×3."""

    def find(
        self, x_dec: Image, y_dec: Image, y: Image, prepared: PreparedSide | None
    ) -> tuple[Matches, npt.NDArray[Any]]:
        """As `positions`, and y_syn made of the pieces of y there."""


class CpuSearch:
    """`match` and `synthesise` on `threads` threads (None: one per core)."""

    def __init__(self, search: SearchOptions, threads: int | None) -> None:
        self._search = search
        self._threads = threads

    def prepare(self, y_dec: Image) -> PreparedSide:
        search = self._search
        return prepare(y_dec, search.patch, measure=search.measure, threads=self._threads)

    def positions(self, x_dec: Image, y_dec: Image, prepared: PreparedSide | None) -> Matches:
        search = self._search
        return match(
            x_dec, y_dec, patch=search.patch, prior=search.prior, measure=search.measure,
            off_centre=search.off_centre_prior, prepared=prepared, threads=self._threads,
        )  # fmt: skip

    def find(
        self, x_dec: Image, y_dec: Image, y: Image, prepared: PreparedSide | None
    ) -> tuple[Matches, npt.NDArray[Any]]:
        matches = self.positions(x_dec, y_dec, prepared)
        stretched = self._search.stretched_patches
        return matches, synthesise(y, matches, self._search.patch, stretched=stretched)


class CudaSearch:
    """The CUDA kernel, which needs no preparation: it does the whole in less than a copy takes."""

    def __init__(self, search: SearchOptions) -> None:
        from dsin.runtime.patch_cuda import CudaPatchCorrelation

        self._search = search
        self._correlate = CudaPatchCorrelation()

    def prepare(self, y_dec: Image) -> None:
        return None

    def positions(self, x_dec: Image, y_dec: Image, prepared: PreparedSide | None) -> Matches:
        return self.find(x_dec, y_dec, y_dec, prepared)[0]

    def find(
        self, x_dec: Image, y_dec: Image, y: Image, prepared: PreparedSide | None
    ) -> tuple[Matches, npt.NDArray[Any]]:
        search = self._search
        y_syn, matches = self._correlate(
            x_dec, y_dec, y, patch=search.patch, prior=search.prior, measure=search.measure,
            off_centre=search.off_centre_prior, stretched=search.stretched_patches,
        )  # fmt: skip
        return matches, y_syn


def open_search(search: SearchOptions, backend: Backend, threads: int | None) -> SideSearch:
    """The search of one bundle on one backend.

    Raises BackendError where the backend is asked for and absent.
    """
    return CpuSearch(search, threads) if backend == "cpu" else CudaSearch(search)
