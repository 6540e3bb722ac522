"""The package `dsin` itself: what most programs need, loaded at first use.

    from dsin import Decoder, Encoder, open_bundle

`dsin.runtime` offers the same names and every error. In the repository this folder stands for the
package because the others lie at the top level; it is installed as `dsin/__init__.py`.
"""

from typing import TYPE_CHECKING

from dsin.runtime.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dsin.runtime import (
        Decoded,
        Decoder,
        DsinError,
        Encoder,
        Packet,
        RateController,
        match,
        open_bundle,
        shipped_bundles,
    )
    from dsin.runtime.version import __version__

__all__ = [
    "Decoded",
    "Decoder",
    "DsinError",
    "Encoder",
    "Packet",
    "RateController",
    "__version__",
    "match",
    "open_bundle",
    "shipped_bundles",
]

__getattr__, __dir__ = lazy_exports(__name__, dict.fromkeys(__all__, "dsin.runtime"))
