"""The CUDA search, emulated on any machine, and on a GPU where there is one.

See `cuda_emulation` for what the emulation is. What runs in it is a function of this file, called
in the process that has the emulated driver.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cuda_emulation import gpu, worker
from test_patch_correlation import INPUTS, noise, shifted, smooth, stripes

from dsin.runtime.codec.side_search import open_block_search, open_patch_search
from dsin.runtime.errors import BackendError, FrameError
from dsin.runtime.gpu import cuda_compiler, cuda_driver
from dsin.runtime.gpu.device_tensor import on_host
from dsin.runtime.patch_correlation import definition as pc
from dsin.runtime.patch_correlation import patch_cuda, patch_cuda_plan
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.pictures import to_planes
from dsin.training.patch_correlation import search_on_device

Image = np.ndarray[Any, Any]
MIB = 1 << 20


@pytest.fixture(scope="module", params=["emulated", "GPU"])
def machine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Where to submit what needs a GPU."""
    with worker() if request.param == "emulated" else gpu() as pool:
        yield pool


def correlate(x: Image, y_dec: Image, y: Image, band: int | None, **options: Any) -> Any:
    """`CudaPatchCorrelation`; `band` is a budget for the workspace, in bytes."""
    before = patch_cuda_plan.BUDGET
    patch_cuda_plan.BUDGET = band or before
    try:
        return patch_cuda.CudaPatchCorrelation()(x, y_dec, y, **options)
    finally:
        patch_cuda_plan.BUDGET = before


def check(
    machine: Executor, x: Image, y_dec: Image, y: Image | None = None, *, band: int | None = None,
    **options: Any,
) -> None:  # fmt: skip
    """What comes from the GPU is what the definition says."""
    y = y_dec if y is None else y
    x, y_dec, y = (np.ascontiguousarray(view) for view in (x, y_dec, y))
    y_syn, found = machine.submit(correlate, x, y_dec, y, band, **options).result()
    expected = pc.patch_correlation(x, y_dec, y, **options)
    np.testing.assert_array_equal(found.row, expected.row)
    np.testing.assert_array_equal(found.col, expected.col)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(y_syn, expected.y_syn)
    assert y_syn.dtype == expected.y_syn.dtype


OPTIONS: list[dict[str, Any]] = [{}, {"prior": False}, {"off_centre": True}, {"patch": (10, 12)}]


FLAT = ("constant", "one of them constant", "nearly flat", "sky")
"""Inputs of which nothing can be left out: slow in the emulation."""


def searches() -> Iterator[Any]:
    """Each input and each option once; all of them together are slow."""
    for name in INPUTS:
        for number, options in enumerate(OPTIONS):
            first = name == "shifted" or number == (0 if name in FLAT else 1)
            marks = () if first else pytest.mark.slow
            yield pytest.param(name, options, marks=marks, id=f"{name}-{options}")


@pytest.mark.parametrize(("name", "options"), list(searches()))
def test_the_gpu_finds_what_the_definition_finds(
    machine: Executor, name: str, options: dict[str, Any]
) -> None:
    check(machine, *(view[:61, :121] for view in INPUTS[name]()), **options)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("name", ["shifted", "odd size", "repeated texture", "not numbers"])
def test_the_l2_measure(machine: Executor, name: str, prior: bool) -> None:
    x, y = (view[:57, :83] for view in INPUTS[name]())
    check(machine, x, y, measure="l2", prior=prior)


@pytest.mark.parametrize("measure", ["pearson", "l2"])
@pytest.mark.parametrize("name", ["shifted", "repeated texture"])
def test_large_pictures_are_searched_in_bands(machine: Executor, name: str, measure: Any) -> None:
    """With a budget so small that there are bands of a few rows of windows."""
    band = 90_000 if measure == "pearson" else 75_000
    rows, cols = (80, 144) if measure == "pearson" else (61, 97)
    x, y = (view[:rows, :cols] for view in INPUTS[name]())
    check(machine, x, y, band=band, prior=name == "shifted", measure=measure)


