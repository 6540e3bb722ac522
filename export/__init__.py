"""From checkpoints to bundles and back: ONNX graphs, 8 bits, TensorRT engines.

from dsin.export import load_model

model = load_model("edge")  # the shipped weights as a torch module
picture, bits = model(x, y, rate=3)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsin.export.restore import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # Loaded at first use (PEP 562): the command line starts without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("dsin.export.restore"), name)
