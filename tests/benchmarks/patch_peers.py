"""Other ways to the same positions, for the benchmark of the search.

All find the best of every position for every patch, each with the product of patch and windows as
its library computes it; norms, prior and maximum are the same for all.
"""

import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import onnxruntime as ort
import torch
from patch_inputs import Case, Image

from dsin.export.patch_correlation_op import standalone
from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.cuda_driver import Device, Memory
from dsin.runtime.patch_correlation import definition as pc
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda import (
    CudaPatchCorrelation,
    PatchCorrelationKernel,
    workspace_bytes,
)
from dsin.training.paper.si_finder import SideInformationFinder

Positions = tuple[Image, Image]
PATCH = (20, 24)


def peers() -> dict[str, Callable[[Case], Positions]]:
    """Name and search of each."""
    return {
        "cv2.matchTemplate": template_matching,
        "FFT correlation": fft_correlation,
        "ONNX body, onnxruntime": onnx_body,
    }


def cuda() -> "Cuda | None":
    """The search on a GPU, if there is one."""
    try:
        return Cuda()
    except BackendError as error:
        print(f"without a GPU: {error}")
        return None


class Cuda:
    """Positions by the CUDA kernels, and their time alone."""

    def __init__(self) -> None:
        self._correlate = CudaPatchCorrelation()

    def search(self, case: Case) -> Positions:
        """With the copies to the GPU and back."""
        found = self._correlate(case.x, case.y, case.y, prior=case.prior)[1]
        return found.row, found.col

    def kernel_ms(self, case: Case, launches: int = 50) -> float:
        """Mean of many launches in a row, on pictures that are on the GPU."""
        device, (height, width) = Device(0), case.x.shape[:2]
        kernel, patches = PatchCorrelationKernel(device), -(-height // 20) * -(-width // 24)
        with device.current():
            views = [np.ascontiguousarray(v.transpose(2, 0, 1)) for v in (case.x, case.y, case.y)]
            images = [Memory(device, view.nbytes) for view in views]
            for memory, view in zip(images, views, strict=True):
                memory.upload(view)
            sizes = [images[2].size, *[4 * patches] * 3, workspace_bytes(1, height, width, PATCH)]
            outputs = [Memory(device, size) for size in sizes]
            names = ("x_dec", "y_dec", "y", "y_syn", "row", "col", "score", "workspace")
            pointers = {n: m.address for n, m in zip(names, images + outputs, strict=True)}

            def launch() -> None:
                kernel.launch(
                    **pointers, batch=1, height=height, width=width, half=False, stream=0,
                    search=SearchOptions(PATCH, prior=case.prior),
                )  # fmt: skip

            launch()
            outputs[1].download((patches,), np.int32)
            start = time.perf_counter()
            for _ in range(launches):
                launch()
            outputs[1].download((patches,), np.int32)
            return 1000 * (time.perf_counter() - start) / launches


def brute_force(case: Case) -> Positions:
    """The tuned convolution in PyTorch, in float32."""
    finder = SideInformationFinder(SearchOptions(prior=case.prior))
    found = finder.brute_force(_planes(case.x), _planes(case.y))
    return found.row[0].numpy(), found.col[0].numpy()


def template_matching(case: Case) -> Positions:
    """OpenCV's template matching, one patch after the other, over the whole picture."""
    image = pc.to_h_space(case.y).astype(np.float32)
    return _best(case, image, lambda patch: cv2.matchTemplate(image, patch, cv2.TM_CCORR))


def fft_correlation(case: Case) -> Positions:
    """Products by the Fourier transform: one of the picture, two for each patch (PyTorch's)."""
    image = pc.to_h_space(case.y).astype(np.float32)
    height, width = image.shape[:2]
    shape = (_smooth(height), _smooth(width))
    spectrum = torch.fft.rfft2(torch.from_numpy(image.transpose(2, 0, 1).copy()), shape)

    def product(patch: Image) -> Image:
        own = torch.fft.rfft2(torch.from_numpy(patch.transpose(2, 0, 1).copy()), shape)
        both = torch.fft.irfft2((spectrum * own.conj()).sum(0), shape).numpy()
        windows: Image = both[: height - PATCH[0] + 1, : width - PATCH[1] + 1]
        return windows

    return _best(case, image, product)


def _smooth(length: int) -> int:
    """The next length without a prime factor above 5, which the transform is fast for."""
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return length if rest == 1 else _smooth(length + 1)


_SESSIONS: dict[bool, ort.InferenceSession] = {}


def onnx_body(case: Case) -> Positions:
    """The node's portable body in stock onnxruntime."""
    if case.prior not in _SESSIONS:
        model = standalone(SearchOptions(prior=case.prior)).SerializeToString()
        _SESSIONS[case.prior] = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    x, y = (image.transpose(2, 0, 1)[None] for image in case[:2])
    row, col = _SESSIONS[case.prior].run(["row", "col"], {"x_dec": x, "y_dec": y, "y": y})
    return row[0], col[0]


def _best(case: Case, image: Image, product: Callable[[Image], Image]) -> Positions:
    """The first best window of every patch; `product` correlates a unit patch with the image."""
    inverse = _inverse_norms(image)
    size = case.x.shape[:2]
    down, across = pc.prior_weights(size, PATCH)
    row, col = np.zeros((2, len(down), len(across)), np.int32)
    for i, j, patch in _unit_patches(case.x):
        score = product(patch) * inverse
        if case.prior:
            score *= (down[i][:, None] * across[j]).astype(np.float32)
        row[i, j], col[i, j] = np.unravel_index(score.argmax(), score.shape)
    return row, col


def _unit_patches(x: Image) -> Iterator[tuple[int, int, Image]]:
    """Patch row, patch column and the patch, centred and of norm 1, float32 (20, 24, 3)."""
    columns = x.shape[1] // PATCH[1]
    patches = pc.unit(pc.cut(pc.to_h_space(x), PATCH)).reshape(-1, 3, *PATCH)
    for n, patch in enumerate(patches.transpose(0, 2, 3, 1).astype(np.float32)):
        yield n // columns, n % columns, np.ascontiguousarray(patch)


def _inverse_norms(image: Image) -> Image:
    """1 / norm of every centred window, float32 (rows, columns)."""
    count = 3 * PATCH[0] * PATCH[1]
    planes = np.stack([image.sum(2), np.square(image).sum(2)], 2).astype(np.float64)
    sums = cv2.boxFilter(planes, -1, PATCH[::-1], anchor=(0, 0), normalize=False)
    sums = sums[: image.shape[0] - PATCH[0] + 1, : image.shape[1] - PATCH[1] + 1]
    norm = np.sqrt(np.maximum(sums[..., 1] - sums[..., 0] ** 2 / count, pc.NO_VARIANCE**2))
    inverse: Image = (1 / norm).astype(np.float32)
    return inverse


def _planes(image: Image) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
