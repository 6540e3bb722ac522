"""How patches find their match, as one value: presets, bundles, graphs and kernels all take it."""

from dataclasses import dataclass

from dsin.runtime.patch_correlation.definition import (
    Image,
    Matches,
    Measure,
    PreparedSide,
    match,
    prepare,
    synthesise,
)


@dataclass(frozen=True)
class SearchOptions:
    """The arguments of the search in `dsin.runtime.patch_correlation.definition`, by their names.

    `patch` is (height, width) in pixels. The defaults are the paper's (section 3.2).
    """

    patch: tuple[int, int] = (20, 24)
    measure: Measure = "pearson"
    prior: bool = True
    stretched: bool = False
    """Matches are resampled from a slightly larger window instead of being copied."""
    off_centre: bool = False
    """The Gaussian prior peaks one pixel right of and below the patch's own place."""
    flow: bool = False
    """Patches are searched at half size, and their matches become a smooth flow and blocks, as
    `dsin.runtime.patch_correlation.side_flow` says; for the edge model only."""

    def prepare(self, y_dec: Image, threads: int | None = None) -> PreparedSide:
        """What depends on y_dec alone. Raises FrameError as `prepare` does."""
        return prepare(y_dec, self.patch, measure=self.measure, threads=threads)

    def match(
        self,
        x_dec: Image,
        y_dec: Image,
        *,
        prepared: PreparedSide | None = None,
        threads: int | None = None,
    ) -> Matches:
        """The best place of every patch. Arguments and errors as for `match`."""
        return match(
            x_dec, y_dec, patch=self.patch, prior=self.prior, measure=self.measure,
            off_centre=self.off_centre, prepared=prepared, threads=threads,
        )  # fmt: skip

    def synthesise(self, y: Image, matches: Matches) -> Image:
        """y_syn, the matched pieces of y put together. Errors as for `synthesise`."""
        return synthesise(y, matches, self.patch, stretched=self.stretched)

    def reason_against_blocks(self) -> str | None:
        """Why a search cannot be refined by blocks, as the edge model's is; None where it can."""
        if self.measure != "pearson":
            return (
                f"measure must be pearson, not {self.measure}, whose scores do not tell whether "
                "the side image shows the scene"
            )
        if self.stretched or self.off_centre:
            return "stretched patches and an off-centre prior are for the paper's model only"
        if self.flow and any(side % 2 for side in self.patch):
            return f"patches of {self.patch[0]}x{self.patch[1]} cannot be halved, as flow needs"
        return None
