"""The two families of models: how each is exported, restored and run in PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from dsin.export.edge import bundle as edge_bundle
from dsin.export.edge import restore as edge_restore
from dsin.export.paper import bundle as paper_bundle
from dsin.export.paper import restore as paper_restore
from dsin.export.verify import Comparison
from dsin.runtime.codec.bundle import Bundle, FamilyName
from dsin.training.edge.model import EdgeDsin
from dsin.training.paper.model import Dsin

Graphs = Mapping[str, Mapping[str, NDArray[Any]]]
"""Constants of each graph by name."""


class Family(NamedTuple):
    """What differs between the families. Each function takes a model of its own family.

    `export_model` writes a bundle (see `dsin.export.write_bundle`). `restore` fills a model from
    the graphs and tables of a bundle, and raises KeyError, ValueError or RuntimeError for other
    graphs. `x_dec` decodes a latent as the encoder of the runtime yields it, (1, C, h, w), at a
    rate.
    """

    export_model: Callable[..., list[Comparison]]
    restore: Callable[[Any, Graphs, Bundle], None]
    x_dec: Callable[[Any, Tensor, int], Tensor]


def _paper_x_dec(model: Dsin, symbols: Tensor, _rate: int) -> Tensor:
    x_dec: Tensor = model.decoder(model.quantiser.centers[symbols.long()])
    return x_dec


def _edge_x_dec(model: EdgeDsin, y_hat: Tensor, rate: int) -> Tensor:
    x_dec: Tensor = model.decoder(y_hat, torch.tensor([rate]))[0]
    return x_dec


FAMILIES: dict[FamilyName, Family] = {
    "paper": Family(paper_bundle.export_model, paper_restore.restore, _paper_x_dec),
    "edge": Family(edge_bundle.export_edge_model, edge_restore.restore, _edge_x_dec),
}
