"""One attempt to execute an engine: TensorRT for RTX, if its wheels were carried.

It is made for other chips than those of data centres and may refuse; then what it says is kept.
A rehearsal builds the engine, as far as one comes without a GPU.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from carried_wheels import install
from stage import NotCarriedError, Orders, RefusedError, Report, need_gpu, run
from visit_frames import frames, middle
from visit_layout import bundles

WHEELS = ("tensorrt-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13")
MODULES = ("tensorrt_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
FRAME = (320, 1216)
NEAR = 1.0
"""Largest difference of a latent, in quantiser steps, between engine and CPU."""


def work(orders: Orders, report: Report) -> None:
    if not all(map(find_spec, MODULES)):
        install(orders, *WHEELS)
    if not orders.rehearse:
        need_gpu(least_gib=4)
    if "edge" not in bundles():
        raise NotCarriedError("the bundle edge is not in this copy")
    _lay_out(orders.work / "tensorrt")
    from dsin.runtime.errors import BackendError

    os.environ["DSIN_ENGINES"] = str(orders.work / "engines")
    frame = (64, 128) if orders.rehearse else FRAME
    try:
        _build(report, frame)
        _execute(orders, report, frame)
    except BackendError as error:
        if orders.rehearse:
            report.check("built, and refused without a GPU", True, str(error))
            return
        raise RefusedError(str(error)) from error


def _lay_out(folder: Path) -> None:
    import pytest
    from support import tensorrt_rtx

    folder.mkdir()
    try:
        tensorrt_rtx.lay_out(folder)
    except pytest.skip.Exception as reason:
        raise NotCarriedError(str(reason)) from reason
    sys.path.insert(0, str(folder))


def _build(report: Report, frame: tuple[int, int]) -> None:
    from dsin.export.tensorrt_engine import Options, build_engines
    from dsin.runtime.backends.tensorrt_api import version

    built = build_engines("edge", Options("fp32", frame))
    seconds = sum(engine.seconds for engine in built)
    report.facts(tensorrt=version())
    report.tell("engines", f"{len(built)} built by TensorRT {version()} in {seconds:.1f} s")


def _execute(orders: Orders, report: Report, frame: tuple[int, int]) -> None:
    from dsin.runtime.backends.session import open_session
    from dsin.runtime.codec.bundle import open_bundle
    from dsin.runtime.pictures import to_planes

    path = open_bundle("edge").graph_path("encoder")
    x = to_planes(middle(frames(orders.pack, 1).pairs[0][0], *frame))
    given: dict[str, Any] = {"x": x, "rate": np.array([2], np.int64)}
    engine = open_session(path, "tensorrt")
    found, expected = engine.run(**given), open_session(path).run(**given)
    worst = max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
    report.check("the encoder's engine executes", worst < NEAR, f"largest difference {worst:.3g}")


if __name__ == "__main__":
    run(work)
