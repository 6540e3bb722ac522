"""A plugin of pytest: of the tests that run on a machine, those on the one that is asked for.

`pytest -p select_machine` with $DSIN_TEST_MACHINE being GPU or emulated keeps the tests that are
parametrised with it, as `machine` or `device`.
"""

import os

import pytest

VARIABLE = "DSIN_TEST_MACHINE"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = os.environ[VARIABLE]
    kept = [item for item in items if _machine(item) == wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _machine(item: pytest.Item) -> object:
    call = getattr(item, "callspec", None)
    parameters = {} if call is None else call.params
    return parameters.get("machine", parameters.get("device"))
