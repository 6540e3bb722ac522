"""The search as an operator of PyTorch: what the definition says, and a node when exported.

Where there is a GPU, the operator is tested on its tensors too.
"""

from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from dsin.export.patch_correlation_op import node
from dsin.export.torch_node import export_with_node
from dsin.runtime.errors import ExportError, FrameError
from dsin.runtime.patch_correlation import patch_correlation as definition
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.paper.si_finder import SideInformationFinder
from dsin.training.patch_correlation import patch_correlation

PLAIN = (20, 24, True, "pearson", False, False)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU, or PyTorch cannot use it")
    return str(request.param)


def views(height: int = 71, width: int = 137, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Two blurred pictures and two that look like them, (2, 3, H, W)."""
    noise = np.random.default_rng(0).normal(128, 90, (2, height, width, 3)).astype(np.float32)
    x = np.stack([cv2.GaussianBlur(n, (0, 0), 2) for n in noise]).clip(0, 255)
    y = np.roll(x, (1, -5), (1, 2)) * 0.9
    return tensor(x).to(device), tensor(y).to(device)


def tensor(pictures: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def pictures(images: Tensor) -> Any:
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("measure", ["pearson", "l2"])
def test_the_operator_is_the_definition(device: str, measure: Any, prior: bool) -> None:
    x, y = views(device=device)
    found = patch_correlation(x, y, y, 20, 24, prior, measure, False, False)
    expected = definition(*map(pictures, (x, y, y)), prior=prior, measure=measure)
    np.testing.assert_array_equal(pictures(found[0]), expected.y_syn)
    assert {part.device.type for part in found} == {device}
    row, col, score = (part.cpu() for part in found[1:])
    np.testing.assert_array_equal(row, expected.row)
    np.testing.assert_array_equal(col, expected.col)
    np.testing.assert_allclose(score, expected.score, atol=1e-5, rtol=2e-6)


@pytest.mark.parametrize(
    "options",
    [{"off_centre": True}, {"stretched": True}, {"measure": "l2", "off_centre": True},
     {"prior": False, "stretched": True, "patch": (10, 12)}],
    ids=str,
)  # fmt: skip
def test_options_of_the_search_reach_the_operator_and_the_brute_force(
    device: str, options: dict[str, Any]
) -> None:
    """As training uses both: the operator where it can, the brute force elsewhere."""
    search = SearchOptions(**options)
    x, y = (view[:1] for view in views(60, 96, device))
    side = y.flip(1)  # other pixels than those that are searched
    finder = SideInformationFinder(search)
    y_syn, found = finder(x, y, side)
    expected = definition(*map(pictures, (x, y, side)), **options)
    brute = finder.brute_force(x, y)
    for part, wanted in zip((found.row, found.col), expected[1:3], strict=True):
        np.testing.assert_array_equal(part.cpu(), wanted)
    np.testing.assert_allclose(pictures(y_syn), expected.y_syn, atol=1e-3)
    np.testing.assert_array_equal(brute.row.cpu(), expected.row)
    np.testing.assert_array_equal(brute.col.cpu(), expected.col)
    plain = definition(*map(pictures, (x, y, side)), patch=search.patch)
    np.testing.assert_allclose(found.score.cpu(), expected.score, atol=1e-5, rtol=2e-6)
    same = np.array_equal(expected.y_syn, plain.y_syn) and np.allclose(expected.score, plain.score)
    assert not same, "the option changes nothing here"


def test_half_precision_comes_back_in_half_precision(device: str) -> None:
    x, y = (view.half() for view in views(device=device))
    y_syn, row, col, score = patch_correlation(x, y, y, *PLAIN)
    expected = definition(*(pictures(view.float()) for view in (x, y, y)))
    assert (y_syn.dtype, score.dtype) == (torch.float16, torch.float32)
    np.testing.assert_array_equal(row.cpu(), expected.row)
    np.testing.assert_array_equal(col.cpu(), expected.col)


def test_shapes_without_data_are_those_with(device: str) -> None:
    x, y = views(device=device)
    torch.library.opcheck(patch_correlation, (x, y, y, *PLAIN))


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_the_operator_works_in_the_current_stream(device: str) -> None:
    x, y = views(device=device)
    expected = patch_correlation(x, y, y, *PLAIN)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Late enough to be missed by a search in another stream.
        torch.cuda._sleep(50_000_000)
        found = patch_correlation(x * 1.0, y * 1.0, y * 1.0, *PLAIN)
    stream.synchronize()
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_training_searches_with_it_and_brute_force_agrees(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    x, y = views(device=device)
    finder = SideInformationFinder(SearchOptions())
    y_syn, fast = finder(x, y, y)
    slow = finder.brute_force(x, y)
    torch.testing.assert_close(fast.row, slow.row, rtol=0, atol=0)
    torch.testing.assert_close(fast.col, slow.col, rtol=0, atol=0)
    torch.testing.assert_close(fast.score, slow.score, rtol=0, atol=1e-5)
    assert y_syn.shape == y.shape


class Searching(nn.Module):
    def forward(self, x_dec: Tensor, y_dec: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return patch_correlation(x_dec / 1.1, y_dec, y, *PLAIN)


def test_an_exported_module_has_the_node_with_its_body() -> None:
    x, y = views()
    model = export_with_node(Searching(), {"x_dec": x, "y_dec": y, "y": y})
    (found,) = (n for n in model.graph.node if n.domain == "dsin")
    wanted = node(SearchOptions())
    assert (found.op_type, len(found.input)) == ("PatchCorrelation", 3)
    assert sorted(map(str, found.attribute)) == sorted(map(str, wanted.attribute))
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == "dsin"] == [
        ("dsin", 1)
    ]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {"x_dec": x.numpy(), "y_dec": y.numpy(), "y": y.numpy()}
    expected = patch_correlation(x / 1.1, y, y, *PLAIN)
    for got, wanted in zip(session.run(None, inputs), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_graph_has_room_for_one_measure() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            near = patch_correlation(x, y, y, 20, 24, True, "l2", False, False)[0]
            return patch_correlation(near, y, y, *PLAIN)[0]

    x, y = views()
    with pytest.raises(ExportError, match="searches with one measure only"):
        export_with_node(Both(), {"x": x, "y": y})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.double(), "y is torch.float64"),
        (lambda t: t[0], "y is torch.float32 of shape 3x71x137"),
        (lambda t: t.permute(0, 2, 3, 1), "float32 or float16 of shape N x 3"),
        (lambda t: t[..., :19, :], "137x19, smaller than a patch of 24x20"),
        (lambda t: t[..., :120], "they must be of one size"),
        (lambda t: t[:1], "they must be of one size"),
    ],
)
def test_bad_tensors_are_refused(spoil: Any, message: str) -> None:
    x, y = views()
    with pytest.raises(FrameError, match=message):
        patch_correlation(x, y, spoil(y), *PLAIN)
