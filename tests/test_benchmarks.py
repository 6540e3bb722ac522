"""The benchmarks run: at tiny sizes, where their figures mean nothing."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.block_bundle import write_block_bundle
from support.rig_drive import write_drive

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.files import write_image
from dsin.runtime.sources.synthetic_rig import SyntheticRig

FOLDER = Path(__file__).parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
WIDTH, HEIGHT = 208, 176
Load = Callable[..., ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a benchmark, with other constants, as if it was started with these arguments."""

    def run(name: str, *arguments: object, **constants: object) -> ModuleType:
        monkeypatch.syspath_prepend(str(FOLDER))
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module = importlib.import_module(name)
        for constant, value in constants.items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        return module

    return run


@pytest.fixture(scope="module")
def rig() -> SyntheticRig:
    return SyntheticRig(width=WIDTH, height=HEIGHT, frames=2)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rig = SyntheticRig(width=WIDTH, height=HEIGHT, frames=22)
    return write_drive(rig, tmp_path_factory.mktemp("drive"), interval_ms=100)


@pytest.fixture(scope="module")
def pairs(rig: SyntheticRig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A list of pairs, and its root."""
    root = tmp_path_factory.mktemp("pairs")
    names = []
    for frame in rig:
        for side, picture in (("left", frame.left), ("right", frame.right)):
            names.append(f"{frame.number}_{side}.png")
            write_image(root / names[-1], picture)
    (root / "list.txt").write_text("\n".join(names) + "\n")
    return root / "list.txt", root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("bundle") / "blocks")


@pytest.mark.parametrize("name", NAMES)
def test_each_can_be_loaded(load: Load, name: str) -> None:
    is_part = name in ("patch_inputs", "patch_peers")
    assert callable(getattr(load(name), "main", None)) != is_part


def test_cost_of_the_fleet(
    load: Load, rig: SyntheticRig, bundle: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    module = load("fleet_cost", RATES=(0,))
    monkeypatch.setattr(module, "open_bundle", lambda name: open_bundle(bundle))
    frames = [module.StereoFrame(frame.left, frame.right) for frame in rig]
    module.codec(frames[:1])
    module.pictures(frames)
    out = capsys.readouterr().out
    assert "side features: " in out
    assert "read" in out


def test_latency(
    load: Load, pairs: tuple[Path, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load("latency", *pairs, bundle, CROP=(64, 96), ROUNDS=2, SIDE=64).main()
    assert "packet to picture" in capsys.readouterr().out


def test_rates_of_bundles(
    load: Load, pairs: tuple[Path, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bundles_bd_rate", *pairs, bundle, bundle, CROP=(176, 208)).main()
    assert "BD-rate with the side image" in capsys.readouterr().out


def test_rate_control(
    load: Load, drive: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    module = load("rate_control", drive, 100)
    monkeypatch.setattr(module, "open_bundle", lambda: open_bundle(bundle))
    module.main()
    assert "100 kbit/s: mean" in capsys.readouterr().out


def test_looks(
    load: Load, pairs: tuple[Path, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load("looks", *pairs, "--bundle", bundle, SIZE=(176, 208), RATES=(0,)).main()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("faithful   0  ")


def test_robustness(
    load: Load, pairs: tuple[Path, Path], bundle: Path, drive: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    load("robustness", *pairs, drive, bundle, CROP=(64, 96), RATES=(0, 1)).main()
    assert "another scene" in capsys.readouterr().out


def test_pairs_of_the_rig(load: Load, tmp_path: Path) -> None:
    load("rig_pairs", tmp_path, 1).main()
    assert len((tmp_path / "list.txt").read_text().split()) == 2


def test_entropy_coding_of_edge(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("entropy_coding", "edge", EDGE_SIZE=(64, 128), REPEATS=1).main()
    printed = capsys.readouterr().out
    assert printed.count("bytes, the same") == 2
    assert printed.count("times as fast") == 4


def test_entropy_coding(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("entropy_coding", PAPER_SIZE=(4, 6, 8), REPEATS=1).main()
    assert "rANS decode" in capsys.readouterr().out


def test_cost_of_a_front(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("front_cost", SIZES={"packet": 100}, MESSAGES=2, CONNECTIONS=2).main()
    assert "packet, 100 bytes" in capsys.readouterr().out


def test_lossy_link(
    load: Load, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whatever a row must hold is not asked of a second or two on a busy machine."""
    names = ["bursts", "narrowing", "hostile", "standing_still"]
    report = tmp_path / "lossy.json"
    module = load("lossy_link", "--seconds", 1.5, "--only", ",".join(names), "--json", report)
    monkeypatch.setattr(module, "open_bundle", lambda: open_bundle(bundle))
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code in (0, 1)
    rows = json.loads(report.read_text())
    assert list(rows) == names
    assert set(rows["narrowing"]["grpc"]) == {
        "decoded_share", "age_p99_ms", "bytes_per_frame", "bytes_ratio",
    }  # fmt: skip
    assert 0 < rows["narrowing"]["grpc"]["decoded_share"] <= 1
    assert rows["bursts"]["grpc"]["bytes_ratio"] == pytest.approx(1, abs=0.2)
    out = capsys.readouterr().out
    for name in names:
        for transport in module.TRANSPORTS:
            left_out = module.lacks(transport, module.ROWS[name]) is not None
            assert (transport in rows[name]) is not left_out
            assert f"{name:15}{transport:10}left out" in out or not left_out


def test_standing_still(load: Load, drive: Path, tmp_path: Path) -> None:
    report = tmp_path / "still.json"
    load("standing_still", "--kitti", drive, "--frames", 4, "--rates", 7, "--json", report).main()
    rows = json.loads(report.read_text())
    assert set(rows) == {"standing", "moving"}
    assert rows["standing"][0]["bytes_ratio"] < 0.2
    assert rows["standing"][0]["referring"] == 3
    assert rows["moving"][0]["bytes_ratio"] < 1.01


def test_lossy_link_without_the_codec(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("lossy_link", "--seconds", 1, "--only", "reordering", "--no-codec")
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0  # no picture is wrong, however busy the machine is
    assert "0 pictures wrong" in capsys.readouterr().out


def test_lossy_link_refuses_a_row_that_is_not_there(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load("lossy_link", "--only", "loss_5,loss_99").main()
    assert "no row loss_99" in capsys.readouterr().err
