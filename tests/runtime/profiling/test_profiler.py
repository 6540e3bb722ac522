"""`dsin profile` as a whole, on a tiny bundle and a tiny drive."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle

from dsin.runtime.commands import cli
from dsin.runtime.errors import DsinError
from dsin.runtime.profiling import cold_start as profile_cold_start
from dsin.runtime.profiling import graphs as profile_graphs
from dsin.runtime.profiling import profiler
from dsin.runtime.profiling.html_report import to_html
from dsin.runtime.profiling.pipeline import Frames
from dsin.runtime.profiling.power import Power, Readings
from dsin.runtime.profiling.profiler import Options, measure, run_profile
from dsin.runtime.profiling.report import Memory, Profile

STAGES = [
    "device.capture", "device.preprocess", "device.compute", "device.entropy", "device.packetise",
    "link.network", "side.capture", "side.compute", "side.prepare", "server.entropy",
    "server.x_decoder", "server.search", "server.fusion", "server.postprocess",
]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("profile") / "blocks")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of 96×80."""
    folder = tmp_path_factory.mktemp("profile") / "drive"
    rng = np.random.default_rng(0)
    for camera in ("image_02", "image_03"):
        (folder / camera / "data").mkdir(parents=True)
        for number in range(3):
            image = rng.integers(0, 256, (10, 12, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            assert cv2.imwrite(str(folder / camera / "data" / f"{number}.png"), image)
    times = (f"2011-09-26 13:02:25.{number}00000000\n" for number in range(3))
    (folder / "image_02" / "timestamps.txt").write_text("".join(times))
    return folder


@pytest.fixture(scope="module")
def profile(bundle: Path, drive: Path) -> Profile:
    """A real one, of one cold start and five frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiler, "COLD_STARTS", 1)
        began_s = time.perf_counter()
        measured = measure(Options(str(bundle), drive, samples=5, warmup=1, threads=1))
        assert sum(measured.start.cold_ms) < 1000 * (time.perf_counter() - began_s)
        return measured


class TestMeasurements:
    def test_every_stage_of_the_cpu_and_no_other(self, profile: Profile) -> None:
        assert list(profile.stages_ms) == STAGES
        assert {times.samples for times in profile.stages_ms.values()} == {5}
        assert list(profile.latency_ms) == ["device", "link", "side", "server", "end_to_end"]

    def test_the_stages_lie_within_the_whole(self, profile: Profile) -> None:
        whole = profile.latency_ms["end_to_end"]
        inside = [t.mean for n, t in profile.stages_ms.items() if not n.endswith("capture")]
        assert 0 < sum(inside) <= whole.mean + 0.01
        rooms = sum(profile.latency_ms[room].mean for room in ("device", "link", "side", "server"))
        assert rooms == pytest.approx(whole.mean, abs=0.01)
        assert profile.single_stream_p90_ms == whole.p90
        assert (min(profile.end_to_end_ms), max(profile.end_to_end_ms)) == (whole.min, whole.max)

    def test_what_was_measured_is_named(self, profile: Profile, bundle: Path, drive: Path) -> None:
        what = profile.identity
        assert (what.input_name, what.input_frames) == ("drive", 3)
        assert (what.width, what.height) == (96, 80)
        assert what.input_sha256 == Frames(drive).sha256()
        assert profile.conditions.bundle == "blocks"
        assert profile.backend_requested == "cpu"
        assert set(profile.provider_actual) == {"encoder", "x_decoder", "fusion"}
        assert set(profile.provider_actual.values()) == {"CPUExecutionProvider"}
        assert profile.bits_per_pixel == pytest.approx(
            8 * profile.bytes_per_frame.mean / (96 * 80), abs=1e-6
        )

    def test_the_graphs_cost_what_they_must(self, profile: Profile) -> None:
        graphs = {graph.graph: graph for graph in profile.roofline.graphs}
        assert {name: graph.runs_per_frame for name, graph in graphs.items()} == {
            "encoder": 2, "x_decoder": 2, "fusion": 1,
        }  # fmt: skip
        # Frames are padded to 80×96; each 8×8 block is painted from its mean, colour by colour.
        assert graphs["x_decoder"].gmac == pytest.approx(3 * 80 * 96 / 1e9, abs=1e-6)
        assert profile.precision["x_decoder"] == "float32"
        assert profile.precision["fusion"] == "no products"

    def test_a_trace_that_cannot_be_read_costs_the_rooflines_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise DsinError("unreadable")

        monkeypatch.setattr(profiler, "profile_graphs", fail)
        chip = profiler.ChipSpeed(2.0, 3.0)
        roofline = profiler._roofline(MagicMock(), "cpu", chip, chip)
        assert (roofline.graphs, roofline.absent) == ((), "unreadable")

    def test_copies_that_are_not_apart_are_noted(self, profile: Profile) -> None:
        assert profile.notes == profiler.notes_on("cpu", STAGES) == ()
        assert profiler.notes_on("cuda", ["device.host_to_device", "device.compute"]) == ()
        (note,) = profiler.notes_on("cuda", STAGES)
        assert note.startswith("compute includes copying to and from cuda")
        noted = replace(profile, notes=(note,))
        assert f"note      {note}" in noted.table().splitlines()
        assert note in to_html(noted)

    def test_starting_takes_time(self, profile: Profile) -> None:
        start = profile.start
        assert len(start.cold_ms) == 1
        assert min(start.cold_ms[0], start.first_encode_ms, start.first_decode_ms) > 0
        assert min(start.load_bundle_ms, start.load_encoder_ms, start.load_decoder_ms) > 0
        assert profile.memory.peak_rss_mib > 1

    def test_five_frames_are_too_short(self, profile: Profile) -> None:
        assert not profile.valid
        assert "too short: 5 samples, at least 100 are needed" in profile.invalid_reasons

    def test_what_cannot_be_measured_is_null_and_says_why(self, profile: Profile) -> None:
        if profile.power is None:
            assert profile.power_absent
            assert profile.memory.gpu_mib is None
            assert profile.memory.gpu_absent

    def test_a_paced_frame_waits_for_its_turn(self, bundle: Path, drive: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            chips = iter(("before", "after"))
            rigs: list[Any] = []
            asked: list[tuple[Any, ...]] = []

            def roofline(rig: Any, *rest: Any) -> profiler.Roofline:
                rigs.append(rig)
                asked.append(rest)
                return NO_ROOFLINE

            patch.setattr(profiler, "_start", lambda *_: None)
            patch.setattr(profiler, "_roofline", roofline)
            patch.setattr(profiler, "measure_chip", lambda threads: next(chips))
            patch.setattr(profiler, "warm_up", None)  # frames that do not count are not asked for
            meter = Mock(source="NVML", what="Card")
            meter.stop.return_value = Readings([10.0, 20.0], [100.26, 300.26, 200.0], 2)
            patch.setattr(profiler, "open_meter", lambda backend: (meter, None))
            told: list[str] = []
            options = Options(str(bundle), drive, samples=4, warmup=0, fps=1000)
            began_s = time.perf_counter()
            paced = measure(options, told.append)
        elapsed_s = time.perf_counter() - began_s
        assert told == [
            "profiling blocks on drive", *(f"measuring: {n} of 4" for n in range(1, 5)),
            "graphs and cold starts",
        ]  # fmt: skip
        assert asked == [("cpu", "before", "after")]
        assert 0 < sum(rigs[0].load_ms) < 1000 * elapsed_s
        assert 0 < paced.seconds < elapsed_s
        assert paced.power is not None
        energy_j = paced.power.energy_per_frame_j
        assert paced.power == Power("NVML", "Card", 15.0, energy_j)
        # Of the time before it was rounded to a millisecond.
        assert energy_j == pytest.approx(15 * paced.seconds / 4, abs=15 * 0.0005 / 4 + 1e-4)
        assert paced.power_absent is None
        assert (paced.memory.gpu_mib, paced.memory.gpu_absent) == (300.3, None)
        counted = "throttled: the system counted 2 throttling events"
        assert counted in paced.invalid_reasons
        assert 4 / paced.throughput_fps == pytest.approx(paced.seconds, abs=0.001)
        assert next(iter(paced.stages_ms)) == "device.queue"
        assert paced.late_frames == 3
        assert any("too fast: 3 of 4 frames" in reason for reason in paced.invalid_reasons)
        rooms = sum(paced.latency_ms[room].mean for room in ("device", "link", "side", "server"))
        queued = paced.stages_ms["device.queue"].mean
        assert paced.latency_ms["end_to_end"].mean == pytest.approx(rooms + queued, abs=0.01)

    def test_memory_of_a_card_that_nobody_tells_has_a_reason(self) -> None:
        loop: Any = SimpleNamespace(peak_rss_mib=7.0, readings=Readings([1.0], []))
        unknown = "the meter does not tell this process's"
        assert profiler._memory(loop, None) == Memory(7.0, None, unknown)
        assert profiler._memory(loop, "no meter") == Memory(7.0, None, "no meter")

    def test_a_cold_start_that_fails_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile_cold_start, "_PROGRAM", "raise OSError('disk')")
        chosen = {"path": Path(), "precision": "auto", "look": "faithful"}
        bundle: Any = type("Bundle", (), chosen)
        with pytest.raises(DsinError, match="could not encode a frame: OSError: disk"):
            profile_cold_start.cold_start_ms(bundle, "cpu", None, None, np.zeros((8, 8, 3), "u1"))

    def test_without_a_count_it_goes_on_until_both_limits(self) -> None:
        enough = profiler._enough
        assert [enough(None, 100, 5.0), enough(None, 60, 30.0), enough(None, 100, 10.0)] == [
            False, False, True,
        ]  # fmt: skip
        assert [enough(3, 2, 99.0), enough(3, 3, 0.1)] == [False, True]


NO_ROOFLINE = profiler.Roofline(1.0, 1.0, 1.0, (), None, "not counted here")


class TestReports:
    def test_json(self, profile: Profile) -> None:
        content = json.loads(json.dumps(profile.to_json(), allow_nan=False))
        assert content["dsin_profile"] == 1
        assert content["valid"] is False
        assert content["stages_ms"]["server.search"].keys() == {
            "samples", "min", "p50", "p90", "p95", "p99", "max", "mean", "cv"
        }  # fmt: skip
        assert content["roofline"]["graphs"][0].keys() >= {"gmac", "mbytes", "share_of_bound"}
        assert len(content["identity"]["bundle_sha256"]) == 64
        assert content["conditions"]["fps"] is None
        assert len(content["end_to_end_ms"]) == 5

    def test_table(self, profile: Profile) -> None:
        lines = profile.table().splitlines()
        assert lines[0] == (
            f"p90       {profile.single_stream_p90_ms:.1f} ms from frame to picture (single stream)"
        )
        assert lines[1] == "valid     no"
        assert any(line.startswith("device  capture ") for line in lines)
        assert any(line.startswith("        fusion ") for line in lines)
        (row,) = (line for line in lines if line.startswith("end to end"))
        assert f"{profile.latency_ms['end_to_end'].p50:.2f}" in row
        assert sum(line.startswith(("encoder ", "x_decoder ", "fusion ")) for line in lines) == 3

    def test_html_is_well_formed_and_needs_nothing_else(self, profile: Profile) -> None:
        page = to_html(profile)
        assert not re.findall(r"https?:|//|@import|url\(|<script|src=|href=", page)
        tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
        assert len(list(tree.iter("svg"))) == len(STAGES) + 2
        assert "prefers-color-scheme: dark" in page
        assert 'name="viewport"' in page
        text = " ".join("".join(tree.itertext()).split())
        assert "not valid" in text
        assert "too short: 5 samples" in text
        assert profile.identity.bundle_sha256 in text

    def test_names_are_escaped(self, profile: Profile) -> None:
        conditions = replace(profile.conditions, bundle="<b>&")
        page = to_html(replace(profile, conditions=conditions))
        ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
        assert "<b>&" not in page

    def test_a_single_sample_can_be_drawn(self, profile: Profile) -> None:
        ElementTree.fromstring(
            to_html(replace(profile, end_to_end_ms=(2.5,))).removeprefix("<!DOCTYPE html>\n")
        )

    def test_without_rooflines_the_reason_is_shown(self, profile: Profile) -> None:
        without = replace(profile, roofline=NO_ROOFLINE)
        assert without.table().splitlines()[-1] == "roofline  none: not counted here"
        page = to_html(without)
        assert "<h2>Rooflines</h2>\n" in page
        assert "<p>None: not counted here.</p>" in page

    def test_only_graphs_with_a_bound_can_be_doubtful(self, profile: Profile) -> None:
        graph = replace(profile.roofline.graphs[0], share_of_bound=2.2, bound_ms=1.0)
        eight = replace(
            graph, graph="eight", bound_ms=None, limited_by=None, share_of_bound=None,
            bound_absent="in 8 bits",
        )  # fmt: skip
        assert (profiler._doubt((eight,)), profiler._doubt(())) == (None, None)
        doubt = profiler._doubt((eight, graph))
        assert doubt is not None
        assert doubt.startswith("encoder ran 2.2 times as fast")
        with_eight = replace(
            profile, roofline=replace(profile.roofline, graphs=(graph, eight), doubt=None)
        )
        lines = with_eight.table().splitlines()
        assert lines[-2].split()[-2:] == ["-", "-"]
        assert lines[-1] == "no bound: in 8 bits"
        page = to_html(with_eight)
        assert "No bound: in 8 bits." in page
        ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))

    def test_a_valid_profile_says_so(self, profile: Profile) -> None:
        valid = replace(profile, valid=True, invalid_reasons=())
        assert valid.table().splitlines()[1] == "valid     yes"
        assert '<p class="verdict yes">valid</p>' in to_html(valid)


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["dsin", "profile", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0
        return 0

    def test_writes_what_was_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
        profile: Profile, tmp_path: Path, drive: Path,
    ) -> None:  # fmt: skip
        asked = []
        monkeypatch.setattr(profiler, "measure", lambda o, _: asked.append(o) or profile)
        files = tmp_path / "p.json", tmp_path / "p.html"
        status = self.run(
            monkeypatch, "b", "--kitti", drive, "--samples", 7, "--warmup", 2, "--fps", 10,
            "--rate", 1, "--threads", 1, "--json", files[0], "--html", files[1],
        )  # fmt: skip
        assert status == 0
        assert asked == [Options("b", drive, 7, 2, 10.0, 1, 1, "cpu")]
        assert capfd.readouterr() == (profile.table() + "\n", "")
        assert json.loads(files[0].read_text()) == json.loads(json.dumps(profile.to_json()))
        assert files[1].read_text() == to_html(profile)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nix"], "there is no bundle nix"),
            (["BUNDLE", "--rate", "9"], "rates 0 to 1, not 9"),
            (["BUNDLE", "--kitti", "absent"], "there is no folder absent"),
            (["BUNDLE", "--fps", "0"], "0 frames a second: ask for more than 0"),
            (["--json", "absent/p.json"], "cannot write absent/p.json: its folder does not exist"),
            (["--html", "absent/p.html"], "cannot write absent/p.html: its folder does not exist"),
        ],
    )
    def test_refusals_are_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
        bundle: Path, arguments: list[str], words: str,
    ) -> None:  # fmt: skip
        filled = [str(bundle) if word == "BUNDLE" else word for word in arguments]
        assert self.run(monkeypatch, *filled) == 1
        out, err = capfd.readouterr()
        assert out == ""
        assert re.fullmatch(rf"dsin: .*{re.escape(words)}.*\n", err)

    @pytest.mark.parametrize("option", ["--samples", "--threads", "--frames"])
    def test_counts_start_at_one(self, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
        assert self.run(monkeypatch, option, "0") == 2

    def test_a_library_call_is_checked_too(self) -> None:
        for options in (Options(samples=0), Options(warmup=-1), Options(fps=-1)):
            with pytest.raises(DsinError, match="ask for"):
                run_profile(options)

    def test_importing_it_loads_no_framework(self) -> None:
        program = "import sys, dsin.runtime.profiling.profiler; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        loaded = {name.partition(".")[0] for name in done.stdout.split()}
        assert "numpy" in loaded
        assert not loaded & {"torch", "onnx", "onnxruntime", "tensorrt", "pynvml"}

    def test_without_onnxruntime_there_are_no_rooflines(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert profile_graphs.absent_reason("cpu") is None
        assert "on the CPU only" in str(profile_graphs.absent_reason("cuda"))
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        assert "pip install 'dsin[cpu]'" in str(profile_graphs.absent_reason("cpu"))