def test_the_bands_above_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_cuda_plan, "BUDGET", 90_000)
    assert len(patch_cuda_plan.plan(80, 144, (20, 24), "pearson").bands()) > 3
    monkeypatch.setattr(patch_cuda_plan, "BUDGET", 75_000)
    assert len(patch_cuda_plan.plan(61, 97, (20, 24), "l2").bands()) > 3


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.floats(1, 5), st.floats(1, 5)),
    patch=st.sampled_from([(8, 9), (1, 16), (13, 2), (20, 24)]),
    levels=st.integers(1, 256),
    contrast=st.floats(1e-6, 1),
    prior=st.booleans(),
)
def test_any_size_contrast_and_number_of_levels(
    machine: Executor, seed: int, size: tuple[float, float], patch: tuple[int, int], levels: int,
    contrast: float, prior: bool,
) -> None:  # fmt: skip
    """Few levels in small patches make for many ties; little contrast blurs float32."""
    rng = np.random.default_rng(seed)
    shape = (int(size[0] * patch[0]), int(size[1] * patch[1]), 3)
    x, y = (
        (100 + contrast * rng.integers(0, levels, shape) * 150 / levels).astype(np.float32)
        for _ in range(2)
    )
    y[: shape[0] // 2] = x[: shape[0] // 2]
    check(machine, x, y, patch=patch, prior=prior)


def test_real_frames(machine: Executor, kitti_pair: tuple[Image, Image]) -> None:
    """A whole frame, against the CPU's search, which is tested against the definition."""
    x, y = (cv2.GaussianBlur(view[27:347, 9:1233], (0, 0), 1.5) for view in kitti_pair)
    y_syn, found = machine.submit(correlate, x, y, kitti_pair[1][27:347, 9:1233], None).result()
    expected = pc.match(x, y)
    np.testing.assert_array_equal(found.row, expected.row)
    np.testing.assert_array_equal(found.col, expected.col)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    np.testing.assert_array_equal(y_syn, pc.synthesise(kitti_pair[1][27:347, 9:1233], expected))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_stretched_pieces(machine: Executor, kind: Any) -> None:
    x, y = (view.astype(kind) for view in shifted())
    x, y = x[:, :120], y[:, :120]
    check(machine, x, y, y[::-1].copy(), stretched=True)


def on_tensors(images: list[Image], half: bool, **options: Any) -> list[Image]:
    """The operator's CUDA path on a batch of planes (N, 3, H, W)."""
    device = cuda_driver.Device(0)
    kernel = patch_cuda.PatchCorrelationKernel(device)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [torch.from_numpy(i).to(where, torch.float16 if half else None) for i in images]
    with device.current():
        found = search_on_device(kernel, 0, tuple(tensors), SearchOptions(**options))
    return [part.cpu().numpy() for part in found]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_batch_of_tensors(machine: Executor, half: bool) -> None:
    pairs = [shifted(), (smooth(12), smooth(13))]
    x, y = (np.stack(views).transpose(0, 3, 1, 2) for views in zip(*pairs, strict=True))
    x, y = (np.ascontiguousarray(v[:, :, :71], np.float16 if half else np.float32) for v in (x, y))
    y_syn, row, col, score = machine.submit(on_tensors, [x, y, y], half).result()
    x_one, y_one = (v.astype(np.float32).transpose(0, 2, 3, 1) for v in (x, y))
    expected = pc.patch_correlation(x_one, y_one, y_one)
    np.testing.assert_array_equal(row, expected.row)
    np.testing.assert_array_equal(col, expected.col)
    np.testing.assert_allclose(score, expected.score, atol=1e-6)
    np.testing.assert_array_equal(y_syn.transpose(0, 2, 3, 1), expected.y_syn)
    assert y_syn.dtype == x.dtype


OPTIONS_OF_BUNDLE = SearchOptions()


def search_for_decoder(opened: Callable[..., Any], backend: Any, x: Image, y: Image) -> Any:
    search = opened(OPTIONS_OF_BUNDLE, backend, 1)
    planes = to_planes(y) + np.float32(0.25)
    for _ in range(2):
        found = search.find(to_planes(x) + np.float32(0.25), search.prepare(y, planes))
    return found.matches, {name: on_host(tensor) for name, tensor in found.planes.items()}


@pytest.mark.parametrize("opened", [open_patch_search, open_block_search])
def test_the_decoder_searches_on_its_backend(machine: Executor, opened: Any) -> None:
    x, y = (np.ascontiguousarray(view[:72, :136].astype(np.uint8)) for view in shifted())
    found, planes = machine.submit(search_for_decoder, opened, "cuda", x, y).result()
    expected, pieces = search_for_decoder(opened, "cpu", x, y)
    np.testing.assert_array_equal(found.row, expected.row)
    np.testing.assert_array_equal(found.col, expected.col)
    assert planes.keys() == pieces.keys()
    for name, tensor in planes.items():
        np.testing.assert_array_equal(tensor, pieces[name], err_msg=name)


# Memory, code, errors.


@pytest.mark.parametrize("size", [(320, 1224), (375, 1242), (1080, 1920), (2160, 3840)])
def test_the_workspace_is_small(size: tuple[int, int]) -> None:
    assert patch_cuda.workspace_bytes(8, *size, (20, 24)) < 16 * MIB


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("measure", ["pearson", "l2"])
@pytest.mark.parametrize("architecture", [80, 87, 90, 110])
def test_the_kernels_compile(architecture: int, measure: Any, half: bool) -> None:
    """A100, Orin, H200 and Thor."""
    needs_nvrtc()
    code = cuda_compiler.compile_source(
        patch_cuda_plan.source((20, 24), measure, half), architecture
    )
    assert code.startswith(b"\x7fELF")
    for name in patch_cuda_plan.KERNELS[measure]:
        assert f".text.{name}".encode() in code


def needs_nvrtc() -> None:
    try:
        cuda_compiler.version()
    except BackendError as error:
        pytest.skip(str(error))


def test_code_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_source(source: str, architecture: int) -> bytes:
        compiled.append((source, architecture))
        return b"code"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_compiler, "compile_source", compile_source)
    monkeypatch.setattr(cuda_compiler, "version", lambda: "13.0")
    for _ in range(2):
        assert cuda_compiler.cubin("a", 87) == b"code"
        assert cuda_compiler.cubin("a", 90) == b"code"
        assert cuda_compiler.cubin("b", 87) == b"code"
    assert compiled == [("a", 87), ("a", 90), ("b", 87)]
    monkeypatch.setattr(cuda_compiler, "version", lambda: "13.1")
    cuda_compiler.cubin("a", 87)
    assert len(compiled) == 4


