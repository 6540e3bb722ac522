"""The parts of a profile, on made-up measurements and on graphs whose cost is known by hand."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsin.runtime.backends.session import open_session, wrapped_sessions
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.errors import DsinError, PacketError
from dsin.runtime.profiling import chip as profile_chip
from dsin.runtime.profiling import graphs as profile_graph_costs
from dsin.runtime.profiling import machine as profile_machine
from dsin.runtime.profiling import pipeline as profile_pipeline
from dsin.runtime.profiling import power as profile_power
from dsin.runtime.profiling.graphs import SessionRecorder, count_operations, profile_graphs
from dsin.runtime.profiling.link import Loopback
from dsin.runtime.profiling.machine import Commit, describe_machine, source_commit, versions
from dsin.runtime.profiling.pipeline import Frames, Pacer
from dsin.runtime.profiling.power import (
    NvmlMeter,
    Power,
    Readings,
    Tegrastats,
    chosen_card,
    metering,
    power_of,
    watts_of,
)
from dsin.runtime.profiling.report import ordered
from dsin.runtime.profiling.statistics import Statistics, reasons_against
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.stopwatch import Stopwatch


def verdict(values: list[float], **changes: Any) -> tuple[str, ...]:
    measured = {"seconds": 60.0, "gmacs_before": 100.0, "gmacs_after": 99.0, **changes}
    return reasons_against(Statistics.of(values), **measured)


class TestStatistics:
    def test_of_known_values(self) -> None:
        assert Statistics.of(list(range(1, 102))) == Statistics(
            samples=101, min=1, p50=51, p90=91, p95=96, p99=100, max=101, mean=51,
            cv=round(np.sqrt((101**2 - 1) / 12) / 51, 4),
        )  # fmt: skip

    def test_of_one_value(self) -> None:
        assert Statistics.of([7.5]) == Statistics(1, *[7.5] * 7, cv=0.0)

    def test_steady_measurements_are_valid(self) -> None:
        assert verdict([100.0, 104.0] * 50) == ()

    def test_too_short(self) -> None:
        (reason,) = verdict([100.0] * 99)
        assert reason == "too short: 99 samples, at least 100 are needed"
        (reason,) = verdict([1.0] * 1000, seconds=1.0)
        assert reason == "too short: 1.0 s, at least 10 s are needed"

    def test_unstable(self) -> None:
        assert verdict([95.0, 105.0] * 50) == ()
        (reason,) = verdict([90.0, 110.0] * 50)
        assert reason == "unstable: the latency's CV is 10.0 %, at most 5 % is allowed"

    def test_throttled(self) -> None:
        assert verdict([100.0] * 100, gmacs_after=91.0) == ()
        (reason,) = verdict([100.0] * 100, gmacs_after=89.0)
        assert reason.startswith("throttled or shared: a matrix product ran at 100.0 GMAC/s before")
        (reason,) = verdict([100.0] * 100, throttle_events=3)
        assert reason == "throttled: the system counted 3 throttling events"

    def test_paced_faster_than_it_can_be(self) -> None:
        (reason,) = verdict([100.0] * 100, late_frames=7)
        assert reason.startswith("too fast: 7 of 100 frames came while")

    def test_every_reason_is_given(self) -> None:
        assert len(verdict([1.0, 2.0], seconds=0.1, gmacs_after=1.0)) == 4


class Clock:
    """Time that passes only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class TestPacer:
    def test_a_closed_loop_never_waits(self) -> None:
        clock = Clock()
        pacer = Pacer(None, clock, clock.sleep)
        assert [pacer.wait() for _ in range(3)] == [None] * 3
        assert clock.now == 5.0

    def test_frames_come_at_their_pace_and_wait_for_the_one_before(self) -> None:
        clock = Clock()
        pacer = Pacer(10, clock, clock.sleep)
        waited = []
        for work_s in (0.05, 0.25, 0.01, 0.01, 0.01):
            waited.append(pacer.wait())
            clock.now += work_s
        # The slow second frame keeps the third waiting for 150 ms, and that one the fourth.
        assert waited == pytest.approx([0, 0, 150, 60, 0], abs=1e-6)
        assert pacer.late_frames == 2
        assert clock.now == pytest.approx(5.41)


