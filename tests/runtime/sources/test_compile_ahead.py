"""What is compiled ahead is what decoding calls, for the same types."""

import gc
import subprocess
from contextlib import suppress
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.compiled import quick_compilation
from dsin.runtime.entropy import hyper_kernels, integer_coder, network_kernels, rans
from dsin.runtime.patch_correlation import block_refinement, flow_kernels, patch_kernels
from dsin.runtime.patch_correlation.side_flow import find_side_views, prepare_flow_side
from dsin.runtime.sources import compile_ahead as module

SEARCH = (flow_kernels, block_refinement, patch_kernels)
ENTROPY = (hyper_kernels, integer_coder, network_kernels, rans)


def specialisations(
    *modules: ModuleType,
) -> dict[str, list[Any]]:
    """Of each kernel of these modules, the types that it is compiled for."""
    return {
        f"{part.__name__}.{name}": list(found.signatures)
        for part in modules
        for name, found in vars(part).items()
        if isinstance(found, numba.core.dispatcher.Dispatcher)
    }


def test_decoding_compiles_nothing_more() -> None:
    module.compile_search()
    module.compile_flow()
    before = specialisations(*SEARCH)
    assert all(before[f"{flow_kernels.__name__}.{name}"] for name in ("search_all", "places"))
    search = open_bundle().search
    x, y = np.random.default_rng(0).integers(0, 256, (2, 160, 192, 3), np.uint8)
    find_side_views(x, prepare_flow_side(y, search), search)
    assert specialisations(*SEARCH) == before


def test_the_entropy_coder_compiles_nothing_more() -> None:
    """After one picture of any size and rate, which is what is given to be compiled with."""
    small, large = (
        np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        for size in ((64, 64), (160, 192))
    )
    with Encoder() as encoder, Decoder() as decoder:
        decoder.decode(encoder.encode(small), None)
        before = specialisations(*ENTROPY)
        assert any(before.values())
        decoder.decode(encoder.encode(large, 0), None)
    assert specialisations(*ENTROPY) == before


@pytest.mark.parametrize("chosen", [None, "2"])
def test_compilation_is_quick_within_and_as_it_was_after(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.delenv("NUMBA_OPT", raising=False)
    if chosen is not None:
        monkeypatch.setenv("NUMBA_OPT", chosen)
    level = numba.config.OPT
    with suppress(KeyError), quick_compilation():
        assert not gc.isenabled()
        assert (1 if chosen is None else level) == numba.config.OPT
        raise KeyError
    assert gc.isenabled()
    assert numba.config.OPT is level


def test_nothing_is_started_where_kernels_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was started"))
    monkeypatch.setattr(module, "compile_search", lambda: calls.append("search"))
    monkeypatch.setattr(module, "has_kernels", lambda: True)
    module.compile_ahead(lambda: calls.append("entropy"))
    monkeypatch.setattr(module, "has_kernels", lambda: False)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0})
    module.compile_ahead(lambda: calls.append("entropy"))
    assert calls == []


@pytest.mark.parametrize(
    ("status", "said"), [(1, ["compiling ahead ended with status 1"]), (0, [])]
)
def test_the_other_half_is_compiled_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int, said: list[str]
) -> None:
    commands: list[list[str]] = []
    caplog.set_level("INFO")

    class Other:
        returncode = status

        def __init__(self, command: list[str], **streams: int) -> None:
            assert streams == dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            commands.append(command)

        def __enter__(self) -> "Other":
            return self

        def __exit__(self, *_: object) -> None: ...

    here: list[str] = []
    monkeypatch.setattr(subprocess, "Popen", Other)
    monkeypatch.setattr(module, "compile_search", lambda: here.append("search"))
    monkeypatch.setattr(module, "has_kernels", lambda: False)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    module.compile_ahead(lambda: here.append("entropy"))
    assert here == ["search", "entropy"]
    assert [record.getMessage() for record in caplog.records] == said
    (command,) = commands
    monkeypatch.setattr(module, "compile_flow", lambda: here.append("flow"))
    exec(command[2])
    assert here == ["search", "entropy", "flow"]
