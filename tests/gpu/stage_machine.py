"""What this machine is, and whether its driver serves CUDA."""

import os
import platform
import shutil
import subprocess
from importlib import metadata

from stage import Orders, Report, need_gpu, need_torch_on_gpu, run
from visit_layout import bundles

PACKAGES = (
    "torch", "numpy", "numba", "onnxruntime", "onnx", "lightning", "pytest", "hypothesis",
    "cuda-bindings", "nvidia-cuda-nvrtc", "opencv-python-headless", "grpcio", "typer", "mcap",
    "aiohttp", "nvidia-ml-py",
)  # fmt: skip
TOOLS = ("nvcc", "compute-sanitizer", "ncu", "cc")
FIELDS = "name,driver_version,memory.total,compute_cap,clocks.max.sm,power.limit"


def work(orders: Orders, report: Report) -> None:
    import dsin.runtime

    report.check("dsin from the checkout", True, f"version {metadata.version('dsin')}")
    report.facts(
        python=platform.python_version(), kernel=platform.release(), processors=os.cpu_count(),
        packages={name: _version(name) for name in PACKAGES},
        tools=[tool for tool in TOOLS if shutil.which(tool)], bundles=bundles(),
        runtime=str(dsin.runtime.__file__),
    )  # fmt: skip
    report.tell("bundles in this copy", ", ".join(bundles()) or "none")
    if orders.rehearse:
        report.facts(gpu="the emulation")
        report.tell("GPU", "none: a rehearsal")
        return
    gpu, driver, *rest = _nvidia_smi()
    report.facts(gpu=gpu, driver=driver, nvidia_smi=", ".join(rest))
    found = need_gpu(least_gib=2)
    cuda = ".".join(map(str, found.driver_cuda))
    report.check(
        "driver", True, f"{driver}, CUDA {cuda}, {found.free_gib:.1f} of {found.total_gib:.1f} GiB"
    )
    need_torch_on_gpu()
    import torch

    report.facts(gpu=gpu if rest else torch.cuda.get_device_name())
    report.check("PyTorch on the GPU", True, f"{torch.__version__}, cuDNN {_cudnn(torch)}")


def _cudnn(torch: object) -> str:
    return str(torch.backends.cudnn.version())  # type: ignore[attr-defined]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nvidia_smi() -> list[str]:
    """The values of FIELDS for the first GPU; the name alone where the tool is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError):
        return ["unknown: no nvidia-smi", "unknown"]
    return [value.strip() for value in done.stdout.splitlines()[0].split(",")]


if __name__ == "__main__":
    run(work)
