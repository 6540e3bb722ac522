"""All ways to run a bundle agree, and a difference is seen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import textured_pair
from onnx import numpy_helper
from typer.testing import CliRunner

from dsin.export.bundle_files import file_table
from dsin.export.cli import app
from dsin.export.verify_backends import HEADER, Check, verify_backends
from dsin.runtime import open_bundle
from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.families import FAMILIES
from dsin.runtime.errors import BackendError, ExportError


def frames() -> list[np.ndarray]:  # type: ignore[type-arg]
    return [view for number in range(2) for view in textured_pair(130, 200, number)]


@pytest.mark.parametrize("kind", ["edge_bundle", "tiny_bundle"])
def test_threads_and_pytorch_agree(kind: str, request: pytest.FixtureRequest) -> None:
    checks = verify_backends(open_bundle(request.getfixturevalue(kind)), frames())
    assert all(checks), "\n".join(map(str, checks))
    seen = {(check.runner, check.what) for check in checks}
    assert {("cpu, 1 thread", what) for what in ("bytes", "symbols", "x_dec", "result")} <= seen
    assert ("torch", "x_dec") in seen


def test_another_decoder_is_noticed(edge_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose pictures are a little brighter, on one thread only."""
    edge = FAMILIES["edge"]

    def brighter(bundle: Bundle, backend: Backend, threads: int | None) -> Any:
        encoder, decoder = edge.open_codecs(bundle, backend, threads)
        if threads == 1:
            reconstruct = decoder.reconstruct
            decoder.reconstruct = lambda *a: reconstruct(*a)._replace(  # type: ignore[method-assign]
                x_dec=reconstruct(*a).x_dec + 4
            )
        return encoder, decoder

    monkeypatch.setitem(FAMILIES, "edge", replace(edge, open_codecs=brighter))
    failed = [c for c in verify_backends(open_bundle(edge_bundle), frames()) if not c]
    assert {(c.runner, c.what) for c in failed} >= {("cpu, 1 thread", "x_dec")}
    assert "DIFFERS" in str(failed[0])


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (Check("torch", "x_dec", 61.23456, 60), "torch        x_dec    ok      61.23 dB (60)"),
        (Check("torch", "result", 50.0, 60), "torch        result   DIFFERS 50 dB (60)"),
        (Check("cpu", "symbols", 0.99, 1), "cpu          symbols  DIFFERS 0.99 (1)"),
    ],
)
def test_a_line_for_each_check(check: Check, line: str) -> None:
    assert str(check) == line


def test_the_table_has_a_header_above_its_columns() -> None:
    assert HEADER.split() == ["runner", "compared", "result", "found", "(at", "least)"]
    short = str(Check("cpu", "bytes", 1.0, 1.0))
    for word, title in (("bytes", "compared"), ("ok", "result"), ("1 ", "found")):
        assert short.index(word) == HEADER.index(title)


def test_weights_that_pytorch_reads_otherwise_are_noticed(
    edge_bundle: Path, tmp_path: Path
) -> None:
    """A graph with a step that its preset does not tell of: PyTorch's picture is another."""
    copy = tmp_path / "copy"
    shutil.copytree(edge_bundle, copy)
    graph = onnx.load(copy / "x_decoder.onnx")
    (white,) = (t for t in graph.graph.initializer if t.name == "white")
    white.CopyFrom(numpy_helper.from_array(np.array(128, np.float32), "white"))
    onnx.save(graph, copy / "x_decoder.onnx")
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").unlink()
    manifest["files"] = file_table(copy)
    (copy / "bundle.json").write_text(json.dumps(manifest))
    failed = [c for c in verify_backends(open_bundle(copy), frames()) if not c]
    assert [(c.runner, c.what) for c in failed] == [("torch", "x_dec")]


def test_nothing_that_is_no_number_passes() -> None:
    assert not Check("cuda", "x_dec", float("nan"), 45.0)
    assert Check("cuda", "bytes", 1.0, 1.0)


def test_the_command(edge_bundle: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(edge_bundle)])
    assert done.exit_code == 0, done.output
    assert "cpu, 1 thread bytes" in done.output
    absent = CliRunner().invoke(app, ["verify", str(edge_bundle), "--backend", "cuda"])
    assert isinstance(absent.exception, BackendError)
    wrong = CliRunner().invoke(app, ["verify", str(edge_bundle), "--backend", "tpu"])
    assert wrong.exit_code == 2
    assert "'tpu' is not one of" in wrong.output


def test_the_command_fails_where_one_comparison_does(
    edge_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check("cpu", "bytes", 1.0, 1.0), Check("torch", "x_dec", 30.0, 45.0)]
    monkeypatch.setattr("dsin.export.calibration_frames.synthetic_pictures", list)
    monkeypatch.setattr(
        "dsin.export.verify_backends.verify_backends", lambda bundle, frames, *, wanted: checks
    )
    done = CliRunner().invoke(app, ["verify", str(edge_bundle)])
    assert isinstance(done.exception, ExportError)
    assert str(done.exception) == "1 of 2 comparisons failed: see above"
    assert done.output.splitlines() == [HEADER, *map(str, checks)]


def test_a_single_frame_is_refused(edge_bundle: Path) -> None:
    with pytest.raises(ExportError, match="pair of frames"):
        verify_backends(open_bundle(edge_bundle), frames()[:1])
