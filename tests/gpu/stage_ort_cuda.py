"""The backend `cuda`: onnxruntime-gpu, if its wheel was carried, codes as the CPU does.

A rehearsal runs a test of the backend on the stand-in for the driver.
"""

import statistics
import time
from typing import Any

from carried_wheels import install
from stage import NotCarriedError, Orders, Report, need_gpu, need_torch_on_gpu, run
from stage_codec import psnr_db
from suite import run_tests
from visit_frames import frames
from visit_layout import bundles

TESTS = "runtime/backends/test_backend_ort_cuda.py"
FRAMES = 5
LEAST_DB = 35.0
"""PSNR between pictures of the two machines from equal bytes."""


def work(orders: Orders, report: Report) -> None:
    if orders.rehearse:
        run_tests(orders, report, [TESTS], rehearsed="cuda_is_asked_for", machine=None)
        return
    install(orders, "onnxruntime-gpu")
    need_gpu(least_gib=4)
    # Brings cuDNN and cuBLAS into the process, where onnxruntime finds them.
    need_torch_on_gpu()
    import onnxruntime

    report.facts(onnxruntime=onnxruntime.__version__)
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    _shipped(orders, report)
    test = f"{TESTS}::test_the_gpu_codes_and_decodes_as_the_cpu_does"
    run_tests(orders, report, [test], rehearsed="", machine=None, several=False)


def _shipped(orders: Orders, report: Report) -> None:
    """The shipped weights on both backends: each decodes what the other made."""
    from dsin.runtime import Decoder, Encoder

    if "edge" not in bundles():
        raise NotCarriedError("the bundle edge is not in this copy")
    found = frames(orders.pack, FRAMES)
    packets: dict[str, list[Any]] = {}
    for backend in ("cpu", "cuda"):
        with Encoder("edge@float", backend) as encoder:
            encoder.encode(found.pairs[0][0])
            packets[backend] = _timed(report, f"{backend}: encoding", found.pairs, encoder.encode)
    with Decoder("edge@float", "cpu") as on_cpu, Decoder("edge", "cuda") as on_gpu:
        on_gpu.decode(packets["cpu"][0], found.pairs[0][1])
        for maker, made in packets.items():
            jobs = list(zip(made, (y for _, y in found.pairs), strict=True))
            pictures = {
                name: [
                    decoded.image
                    for decoded in _timed(
                        report, f"{name}: decoding what {maker} made", jobs, decoder.decode, 2
                    )
                ]
                for name, decoder in (("cpu", on_cpu), ("cuda", on_gpu))
            }
            worst = min(map(psnr_db, pictures["cpu"], pictures["cuda"]))
            report.check(
                f"packets of {maker} decode alike", worst > LEAST_DB, f"at least {worst:.1f} dB"
            )


def _timed(report: Report, what: str, jobs: Any, call: Any, arguments: int = 1) -> list[Any]:
    made, took = [], []
    for job in jobs:
        began = time.perf_counter()
        made.append(call(*job[:arguments]))
        took.append(1000 * (time.perf_counter() - began))
    report.tell(what, f"{statistics.median(took):.1f} ms")
    return made


if __name__ == "__main__":
    run(work)
