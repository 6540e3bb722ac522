"""Fixtures: real frames where `../shared` lies beside the repository, made-up ones elsewhere."""

import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from golden.weights import original_weights
from support import tensorrt_rtx

from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.pictures import Image
from dsin.training.checkpoint import save_checkpoint
from dsin.training.edge.model import EdgeDsin
from dsin.training.paper.model import Dsin
from dsin.training.paper.tf_checkpoint import original_preset, original_to_state_dict
from dsin.training.presets import (
    AutoencoderConfig,
    EdgeConfig,
    EdgePreset,
    FusionConfig,
    Preset,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"

SMALL = EdgeConfig(
    rates=3, fine=16, coarse=24, latent=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1), hyper=8,
    hyper_width=16, context=8, step_width=16,
)  # fmt: skip
"""The `edge` model with few features."""

PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
"""Whether another process runs other tests beside this one."""

ALONE = ("test_fleet.py", "test_streaming_faults.py")
"""Files whose tests watch a stream or a fleet in real time: while one runs, the other process
pauses."""

torch.set_num_threads(1 if PARALLEL else 2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test beside those of the other process, or alone."""
    if not PARALLEL:
        return (yield)
    gate_path, running_path = _locks()
    with gate_path.open("w") as gate, running_path.open("w") as running:
        # Whoever waits to be alone holds the gate, so that no other test begins meanwhile.
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if item.path.name in ALONE else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)


def pytest_sessionfinish() -> None:
    """The locks' files go with the first process that ends; then there is nobody to wait for."""
    if PARALLEL:
        for path in _locks():
            path.unlink(missing_ok=True)


def _locks() -> tuple[Path, Path]:
    """Of this run of all processes: the gate, and what those that run hold."""
    prefix = f"dsin-tests-{os.environ['PYTEST_XDIST_TESTRUNUID']}"
    folder = Path(tempfile.gettempdir())
    return folder / f"{prefix}.gate", folder / f"{prefix}.running"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The path that `make` writes, a file or a folder: of the first process that wants it, and the
    others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if PARALLEL else base) / f"once-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            make(folder / name)
            (folder / "done").touch()
    return folder / name


@pytest.fixture(scope="session")
def shared() -> Path | None:
    """The folder with KITTI frames and golden cases, where there is one."""
    return SHARED if (SHARED / "golden").is_dir() else None


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, npt.NDArray[np.generic]]]:
    """The arrays of a case in tests/golden, which holds no pictures of KITTI."""
    return lambda name: load_case(Path(__file__).parent / "golden" / f"{name}.npz")


@pytest.fixture(scope="session")
def golden_pictures(
    shared: Path | None,
) -> Callable[[str], dict[str, npt.NDArray[np.generic]]]:
    """The arrays of a whole case, KITTI crops included; skips without `../shared`."""

    def load(name: str) -> dict[str, npt.NDArray[np.generic]]:
        if shared is None:
            pytest.skip("the golden pictures are KITTI's and lie in ../shared, which is absent")
        return load_case(shared / "golden" / f"{name}.npz")

    return load


def load_case(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="session")
def original() -> Dsin:
    """The original's architecture, quirks and golden weights, in inference mode. Do not train."""
    model = Dsin(original_preset())
    model.load_state_dict(original_to_state_dict(original_weights()))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def kitti_pair(shared: Path | None) -> tuple[Image, Image]:
    """Left and right view of one scene, RGB, about 1242×375: KITTI's, or the synthetic rig's."""
    if shared is not None:
        from dsin.runtime.picture_files import read_image

        root = shared / "data" / "kitti"
        left, right = (root / "val.txt").read_text().split()[:2]
        return read_image(root / left), read_image(root / right)
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    frame = next(iter(SyntheticRig(frames=1)))
    return frame.left, frame.right


def textured_pair(height: int, width: int, seed: int) -> tuple[Image, Image]:
    """A blurred random scene seen twice, 6 pixels apart: a few grey levels of noise on each."""
    rng = np.random.default_rng(seed)
    scene = rng.uniform(0, 255, (height, width + 6, 3))
    scene = cv2.GaussianBlur(scene, (0, 0), 4)
    scene = 128 + 5 * (scene - scene.mean())
    views = (scene[:, :-6], scene[:, 6:])
    noisy = [v + rng.normal(0, 2, v.shape) for v in views]
    left, right = (np.clip(v, 0, 255).astype(np.uint8) for v in noisy)
    return left, right


@pytest.fixture(scope="session")
def small_pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Four pairs of 120×168 PNG files on disk."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = []
    for number in range(4):
        files = folder / f"{number}_left.png", folder / f"{number}_right.png"
        for file, image in zip(files, textured_pair(120, 168, number), strict=True):
            assert cv2.imwrite(str(file), image[:, :, ::-1])
        pairs.append(Pair(*files))
    return pairs