def test_frames_of_the_rig_are_drawn_once_and_taken_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So they cost no capture, unlike those of a recording."""
    drawn: list[tuple[int, str]] = []

    class Rig(SyntheticRig):
        def view(self, index: int, side: Any) -> Any:
            drawn.append((index, side))
            return super().view(index, side)

    rig = Rig(width=64, height=48, frames=2)
    monkeypatch.setattr(profile_pipeline, "open_stereo", lambda recording, side: rig)
    expected = [(number, side) for number in range(2) for side in ("left", "right")]
    for recording, times in ((None, set()), ("drive", {"device.capture", "side.capture"})):
        drawn.clear()
        frames, watch = Frames(recording), Stopwatch()
        taken = [frames.take(number, watch) for number in range(4)]
        assert drawn == expected * (1 if recording is None else 2)
        for number, pair in enumerate(taken):
            for view, side in zip(pair, ("left", "right"), strict=True):
                assert np.array_equal(view, SyntheticRig.view(rig, number % 2, side))  # type: ignore[arg-type]
        assert set(watch.ms) == times


class TestLoopback:
    def test_frames_arrive_as_they_were_sent(self) -> None:
        with Loopback(b"codec!", (48, 64)) as link:
            for number, size in enumerate((0, 5, 300_000)):
                header = PacketHeader(b"codec!", 64, 48, 1, number, 1000 * number)
                payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
                packet = Packet(header, payload)
                assert link.round_trip(packet) == packet

    def test_a_packet_of_another_codec_is_refused(self) -> None:
        other = Packet(PacketHeader(b"other!", 64, 48), b"")
        with Loopback(b"codec!", (48, 64)) as link, pytest.raises(PacketError, match="another"):
            link.round_trip(other)


def convolutions() -> onnx.ModelProto:
    """A grouped convolution with stride 2, a transposed one, and a matrix product."""
    shapes: dict[str, tuple[int, ...]] = {
        "w": (8, 2, 3, 3), "t": (8, 4, 2, 2), "m": (20, 5)
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["a"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("ConvTranspose", ["b", "t"], ["c"], strides=[2, 2]),
        node("MatMul", ["c", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "known",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "h", 5])],
        [numpy_helper.from_array(np.ones(s, np.float32), k) for k, s in shapes.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


MACS = (
    8 * (6 * 10) * 2 * 9  # every output of the grouped convolution sees two channels
    + 8 * (6 * 10) * 4 * 4  # every input of the transposed one reaches 4 channels of 2×2
    + 4 * 12 * 20 * 5
)
MOVED_BYTES = 4 * (
    (4 * 12 * 20 + 8 * 2 * 9 + 8 * 6 * 10)
    + (8 * 6 * 10 + 8 * 4 * 4 + 4 * 12 * 20)
    + (4 * 12 * 20 + 20 * 5 + 4 * 12 * 5)
)
X = np.zeros((1, 4, 12, 20), np.float32)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "known.onnx"
    onnx.save(convolutions(), path)
    return path


class TestGraphs:
    def test_counted_as_by_hand(self, known: Path) -> None:
        cost = count_operations(known, {"x": X})
        assert cost.gmac == pytest.approx(MACS / 1e9)
        assert cost.mbytes == pytest.approx(MOVED_BYTES / 1e6)
        assert cost.precision == "float32"

    def test_transposed_gemm(self, tmp_path: Path) -> None:
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["a", "b"], ["y"], transA=1)], "gemm",
            [helper.make_tensor_value_info("a", TensorProto.DOUBLE, [7, 3])],
            [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [3, 2])],
            [numpy_helper.from_array(np.ones((7, 2)), "b")],
        )  # fmt: skip
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        )  # fmt: skip
        onnx.save(model, tmp_path / "gemm.onnx")
        cost = count_operations(tmp_path / "gemm.onnx", {"a": np.ones((7, 3))})
        assert cost.gmac == pytest.approx(3 * 7 * 2 / 1e9)
        assert cost.precision == "float64"

    def test_of_a_convolution_in_8_bits(self, tmp_path: Path) -> None:
        constants = {
            "x_scale": np.float32(1), "x_zero": np.uint8(0), "w": np.ones((4, 3, 1, 2), np.int8),
            "w_scale": np.float32(1), "w_zero": np.int8(0), "y_scale": np.float32(1),
            "y_zero": np.uint8(0),
        }  # fmt: skip
        graph = helper.make_graph(
            [helper.make_node("QLinearConv", ["x", *constants], ["y"])],
            "convolution",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 5, 8])],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 4, 5, 7])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        )  # fmt: skip
        onnx.save(model, tmp_path / "conv.onnx")
        cost = count_operations(tmp_path / "conv.onnx", {"x": np.ones((1, 3, 5, 8), np.uint8)})
        assert cost.gmac == pytest.approx(4 * 5 * 7 * 3 * 2 / 1e9)

    def test_a_trace_of_another_kind_is_told(
        self, known: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a later onnxruntime, say."""
        monkeypatch.setattr(
            profile_graph_costs, "_traced", lambda *_: [{"op_name": "MatMul", "input_shapes": 7}]
        )
        with pytest.raises(DsinError, match=r"^onnxruntime's trace of known.onnx cannot be read: "):
            count_operations(known, {"x": X})

    def test_alone_against_what_the_chip_can_do(self, known: Path) -> None:
        recorder = SessionRecorder()
        with wrapped_sessions(recorder):
            session = open_session(known, threads=1)
        plain = open_session(known, threads=1)
        session.run(x=X)
        recorder.record(True)
        for _ in range(2):
            assert np.array_equal(session.run(x=X)["y"], plain.run(x=X)["y"])
        recorder.record(False)
        assert recorder.providers == {"known": "CPUExecutionProvider"}
        # A chip that is quick at everything but memory.
        (graph,) = profile_graphs(recorder, profile_chip.ChipSpeed(gmacs=1e6, gbytes=1e-3))
        assert (graph.graph, graph.runs_per_frame, graph.limited_by) == ("known", 2, "memory")
        assert graph.bound_ms == pytest.approx(MOVED_BYTES / 1e6 / 1e-3, abs=1e-3)
        assert graph.share_of_bound == pytest.approx(graph.bound_ms / graph.ms.p50, abs=1e-3)
        assert graph.bound_absent is None

    @pytest.mark.parametrize("quantise", [True, False])
    def test_a_graph_in_8_bits_has_no_bound_of_float_products(
        self, tmp_path: Path, quantise: bool
    ) -> None:
        """Whether its input is turned into 8 bits inside, or comes in them."""
        kind = TensorProto.FLOAT if quantise else TensorProto.UINT8
        nodes = [helper.make_node("MatMulInteger", ["q", "m"], ["y"])]
        if quantise:
            nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]))
        graph = helper.make_graph(
            nodes, "eight",
            [helper.make_tensor_value_info("x" if quantise else "q", kind, [4, 20])],
            [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 5])],
            [numpy_helper.from_array(np.ones((20, 5), np.int8), "m"),
             numpy_helper.from_array(np.float32(1), "scale"),
             numpy_helper.from_array(np.uint8(0), "zero")],
        )  # fmt: skip
        opset = helper.make_opsetid("", 18)
        onnx.save(
            helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "eight.onnx"
        )
        recorder = SessionRecorder()
        with wrapped_sessions(recorder):
            session = open_session(tmp_path / "eight.onnx", threads=1)
        recorder.record(True)
        if quantise:
            session.run(x=np.ones((4, 20), np.float32))
        else:
            session.run(q=np.ones((4, 20), np.uint8))
        slow = profile_chip.ChipSpeed(gmacs=1e-6, gbytes=1e-6)
        (eight,) = profile_graphs(recorder, slow)
        assert eight.gmac == pytest.approx(4 * 20 * 5 / 1e9, abs=1e-6)
        assert (eight.bound_ms, eight.limited_by, eight.share_of_bound) == (None, None, None)
        assert eight.bound_absent is not None
        assert eight.precision == "int8 (QDQ)"