def test_a_home_that_cannot_be_written_to_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dsin").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_compiler, "compile_source", lambda *_: b"code")
    monkeypatch.setattr(cuda_compiler, "version", lambda: "13.0")
    assert cuda_compiler.cubin("a", 87) == b"code"


def test_an_unknown_gpu_is_named() -> None:
    needs_nvrtc()
    with pytest.raises(BackendError, match="cannot compile for sm_42"):
        cuda_compiler.compile_source("", 42)


def test_a_mistake_in_the_source_is_shown() -> None:
    needs_nvrtc()
    with pytest.raises(BackendError, match='identifier "nonsense" is undefined'):
        cuda_compiler.compile_source('extern "C" __global__ void k() { nonsense; }', 90)


def test_without_the_binding_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for call in (cuda_driver.cuda_driver.__wrapped__, cuda_compiler.version):
        with pytest.raises(BackendError, match=r"pip install 'dsin\[cuda\]'"):
            call()


def test_without_a_gpu_the_error_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(
        BackendError, match=r"no CUDA driver here|the CUDA driver says|dsin\[cuda\]"
    ):
        patch_cuda.CudaPatchCorrelation()


def open_device(index: int) -> None:
    cuda_driver.Device(index)


def test_a_gpu_that_is_not_there(machine: Executor) -> None:
    with pytest.raises(BackendError, match="there is no CUDA device 64"):
        machine.submit(open_device, 64).result()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.astype(np.float64), "uint8 or float32"),
        (lambda image: image[..., 0], "height x width x 3"),
        (lambda image: image[:19], "144x19, smaller than a patch of 24x20"),
        (lambda image: image[:, :96], "they must be of one size"),
    ],
)
def test_bad_images_are_refused_as_elsewhere(machine: Executor, spoil: Any, message: str) -> None:
    good = noise(1)
    for images in ((spoil(good), good, good), (good, spoil(good), good), (good, good, spoil(good))):
        with pytest.raises(FrameError, match=message) as on_gpu:
            machine.submit(correlate, *images, None).result()
        with pytest.raises(FrameError) as defined:
            pc.patch_correlation(*images)
        assert str(on_gpu.value) == str(defined.value)


def test_patches_beyond_shared_memory_are_refused(machine: Executor) -> None:
    x, y = stripes()
    with pytest.raises(FrameError, match="a patch of 40x40 is too large for a GPU"):
        machine.submit(correlate, x, y, y, None, patch=(40, 40)).result()


def test_stretched_patches_must_divide_the_picture(machine: Executor) -> None:
    x = smooth(1, 81, 144)
    with pytest.raises(FrameError, match="must divide it"):
        machine.submit(correlate, x, x, x, None, stretched=True).result()
