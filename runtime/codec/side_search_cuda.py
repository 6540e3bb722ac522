"""The decoder's search on a GPU, from tensors there to tensors there.

    x_dec, y_dec, y ─► kernels of `patch_*.cu` ─► positions, y_syn
    and with blocks: rounded first; positions ─► kernels of `block_refinement.cu`
                     ─► y_syn, y_dec_syn, cost

Only the positions and scores of the patches go to the host. All is exact, so that what is found is
what the CPU finds (`dsin.runtime.codec.side_search`). One stream for each search.
"""

import threading
from typing import NamedTuple

import numpy as np

from dsin.runtime.codec.side_search import Found
from dsin.runtime.gpu.cuda_driver import Stream, chosen_device
from dsin.runtime.gpu.device_tensor import DeviceTensor, Tensor, on_device
from dsin.runtime.patch_correlation.block_cuda import BlockKernels
from dsin.runtime.patch_correlation.definition import Image, Matches
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda import PatchCorrelationKernel, workspace_bytes
from dsin.runtime.pictures import to_planes


class _Side(NamedTuple):
    """The side image and itself as decoded, (1, 3, H, W)."""

    y: DeviceTensor
    y_dec: DeviceTensor


class _Pieces(NamedTuple):
    """What the search writes: y_syn (1, 3, H, W), the rest (patch rows, patch columns)."""

    y_syn: DeviceTensor
    row: DeviceTensor
    col: DeviceTensor
    score: DeviceTensor

    def matches(self) -> Matches:
        return Matches(self.row.numpy(), self.col.numpy(), self.score.numpy())


class CudaPatchSearch:
    """See `dsin.runtime.codec.side_search.SideSearch`. May be used from several threads in turn."""

    def __init__(self, search: SearchOptions) -> None:
        self._search = search
        self._device = chosen_device()
        self._kernel = PatchCorrelationKernel(self._device)
        with self._device.current():
            self._stream = Stream(self._device)
        self._workspace: DeviceTensor | None = None
        self._using = threading.Lock()

    def prepare(self, y: Image, y_dec: Tensor) -> _Side:
        return _Side(on_device(self._device, to_planes(y)), on_device(self._device, y_dec))

    def find(self, x_dec: Tensor, prepared: _Side) -> Found:
        x = on_device(self._device, x_dec)
        with self._using, self._device.current():
            found = self._pieces(x, prepared)
            self._stream.synchronise()
        return Found(found.matches(), {"y_syn": found.y_syn})

    def _pieces(self, x_dec: DeviceTensor, side: _Side) -> _Pieces:
        """Launch the search; what it returns is being written."""
        search, (height, width) = self._search, x_dec.shape[2:]
        grid = -(-height // search.patch[0]), -(-width // search.patch[1])
        needed = workspace_bytes(1, height, width, search.patch)
        if self._workspace is None or self._workspace.nbytes < needed:
            self._workspace = DeviceTensor(self._device, (needed,), np.uint8)
        row, col = (DeviceTensor(self._device, grid, np.int32) for _ in range(2))
        y_syn = DeviceTensor(self._device, x_dec.shape, np.float32)
        found = _Pieces(y_syn, row, col, DeviceTensor(self._device, grid, np.float32))
        self._kernel.launch(
            x_dec=x_dec.address, y_dec=side.y_dec.address, y=side.y.address,
            **{name: tensor.address for name, tensor in found._asdict().items()},
            workspace=self._workspace.address, batch=1, height=height, width=width, half=False,
            search=search, stream=self._stream.handle,
        )  # fmt: skip
        return found


class CudaBlockSearch(CudaPatchSearch):
    """The same on pictures rounded to whole levels, refined by blocks."""

    def __init__(self, search: SearchOptions) -> None:
        super().__init__(search)
        self._blocks = BlockKernels(self._device, search.patch)

    def prepare(self, y: Image, y_dec: Tensor) -> _Side:
        side = super().prepare(y, y_dec)
        with self._using, self._device.current():
            rounded = self._blocks.rounded(side.y_dec, self._stream)
            self._stream.synchronise()
        return side._replace(y_dec=rounded)

    def find(self, x_dec: Tensor, prepared: _Side) -> Found:
        x = on_device(self._device, x_dec)
        with self._using, self._device.current():
            rounded = self._blocks.rounded(x, self._stream)
            found = self._pieces(rounded, prepared)
            planes = self._blocks.side_planes(
                rounded, prepared.y_dec, prepared.y, found.row, found.col, self._stream
            )
            self._stream.synchronise()
        return Found(found.matches(), {**planes._asdict()})
