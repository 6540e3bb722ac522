"""The two families of models: what is opened for a bundle of each.

paper   one rate, symbols under a causal context model, whole patches of the side image
edge    many rates in one set of weights, a hyperprior, patches refined by flow or by blocks
"""

from collections.abc import Callable
from dataclasses import dataclass

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec import edge, paper
from dsin.runtime.codec.bundle import Bundle, FamilyName
from dsin.runtime.codec.protocols import PictureDecoder, PictureEncoder
from dsin.runtime.codec.side_fusion import PatchFusion, SideFusion, open_edge_fusion


@dataclass(frozen=True)
class Family:
    """What differs between the families. The functions take the bundle, the backend, and how many
    CPU threads are used (None: all); they raise BackendError.

    `open_codecs` opens both halves, as a decoder needs them, with one entropy coder.
    """

    open_encoder: Callable[[Bundle, Backend, int | None], PictureEncoder]
    open_codecs: Callable[[Bundle, Backend, int | None], tuple[PictureEncoder, PictureDecoder]]
    open_fusion: Callable[[Bundle, Backend, int | None], SideFusion]


FAMILIES: dict[FamilyName, Family] = {
    "paper": Family(paper.open_encoder, paper.open_codecs, PatchFusion),
    "edge": Family(edge.open_encoder, edge.open_codecs, open_edge_fusion),
}


def family_of(bundle: Bundle) -> Family:
    """The family of a bundle."""
    return FAMILIES[bundle.family]
