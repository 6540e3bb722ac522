"""What is compiled ahead is what decoding calls, for the same types."""

import gc
import subprocess
import sys
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

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
from dsin.runtime.sources import kernel_parts

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
    for part in kernel_parts.PARTS:
        part()
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


@pytest.mark.parametrize(("kept", "cores"), [(True, 2), (False, 1)])
def test_nothing_is_started_where_it_cannot_help(
    monkeypatch: pytest.MonkeyPatch, kept: bool, cores: int
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was started"))
    monkeypatch.setattr(module, "has_kernels", lambda room: kept)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(cores)))
    with module.compile_ahead() as compile_rest:
        compile_rest(lambda: pytest.fail("it was called"))


class Other:
    """Another process; it runs here when it is waited for."""

    started: ClassVar[list["Other"]] = []
    status = 0

    def __init__(self, command: list[str], stdin: int, **streams: int) -> None:
        assert streams == dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        assert command[:2] == [sys.executable, "-c"]
        self.program = command[2].replace("compile_parts(0)", f"compile_parts({stdin})")
        self.returncode = None
        self.killed = False
        self.started.append(self)

    def __enter__(self) -> "Other":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.killed:
            self.wait()

    def wait(self) -> int:
        if self.returncode is None:
            exec(self.program)
            self.returncode = self.status
        return self.returncode

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is compiled, on a fresh installation and two cores."""
    done: list[str] = []
    monkeypatch.setattr(subprocess, "Popen", Other)
    monkeypatch.setattr(Other, "started", [])
    monkeypatch.setattr(module, "has_kernels", lambda room: room != "patch_correlation")
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    # Else what other tests have left stays for good.
    monkeypatch.setattr(gc, "freeze", lambda: done.append("frozen"))
    parts = [partial(done.append, name) for name in ("search", "flow")]
    monkeypatch.setattr(kernel_parts, "PARTS", tuple(parts))
    return done


@pytest.mark.parametrize(
    ("status", "said"), [(1, ["compiling ahead ended with status 1"] * 2), (0, [])]
)
def test_each_part_is_compiled_once_in_another_process(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    done: list[str],
    status: int,
    said: list[str],
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(Other, "status", status)
    with module.compile_ahead() as compile_rest:
        assert len(Other.started) == 2
        compile_rest(lambda: done.append("entropy"))
        assert done == ["entropy", "search", "flow", "frozen", "frozen"]
    assert [record.getMessage() for record in caplog.records] == said
    assert len(done) == 5


def test_the_others_end_with_an_error_here(done: list[str]) -> None:
    with suppress(KeyError), module.compile_ahead():
        raise KeyError
    assert [other.killed for other in Other.started] == [True, True]
    assert done == []


@pytest.mark.parametrize(("cores", "others"), [(3, 3), (8, 3)])
def test_every_core_has_a_process(
    monkeypatch: pytest.MonkeyPatch, done: list[str], cores: int, others: int
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(cores)))
    with module.compile_ahead():
        assert len(Other.started) == others


def test_the_others_begin_before_numba_is_loaded() -> None:
    program = "import sys, dsin.runtime.sources.compile_ahead; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