@pytest.fixture(scope="session")
def tiny_preset() -> Preset:
    """The whole system with few features, for tests that need all of it but no quality."""
    return Preset(
        name="tiny",
        autoencoder=AutoencoderConfig(features=16, blocks=1),
        fusion=FusionConfig(features=8, dilations=(1, 2, 4, 1)),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights whose batch norms fit the input, so that symbols of all kinds occur."""
    torch.manual_seed(1)
    model = Dsin(tiny_preset)
    left, _ = textured_pair(160, 240, 0)
    x = torch.from_numpy(left.transpose(2, 0, 1).copy()).float()[None]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.decoder(model.quantiser(model.encoder(x).z).q)
    for norm in norms:
        norm.momentum = 0.1
    notes = {"phase": "none", "weights_licence": "random weights"}
    return made_once(
        tmp_path_factory, "tiny.pt", lambda path: save_checkpoint(path, model.eval(), notes=notes)
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a bundle directory."""
    from dsin.export.write_bundle import write_bundle

    # Small frames, since the search for the integer model's scales reads them many times.
    frames = textured_pair(80, 96, 0)
    return made_once(
        tmp_path_factory, "tiny",
        lambda out: write_bundle(tiny_checkpoint, out, calibration_frames=frames),
    )  # fmt: skip


@pytest.fixture(scope="session")
def edge_model() -> EdgeDsin:
    """Random weights of the small `edge` model."""
    torch.manual_seed(4)
    model = EdgeDsin(EdgePreset(name="small", codec=SMALL)).eval().requires_grad_(False)
    # Let the fusion do something.
    torch.nn.init.normal_(model.fusion.out.weight, std=0.01)
    return model


@pytest.fixture(scope="session")
def edge_checkpoint(edge_model: EdgeDsin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of that."""
    notes = {"weights_licence": "random weights"}
    return made_once(
        tmp_path_factory, "small.pt", lambda path: save_checkpoint(path, edge_model, notes=notes)
    )


@pytest.fixture(scope="session")
def edge_bundle(edge_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And its bundle directory."""
    from dsin.export.write_bundle import write_bundle

    def make(out: Path) -> None:
        frames = textured_pair(128, 192, 0)
        comparisons = write_bundle(
            edge_checkpoint, out, calibration_frames=frames, weights="float16"
        )
        assert all(comparisons)
        assert {c.output for c in comparisons} >= {"encoder y", "fusion x_hat", "step3 mean"}

    return made_once(tmp_path_factory, "small", make)


@pytest.fixture(scope="session")
def flow_model(edge_bundle: Path) -> EdgeDsin:
    """The small bundle's codec with a random smaller fusion by flow."""
    from dsin.export import load_model

    old = load_model(edge_bundle)
    assert isinstance(old, EdgeDsin)
    torch.manual_seed(3)
    preset = dataclasses.replace(
        old.preset,
        codec=dataclasses.replace(old.preset.codec, fusion_blocks=1, fusion_out_kernel=1),
        search=dataclasses.replace(old.preset.search, flow=True),
    )
    model = EdgeDsin(preset)
    torch.nn.init.normal_(model.fusion.out.weight, std=0.01)
    codec = {k: w for k, w in old.state_dict().items() if not k.startswith("fusion.")}
    model.load_state_dict({**model.state_dict(), **codec})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def flow_bundle(
    edge_bundle: Path, flow_model: EdgeDsin, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The small bundle with that fusion, for the same packets."""
    from dsin.export.edge.refit import refit_bundle

    folder = tmp_path_factory.mktemp("flow")
    save_checkpoint(folder / "flow.pt", flow_model, notes={"pairs": 3})
    refit_bundle(edge_bundle, folder / "flow.pt", folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def searching_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped bundle's trained codec with a small random fusion that searches by blocks, as
    `dsin train edge` makes them."""
    from dsin.export import load_model
    from dsin.export.edge.refit import refit_bundle

    trained = load_model("edge-structure@float")
    assert isinstance(trained, EdgeDsin)
    preset = dataclasses.replace(
        trained.preset,
        codec=dataclasses.replace(trained.preset.codec, fusion=64, fusion_blocks=1),
        search=dataclasses.replace(trained.preset.search, flow=False),
    )
    torch.manual_seed(4)
    model = EdgeDsin(preset)
    torch.nn.init.normal_(model.fusion.out.weight, std=0.01)
    codec = {k: w for k, w in trained.state_dict().items() if not k.startswith("fusion.")}
    model.load_state_dict({**model.state_dict(), **codec})
    folder = tmp_path_factory.mktemp("searching")
    save_checkpoint(folder / "blocks.pt", model.eval())
    refit_bundle("edge-structure@float", folder / "blocks.pt", folder / "my-edge")
    return folder / "my-edge"


@pytest.fixture(scope="session")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TensorRT, or what builds engines like it where there is no GPU; skips without both."""
    return tensorrt_rtx.load(tmp_path_factory.mktemp("tensorrt"))