class TestChip:
    def test_is_measured(self) -> None:
        chip = profile_chip.measure_chip(1)
        assert chip.gmacs > 0
        assert chip.gbytes > 0

    def test_figures_are_of_the_fastest_run_on_all_threads(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two seconds for 3 products of 100x100x100, and for copying 6000 bytes."""
        ran: list[list[Any]] = []

        def fastest_s(work: Callable[[], list[Any]]) -> float:
            ran.append(work())
            return 2.0

        monkeypatch.setattr(profile_chip, "_fastest_s", fastest_s)
        monkeypatch.setattr(profile_chip, "PRODUCT_SIZE", 100)
        monkeypatch.setattr(profile_chip, "COPY_BYTES", 6000)
        monkeypatch.setattr(sys, "argv", ["chip", "3"])
        profile_chip.main()
        assert json.loads(capsys.readouterr().out) == [3e6 / 1e9 / 2, 2 * 6000 / 1e9 / 2]
        products, copies = ran
        assert [product.shape for product in products] == [(100, 100)] * 3
        assert len(copies) == 3

    def test_the_first_run_does_not_count_and_the_others_go_on_for_a_while(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(profile_chip, "time", SimpleNamespace(perf_counter=clock))
        share = profile_chip.SECONDS / 8
        lengths = [0.001, 3 * share, 2 * share, 4 * share, share, share]
        took = iter(lengths)
        fastest_s = profile_chip._fastest_s(lambda: clock.sleep(next(took)))
        assert fastest_s == pytest.approx(2 * share)
        assert list(took) == lengths[4:], "those after the time is over"

    def test_libraries_compute_on_one_thread_in_each_of_ours(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[list[str], dict[str, str]]] = []

        def run(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
            asked.append((command, env))
            return SimpleNamespace(returncode=0, stdout="[12.5, 3.5]")

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(profile_chip, "available_threads", lambda: 7)
        monkeypatch.setenv("KEPT", "as it is")
        assert profile_chip.measure_chip(2) == profile_chip.ChipSpeed(gmacs=12.5, gbytes=3.5)
        profile_chip.measure_chip(None)
        assert [(command[0], command[-1]) for command, _ in asked] == [
            (sys.executable, "2"), (sys.executable, "7"),
        ]  # fmt: skip
        for _, environment in asked:
            assert environment["KEPT"] == "as it is"
            assert {environment[name] for name in profile_chip._LIBRARY_THREADS} == {"1"}

    def test_a_process_that_fails_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile_chip, "_PROGRAM", "raise MemoryError('no memory')")
        with pytest.raises(DsinError, match="processor's speed: MemoryError: no memory"):
            profile_chip.measure_chip(1)


class FakeNvml:
    """pynvml of a card that takes 250 W, is hot, and does not tell of processes."""

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, card: int) -> bytes:  # noqa: N802
        return b"Card"

    def nvmlDeviceGetPowerUsage(self, card: int) -> int:  # noqa: N802
        return 250_000

    def nvmlDeviceGetComputeRunningProcesses(self, card: int) -> list[SimpleNamespace]:  # noqa: N802
        raise self.NVMLError

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: int) -> int:  # noqa: N802
        return 0x20 | 0x01


def wait_for(path: Path) -> None:
    """Until a file appears, or half a minute."""
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)


class TestPower:
    def test_of_a_card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        meter = NvmlMeter(FakeNvml())
        with metering(meter) as readings:
            pass
        assert set(readings.watts) == {250.0}
        assert readings.throttle_events == len(readings.watts)
        assert readings.gpu_mib == []
        power = power_of(meter, readings, seconds=10.0, frames=100)
        assert power is not None
        assert power == Power("NVML", "Card", 250.0, 25.0)
        assert power_of(meter, Readings([1.0, 2.0, 2.0]), seconds=10.0, frames=3) == Power(
            "NVML", "Card", 1.667, 5.5556
        )

    def test_memory_is_that_of_this_process(self) -> None:
        class Known(FakeNvml):
            def nvmlDeviceGetComputeRunningProcesses(self, card: int) -> list[SimpleNamespace]:  # noqa: N802
                users = (os.getpid(), 3 * 2**20), (os.getpid(), None), (1, 2**30)
                return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in users]

            def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: int) -> int:  # noqa: N802
                return 0x01  # idle

        with metering(NvmlMeter(Known())) as readings:
            pass
        assert set(readings.gpu_mib) == {3.0}
        assert readings.throttle_events == 0

    @pytest.mark.parametrize(
        ("visible", "chosen", "card"),
        [
            (None, None, "0"), (None, "1", "1"), ("3", None, "3"), ("3,5", "1", "5"),
            ("3,5", "7", "5"),
            ("GPU-1a,GPU-2b", "1", "GPU-2b"),
        ],
    )  # fmt: skip
    def test_it_is_that_of_the_chosen_card(
        self, monkeypatch: pytest.MonkeyPatch, visible: str | None, chosen: str | None, card: str
    ) -> None:
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("DSIN_GPU", chosen)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert chosen_card() == card

    def test_of_a_jetson(self, tmp_path: Path) -> None:
        program = tmp_path / "tegrastats"
        program.write_text(
            '#!/bin/sh\n[ "$*" = "--interval 100" ] || exit\n'
            "echo 'RAM 2/7 GR3D_FREQ 0% VDD_IN 4980mW/4900mW VDD_CPU 9mW/9mW'\n"
            "echo 'RAM 2/7 VDD_IN 5020mW/4900mW'\necho noise\n"
            'touch "$(dirname "$0")/printed"\nexec sleep 60\n'
        )
        program.chmod(0o755)
        meter = Tegrastats(str(program))
        with metering(meter) as readings:
            wait_for(program.with_name("printed"))
        assert readings.watts == [4.98, 5.02]

    @pytest.mark.parametrize(
        ("why", "slowed"),
        [(0, 0), (0x01 | 0x04, 0), (0x08, 1), (0x20, 1), (0x40 | 0x02, 1), (0x80, 1)],
    )
    def test_only_heat_and_power_count_as_slowing_a_card_down(self, why: int, slowed: int) -> None:
        nvml = FakeNvml()
        nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda card: why  # type: ignore[method-assign]
        with metering(NvmlMeter(nvml)) as readings:
            pass
        assert readings.throttle_events == slowed * len(readings.watts)

    def test_older_boards_name_the_rail_otherwise(self) -> None:
        assert watts_of("SWAP 0/1 POM_5V_IN 2532/2500 POM_5V_GPU 0/0") == 2.532
        assert watts_of("RAM 1/2") is None

    def test_nothing_is_made_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile_power.shutil, "which", lambda name: None)
        monkeypatch.setattr(profile_power, "_nvml", lambda: None)
        assert profile_power.open_meter("cpu") == (None, profile_power.NO_METER)
        with metering(None) as readings:
            pass
        assert readings == Readings()
        assert power_of(NvmlMeter(FakeNvml()), readings, 1.0, 1) is None

    def test_nvml_is_there_where_its_library_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = SimpleNamespace(NVMLError=FakeNvml.NVMLError, nvmlInit=Mock())
        monkeypatch.setitem(sys.modules, "pynvml", module)
        assert profile_power._nvml() is module
        module.nvmlInit.assert_called_once_with()
        module.nvmlInit.side_effect = FakeNvml.NVMLError("no driver")
        assert profile_power._nvml() is None
        monkeypatch.setitem(sys.modules, "pynvml", None)
        assert profile_power._nvml() is None

    def test_a_card_that_does_not_answer_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Gone(FakeNvml):
            def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
                raise self.NVMLError("no such card")

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(profile_power.shutil, "which", lambda name: None)
        monkeypatch.setattr(profile_power, "_nvml", Gone)
        reason = "NVML does not tell of the card: no such card"
        assert profile_power.open_meter("cuda") == (None, reason)

    def test_a_card_that_is_not_used_is_not_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile_power.shutil, "which", lambda name: None)
        monkeypatch.setattr(profile_power, "_nvml", FakeNvml)
        assert profile_power.open_meter("cpu") == (None, profile_power.NOT_ITS_METER)
        meter, reason = profile_power.open_meter("cuda")
        assert isinstance(meter, NvmlMeter)
        assert reason is None


class TestMachine:
    def test_is_described(self) -> None:
        machine = describe_machine()
        assert machine.name
        assert machine.threads >= 1
        assert {"python", "numpy", "onnxruntime"} <= versions().keys()

    @pytest.mark.parametrize(
        ("files", "name"),
        [
            ({"device-tree/model": "A Board\0", "cpuinfo": "model name : A Chip\n"}, "A Board"),
            ({"cpuinfo": "processor : 0\nmodel name\t: A Chip 9\nmodel name : B\n"}, "A Chip 9"),
            ({"cpuinfo": "processor : 0\n"}, "known to Python"),
            ({}, "known to Python"),
        ],
    )
    def test_its_processor_is_named_as_the_system_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], name: str
    ) -> None:
        for place, text in files.items():
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).write_text(text)
        texts = {f"/proc/{place}": tmp_path / place for place in ("device-tree/model", "cpuinfo")}
        read = profile_machine._text
        monkeypatch.setattr(profile_machine, "_text", lambda path: read(texts[str(path)]))
        monkeypatch.setattr(profile_machine.platform, "processor", lambda: "known to Python")
        assert profile_machine._processor_name() == name
        monkeypatch.setattr(profile_machine.platform, "processor", lambda: "")
        monkeypatch.setattr(profile_machine.platform, "machine", lambda: "riscv64")
        assert profile_machine._processor_name() == name.replace("known to Python", "riscv64")

    def test_only_a_tracked_file_has_a_commit(self, tmp_path: Path) -> None:
        (tmp_path / "module.py").touch()
        assert source_commit(tmp_path / "module.py") is None

    def test_a_commit_is_modified_where_a_tracked_file_is(self, tmp_path: Path) -> None:
        def git(*arguments: str) -> str:
            done = subprocess.run(
                ["git", "-C", str(tmp_path), *arguments], capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        file = tmp_path / "module.py"
        file.write_text("one\n")
        git("init", "-q")
        git("add", "module.py")
        git("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m")
        (tmp_path / "other.py").touch()
        commit = git("rev-parse", "HEAD")
        assert source_commit(file) == Commit(commit, modified=False)
        assert source_commit(tmp_path / "other.py") is None
        file.write_text("two\n")
        assert source_commit(file) == Commit(commit, modified=True)


def test_stages_come_in_the_order_in_which_a_frame_meets_them() -> None:
    names = ["server.fusion", "device.packetise", "link.network", "device.new", "device.compute",
             "device.host_to_device", "side.prepare", "device.queue", "server.entropy"]  # fmt: skip
    assert ordered(dict.fromkeys(names, ())) == [
        "device.queue", "device.host_to_device", "device.compute", "device.packetise", "device.new",
        "link.network", "side.prepare", "server.entropy", "server.fusion",
    ]  # fmt: skip
