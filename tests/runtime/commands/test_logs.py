"""What commands say of themselves, and what they leave to libraries."""

import os

import pytest

from dsin.runtime import caches, compiled
from dsin.runtime.commands import cli_streaming
from dsin.runtime.commands import serve as serve_module
from dsin.runtime.errors import StreamError


@pytest.mark.parametrize("kept", [True, False])
def test_compiling_is_told_of_the_first_time_only(
    monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    def fail(*_: object) -> None:
        raise StreamError("enough")

    monkeypatch.setattr(serve_module, "running_server", fail)
    monkeypatch.setattr(serve_module, "has_kernels", lambda room: kept)
    monkeypatch.setattr(serve_module, "on_ending", lambda call: None)
    said: list[str] = []
    with pytest.raises(StreamError, match="enough"):
        serve_module.serve(serve_module.ServeOptions("127.0.0.1:0"), said.append)
    assert said == (
        [] if kept else ["starting for the first time here: compiling takes about a minute"]
    )


def test_kernels_that_are_kept_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
    assert not caches.has_kernels()
    folder = caches.own_kernels() / "entropy"
    folder.mkdir(parents=True)
    (folder / "rans.push_all-42.py311.nbi").touch()
    assert caches.has_kernels()
    assert caches.has_kernels("entropy")
    assert not caches.has_kernels("patch_correlation"), "what encoded has not searched"


def test_numba_keeps_kernels_where_they_are_looked_for() -> None:
    assert str(caches.own_kernels()) == compiled.numba.config.CACHE_DIR


@pytest.mark.parametrize(("verbose", "expected"), [(False, "NONE"), (True, None)])
def test_grpcs_raw_lines_are_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, verbose: bool, expected: str | None
) -> None:
    """Both commands set their logs up so: a wrong certificate is a line of gRPC each second."""
    monkeypatch.setenv("GRPC_VERBOSITY", "")
    monkeypatch.delenv("GRPC_VERBOSITY")
    cli_streaming._set_up_logs(verbose)
    assert os.environ.get("GRPC_VERBOSITY") == expected
