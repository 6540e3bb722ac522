"""`dsin benchmark`: a row for each way, measured in a child, or the reason why there is none."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.command_line import command_line

from dsin.runtime import Encoder, open_bundle
from dsin.runtime.codec.exact import ExactCoder
from dsin.runtime.errors import BackendError, DsinError, PacketError
from dsin.runtime.evaluation import benchmark as module
from dsin.runtime.evaluation import benchmark_row
from dsin.runtime.evaluation.benchmark import Benchmark, Options, Row, benchmark, run_benchmark
from dsin.runtime.evaluation.benchmark_row import Figures, Request, files_of, measure
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.files import write_image
from dsin.runtime.picture_files import read_image
from dsin.runtime.profiling.machine import Machine


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("benchmark") / "blocks")


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """x of 100 and y of 40: x_dec is 102 and the result 71."""
    folder = tmp_path_factory.mktemp("flat")
    for name, level in (("x", 100), ("y", 40)):
        write_image(folder / f"{name}.png", np.full((176, 192, 3), level, np.uint8))
    (folder / "list").write_text("x.png\ny.png\n" * 4)
    return Pair(folder / "x.png", folder / "y.png")


@pytest.fixture
def request_(blocks: Path, flat: Pair, tmp_path: Path) -> Request:
    pairs = [[str(flat.x), str(flat.y)]] * 2
    return Request(str(blocks), "cpu", None, pairs, None, str(tmp_path / "reference"))


def test_figures_that_are_known_beforehand(request_: Request, blocks: Path, flat: Pair) -> None:
    found = measure(request_)
    packet = Encoder(blocks).encode(read_image(flat.x))
    assert found.rate == 1
    assert found.bpp == pytest.approx(8 * len(packet) / (176 * 192), abs=1e-6)
    assert found.psnr_db == pytest.approx(18.882844, abs=1e-4)  # 20 log10(255 / 29)
    assert found.psnr_db_no_side == pytest.approx(42.110203, abs=1e-4)
    assert found.ms_ssim == pytest.approx(0.992363, abs=4e-4)
    assert {"device.entropy", "side.prepare", "server.fusion"} <= found.stages_ms.keys()
    assert found.fps * sum(found.stages_ms.values()) < 2000
    assert found.peak_mib > 10
    assert (found.equal_bytes, found.same_packets) == (True, 1.0)
    assert files_of(open_bundle(blocks)) == {p.name for p in blocks.iterdir()} - {"bundle.json"}


def test_only_files_of_the_chosen_precision_count() -> None:
    from dsin.runtime.codec.precision import at_precision

    used = {p: files_of(at_precision(open_bundle(f"edge@{p}"), "cpu")) for p in ("float", "int8")}
    assert "encoder.onnx" in used["float"] - used["int8"]
    # Weights of 8 bits are derived by the recipe from the float ones.
    assert "encoder.int8.npz" in used["int8"] - used["float"]
    assert {"encoder.weights", "entropy.weights"} <= used["float"] & used["int8"]


def test_packets_that_are_read_otherwise_are_noticed(request_: Request) -> None:
    measure(request_)
    reference = Path(request_.reference)
    entries = json.loads(reference.read_text())
    reference.write_text(json.dumps([[data, "0" * 64] for data, _ in entries]))
    assert measure(request_).equal_bytes is False


def test_payloads_that_are_written_otherwise_are_noticed(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(request_)
    monkeypatch.setattr(ExactCoder, "encode_again", lambda *_: b"other")
    assert measure(request_).equal_bytes is False


def test_packets_of_another_rate_are_read_and_are_not_the_same(request_: Request) -> None:
    measure(dataclasses.replace(request_, rate=0))
    found = measure(dataclasses.replace(request_, rate=1))
    assert (found.equal_bytes, found.same_packets) == (True, 0.0)


def test_every_way_has_a_row(
    blocks: Path, flat: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    options = Options(
        [str(blocks)], ["cpu", "tensorrt"], 0, 2, flat.x.parent / "list", flat.x.parent, (80, 96)
    )
    done = run_benchmark(options, tmp_path / "b.json", tmp_path / "b.md")
    ran, absent = done.rows
    assert done.title().startswith("2 frames of 96x80 (list)")
    assert dataclasses.replace(done, frames=1).title().startswith("1 frame of 96x80 (list)")
    assert ran.figures is not None
    assert (ran.figures.rate, ran.figures.ms_ssim, ran.figures.equal_bytes) == (0, None, True)
    assert (done.frames, done.width, done.height, done.input_name) == (2, 96, 80, "list")
    assert absent.figures is None
    assert "tensorrt is not installed" in (absent.reason or "")
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["dsin_benchmark"] == 1
    assert report["rows"][0]["figures"]["psnr_db"] == ran.figures.psnr_db
    page = (tmp_path / "b.md").read_text()
    assert f"| {blocks} | float | cpu | 0 |" in page
    assert "| tensorrt | tensorrt is not installed" in page
    printed = capfd.readouterr().out
    assert "equal bytes" in printed
    assert f"{blocks} in float not on tensorrt: tensorrt is not installed" in printed


def test_both_precisions_are_rows_of_the_cpu_alone() -> None:
    ways = list(module._ways(Options(["edge"])))
    assert [(w.name, w.networks, w.backend) for w in ways[:3]] == [
        ("edge@float", "float", "cpu"), ("edge@int8", "8 bits", "cpu"),
        ("edge@float", "float", "cuda"),
    ]  # fmt: skip
    (only,) = module._ways(Options(["edge@int8"], ["cpu"]))
    assert (only.bundle, only.name, only.networks) == ("edge", "edge@int8", "8 bits")
    (look,) = module._ways(Options(["edge@int8@sharp"], ["cpu"]))
    assert (look.bundle, look.name, look.networks) == ("edge@sharp", "edge@int8@sharp", "8 bits")
    assert [way.name for way in module._ways(Options(["edge@sharp"], ["cpu"]))] == [
        "edge@sharp@float", "edge@sharp@int8",
    ]  # fmt: skip


def test_a_child_that_fails_is_a_reason(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(request_, bundle="no-such-bundle")
    figures, reason = module._measured(absent)
    assert figures is None
    assert (reason or "").startswith("there is no bundle no-such-bundle")
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    true = module.subprocess.run
    monkeypatch.setattr(module.subprocess, "run", lambda _, **options: true(killed, **options))
    assert "killed by signal 9" in (module._measured(request_)[1] or "")


def test_unequal_bytes_are_loud() -> None:
    figures = Figures(2, 1, 0.1, 30, 29, None, {"device.entropy": 2.4}, 9, 100, False, 0.5)
    row = Row("edge", "float", "cuda", figures, None)
    machine = module.describe_machine()
    table = Benchmark(machine, {}, "rig", 1, 8, 8, (row,)).table()
    assert table.splitlines()[-1].endswith("NO")


STAGES = {"device.compute": 2.4, "device.entropy": 1.2, "side.prepare": 30.0, "server.fusion": 60.6}
ROWS = (
    Row("edge", "float", "cpu",
        Figures(2, 12.34, 0.02345, 30.126, 29, 0.91236, STAGES, 10.514, 900.4, True, 1.0), None),
    Row("paper", "8 bits", "cuda", Figures(0, 1, 1, 9, 8, None, {}, 100, 7, False, 0.5), None),
    Row("edge", "float", "tensorrt", None, "no a|b"),
    Row("paper", "float", "tensorrt", None, "no a|b"),
    Row("paper", "float", "cuda", None, "no GPU"),
)  # fmt: skip


def of_rows(rows: tuple[Row, ...]) -> Benchmark:
    machine = Machine("Chip", "riscv64", "Linux 6", 3, None, None)
    return Benchmark(machine, {}, "rig", 2, 96, 80, rows)


def test_the_table_has_columns_and_tells_each_reason_once() -> None:
    assert of_rows(ROWS).table().splitlines() == [
        "2 frames of 96x80 (rig) on Chip, riscv64, 3 threads",
        "",
        "bundle  networks  backend  rate    MB     bpp   PSNR  no side  MS-SSIM  device ms  side ms"
        "  server ms     fps  MiB  equal bytes",
        "edge    float     cpu         2  12.3  0.0234  30.13    29.00   0.9124          4       30"
        "         61   10.51  900          yes",
        "paper   8 bits    cuda        0   1.0  1.0000   9.00     8.00                   0        0"
        "          0  100.00    7           NO",
        "",
        "edge in float, paper in float not on tensorrt: no a|b",
        "paper in float not on cuda: no GPU",
    ]
    assert of_rows(ROWS[:2]).table().splitlines()[-1].startswith("paper   8 bits")


def test_the_page_has_a_table_of_rows_and_one_of_reasons() -> None:
    rows = [
        "# dsin benchmark",
        "",
        "2 frames of 96x80 (rig) on Chip, riscv64, 3 threads",
        "",
        "| bundle | networks | backend | rate | MB | bpp | PSNR | no side | MS-SSIM | device ms "
        "| side ms | server ms | fps | MiB | equal bytes |",
        f"|{15 * ' --- |'}",
        "| edge | float | cpu | 2 | 12.3 | 0.0234 | 30.13 | 29.00 | 0.9124 | 4 | 30 | 61 | 10.51 "
        "| 900 | yes |",
        "| paper | 8 bits | cuda | 0 | 1.0 | 1.0000 | 9.00 | 8.00 |  | 0 | 0 | 0 | 100.00 "
        "| 7 | NO |",
    ]
    absent = [
        "",
        "| bundle | networks | backend | why not |",
        "| --- | --- | --- | --- |",
        "| edge | float | tensorrt | no a/b |",
        "| paper | float | tensorrt | no a/b |",
        "| paper | float | cuda | no GPU |",
    ]
    assert of_rows(ROWS).markdown() == "\n".join([*rows, *absent, ""])
    assert of_rows(ROWS[:2]).markdown() == "\n".join([*rows, ""])


def test_it_tells_what_it_draws_and_measures(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RIG_SIZE", (80, 96))
    monkeypatch.setattr(module, "_measured", lambda request: (None, f"rate {request.rate}"))
    monkeypatch.setattr(module, "_absent", lambda backend: None)
    told: list[str] = []
    done = benchmark(Options([str(blocks)], ["cpu", "cuda"], 0, frames=2), told.append)
    assert told == [
        "drawing frame 1 of 2",
        "drawing frame 2 of 2",
        f"{blocks} float on cpu, 1 of 2",
        f"{blocks} float on cuda, 2 of 2",
    ]
    assert [row.reason for row in done.rows] == ["rate 0", "rate 0"]


def test_a_rate_that_a_bundle_does_not_have_is_told_before_anything_is_drawn(blocks: Path) -> None:
    told: list[str] = []
    with pytest.raises(DsinError, match="rate"):
        benchmark(Options([str(blocks)], ["cpu"], rate=99), told.append)
    assert told == []


def test_the_built_in_rig_is_drawn_once(
    blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "RIG_SIZE", (80, 96))
    done = benchmark(Options([str(blocks)], ["cpu"], frames=2))
    assert (done.frames, done.width, done.height, done.input_name) == (2, 96, 80, "built-in rig")
    assert done.rows[0].figures is not None


@pytest.mark.parametrize("kind", ["json_path", "markdown_path"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "benchmark", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(DsinError, match="its folder does not exist"):
        run_benchmark(Options([str(blocks)], ["cpu"]), **{kind: tmp_path / "absent" / "table"})


def test_a_root_without_a_list_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dsin = command_line(monkeypatch, capfd)
    assert dsin("benchmark", "--root", "r").status == 2
    done = dsin("benchmark", "--bundle", "nix")
    assert (done.status, done.out) == (1, "")
    assert "there is no bundle nix" in done.err


def test_the_process_of_a_row_prints_its_figures(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a crop, and without."""
    figures = Figures(1, 2.5, 0.125, 30.0, 29.0, None, {"server.fusion": 1.5}, 9.5, 77.0, True, 1.0)
    asked: list[Request] = []
    monkeypatch.setattr(benchmark_row, "measure", lambda given: asked.append(given) or figures)
    for crop in ((80, 96), None):
        wanted = dataclasses.replace(request_, crop=crop)
        argument = json.dumps(dataclasses.asdict(wanted))
        monkeypatch.setattr(sys, "argv", ["benchmark_row", argument])
        benchmark_row.main()
        assert asked.pop() == wanted
        assert Figures(**json.loads(capsys.readouterr().out)) == figures


