"""What all stages of a visit share: their orders, their report, and a GPU that is fit for them.

A stage is a program `stage_<name>.py ORDERS.json` that ends with `run(work)`; `work` is given the
orders and the report. What it raises becomes the stage's one line, and its traceback goes to the
log. Stages that need a GPU submit functions of modules to `machine`, which is this process with its
GPU or, in a rehearsal, a process with the emulated one.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visit_results import write_json

GIB = 1 << 30


class NotCarriedError(Exception):
    """What the stage needs was not brought along: neither passed nor failed."""


class RefusedError(Exception):
    """Software of others does not serve this machine: kept as it is said, no failure of ours."""


class UnfitError(Exception):
    """This machine cannot do what the stage asks; the message says why and what to do."""


@dataclass(frozen=True)
class Orders:
    """What a visit tells a stage; the options of `visit.py`, and where to write."""

    stage: str
    out: Path
    result: Path
    work: Path
    limit_s: float
    rehearse: bool
    preset: str
    pack: Path | None
    start_from: Path | None
    wheels: Path | None

    def write(self, path: Path) -> None:
        write_json(path, {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()})

    @classmethod
    def read(cls, path: Path) -> "Orders":
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in ("out", "result", "work", "pack", "start_from", "wheels"):
            content[name] = None if content[name] is None else Path(content[name])
        return cls(**content)


class Report:
    """Written to the result file after every line, so that a stage that is killed loses nothing."""

    def __init__(self, orders: Orders) -> None:
        self._path = orders.result
        self._content: dict[str, Any] = {
            "stage": orders.stage, "state": "running", "reason": "", "checks": [], "facts": {},
        }  # fmt: skip
        self._write()

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check["name"] for check in self._content["checks"] if check["ok"] is False]

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return sum(check["ok"] is True for check in self._content["checks"])

    def check(self, name: str, ok: bool, value: str = "") -> None:
        """Something that has to hold."""
        self._line(name, bool(ok), value)

    def tell(self, name: str, value: str) -> None:
        """Something measured that cannot fail."""
        self._line(name, None, value)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What raises within fails under that name, and the stage goes on after it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.check(name, False, one_line(error))

    def facts(self, **facts: Any) -> None:
        """Numbers and texts for whoever reads the JSON."""
        self._content["facts"].update(facts)
        self._write()

    def end(self, state: str, reason: str = "") -> None:
        self._content.update(state=state, reason=reason)
        self._write()

    def _line(self, name: str, ok: bool | None, value: str) -> None:
        print(f"{name}: {'' if ok is None else 'ok, ' if ok else 'FAILED, '}{value}")
        self._content["checks"].append({"name": name, "ok": ok, "value": value})
        self._write()

    def _write(self) -> None:
        write_json(self._path, self._content)


def run(work: Callable[[Orders, Report], None]) -> None:
    """The stage's program; ends the process."""
    end_with(os.getppid())
    orders = Orders.read(Path(sys.argv[1]))
    report = Report(orders)
    try:
        work(orders, report)
    except (NotCarriedError, RefusedError) as reason:
        state = "refused" if isinstance(reason, RefusedError) else "not carried"
        report.end(state, one_line(reason))
        sys.exit(0)
    except Exception as error:
        traceback.print_exc()
        report.end("failed", one_line(error))
        sys.exit(1)
    if report.failed:
        report.end("failed", f"{', '.join(report.failed)} failed")
    elif not report.passed:
        report.end("failed", "the stage checked nothing")
    else:
        report.end("passed")
    sys.exit(report.failed != [])


def one_line(error: BaseException) -> str:
    """The message in one line; with the kind of error where it is not one of ours."""
    text = " ".join(str(error).split())[:400]
    ours = type(error).__module__.startswith(("dsin.", __name__))
    return text if ours and text else f"{type(error).__name__}: {text}"


def end_with(parent: int) -> None:
    """End this process group when `parent` is gone: a visit that is killed leaves nothing behind
    on the GPU."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if os.getpgrp() == os.getpid():
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def machine(orders: Orders, least_gib: float = 2.0) -> Iterator[Any]:
    """Where to submit what needs a GPU with so much free memory. Raises UnfitError without one,
    NotCarriedError where a rehearsal lacks the emulation's compiler."""
    if not orders.rehearse:
        need_gpu(least_gib)
        from support.cuda_emulation import InThisProcess

        yield InThisProcess()
        return
    import pytest
    from support.cuda_emulation import worker

    try:
        with worker() as pool:
            yield pool
    except pytest.skip.Exception as reason:
        raise NotCarriedError(str(reason)) from reason


@dataclass(frozen=True)
class Gpu:
    """`driver_cuda` and `compiler_cuda` are what the driver serves and NVRTC makes, such as
    (13, 0)."""

    driver_cuda: tuple[int, int]
    compiler_cuda: tuple[int, int]
    free_gib: float
    total_gib: float


def need_gpu(least_gib: float) -> Gpu:
    """Raises UnfitError where there is no GPU, its driver is too old, or its memory is in use."""
    from dsin.runtime.errors import BackendError

    try:
        found = _gpu()
    except BackendError as error:
        raise UnfitError(f"no GPU to use: {error}") from error
    unfit = unfit_because(found, least_gib)
    if unfit:
        raise UnfitError(unfit)
    return found


def unfit_because(gpu: Gpu, least_gib: float) -> str | None:
    """Why a GPU will not do, in one line."""
    if gpu.driver_cuda[0] < gpu.compiler_cuda[0]:
        versions = ".".join(map(str, gpu.driver_cuda)), ".".join(map(str, gpu.compiler_cuda))
        return (
            f"the driver is too old: it serves CUDA {versions[0]}, and kernels are compiled by "
            f"CUDA {versions[1]}: update the driver, or install an NVRTC of its version"
        )
    if gpu.free_gib < least_gib:
        return (
            f"too little memory: {gpu.free_gib:.1f} of the GPU's {gpu.total_gib:.1f} GiB are "
            f"free, and {least_gib:.1f} are needed: end other programs that use it"
        )
    return None


def need_torch_on_gpu() -> None:
    """Raises UnfitError where PyTorch has no use for the GPU."""
    import torch

    if not torch.cuda.is_available():
        raise UnfitError(
            f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPU: install "
            "one for this driver's CUDA"
        )


def _gpu() -> Gpu:
    from dsin.runtime.gpu import cuda_compiler
    from dsin.runtime.gpu.cuda_driver import checked, chosen_device, cuda_driver

    driver = cuda_driver()
    version = checked(driver.cuDriverGetVersion())[0]
    compiler = cuda_compiler.version().split(".")
    with chosen_device().current():
        free, total = checked(driver.cuMemGetInfo())
    return Gpu(
        (version // 1000, version % 1000 // 10), (int(compiler[0]), int(compiler[1])),
        free / GIB, total / GIB,
    )  # fmt: skip
