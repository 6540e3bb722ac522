"""Names that a package offers from modules that it loads at first use (PEP 562).

Importing any module of a room runs the room's `__init__`: it should cost nothing, and it must not
import a module that is just being imported.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package; `modules` names the module of each export.

    __getattr__, __dir__ = lazy_exports(__name__, {"Encoder": "dsin.runtime.codec.encoder"})
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *modules})

    return get, names