def test_a_packet_that_cannot_be_decoded_is_not_read_alike(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(request_)

    def refuse(*_: object) -> None:
        raise PacketError("not of this model")

    monkeypatch.setattr(ExactCoder, "decode", refuse)
    assert measure(request_).equal_bytes is False


def test_a_backend_is_absent_without_its_package_and_without_a_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing: set[str] = set()

    def there(name: str) -> Callable[..., None]:
        def look(*providers: str) -> None:
            for needed in (name, *providers):
                if needed in missing:
                    raise BackendError(f"{needed} is not there")

        return look

    monkeypatch.setattr("dsin.runtime.backends.ort.onnxruntime", there("onnxruntime"))
    monkeypatch.setattr("dsin.runtime.backends.tensorrt_api.tensorrt", there("tensorrt"))
    monkeypatch.setattr("dsin.runtime.gpu.cuda_driver.chosen_device", there("card"))

    def absent() -> list[str | None]:
        return [module._absent(backend) for backend in ("cpu", "cuda", "tensorrt")]

    assert absent() == [None, None, None]
    missing.add("card")
    assert absent() == [None, "card is not there", "card is not there"]
    missing.add("CUDAExecutionProvider")
    gone = "CUDAExecutionProvider is not there"
    assert absent() == [None, gone, "card is not there"]
    missing.add("tensorrt")
    assert absent() == [None, gone, "tensorrt is not there"]
