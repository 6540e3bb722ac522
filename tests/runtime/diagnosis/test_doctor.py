"""`dsin doctor`: what is there, what is missing and what brings it, what is there and broken."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.command_line import command_line

from dsin.runtime import caches
from dsin.runtime.diagnosis import doctor as module
from dsin.runtime.diagnosis.doctor import Finding, diagnose
from dsin.runtime.diagnosis.extras import Extra
from dsin.runtime.errors import DsinError
from dsin.runtime.profiling.machine import Machine


def look(section: str) -> dict[str, Finding]:
    return {found.name: found for found in module._SECTIONS[section](section)}


def test_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dsin = command_line(monkeypatch, capfd)
    done = dsin("doctor", "--json", tmp_path / "d.json")
    assert done.status == 0
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["dsin_doctor"] == 1
    found = {(f["section"], f["name"]): f for f in report["findings"]}
    assert {section for section, _ in found} == module._SECTIONS.keys()
    assert found["backends", "cpu"]["status"] == "there"
    assert found["bundles", "edge"]["status"] == "there"
    for name in ("extras", "cpu", "video codecs", report["machine"]["name"]):
        assert name in done.out
    assert dsin("doctor", "--json", tmp_path / "none" / "d.json").status == 1


def test_a_remedy_stands_below_what_is_missing() -> None:
    machine, found = diagnose().machine, Finding("extras", "rerun", "missing", "no", "pip it")
    *_, title, line, remedy = module.Diagnosis(machine, {}, (found,)).table().splitlines()
    assert title == "extras"
    assert line.split() == ["no", "rerun", "no"]
    assert remedy.strip() == "→ pip it"


def test_the_table_has_a_section_of_lines_that_are_not_too_long() -> None:
    found = (
        Finding("extras", "rerun", "missing", "not there", "pip it"),
        Finding("extras", "av", "broken", "x " * 80),
        Finding("backends", "cpu", "there", "onnxruntime 1.2"),
    )
    machine = Machine("Chip", "riscv64", "Linux 6", 3, None, None)
    report = module.Diagnosis(machine, {"python": "3.12", "numpy": "2"}, found)
    assert report.table().split("\n") == [
        "Chip, riscv64, 3 threads, Linux 6",
        "python 3.12, numpy 2",
        "",
        "extras",
        "  no     rerun                 not there",
        "                               → pip it",
        f"  BROKEN av                    {'x ' * 54}…",
        "",
        "backends",
        "  yes    cpu                   onnxruntime 1.2",
    ]
    assert json.loads(json.dumps(report.to_json()))["findings"][1]["detail"] == "x " * 80


def test_it_tells_what_it_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = {name: lambda section: [Finding(section, "it", "there", "")] for name in ("a", "b")}
    monkeypatch.setattr(module, "_SECTIONS", looks)
    told: list[str] = []
    found = diagnose(told.append).findings
    assert told == ["looking at a", "looking at b"]
    assert [(f.section, f.name) for f in found] == [("a", "it"), ("b", "it")]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "diagnose", lambda tell: pytest.fail("it looked"))
    with pytest.raises(DsinError, match="its folder does not exist"):
        module.run_doctor(tmp_path / "none" / "d.json")


def test_an_extra_has_the_versions_that_are_there_or_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = [Extra("video", {"av": "1", "x": "2"}, []), Extra("rerun", {"y": "3"}, ["a", "b>2"])]
    monkeypatch.setattr(module, "extras", lambda: some)
    monkeypatch.setattr(module, "installed_version", lambda name: None)
    assert list(look("extras").values()) == [
        Finding("extras", "video", "there", "av 1, x 2"),
        Finding("extras", "rerun", "missing", "without a, b>2", "pip install 'dsin[rerun]'"),
    ]


@pytest.mark.parametrize("fast", [True, False])
def test_whether_8_bit_networks_are_worth_it(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(module, "computes_int8_fast", lambda: fast)
    detail = "this processor has fast and right 8-bit products" if fast else "float is used instead"
    status = "there" if fast else "missing"
    assert look("backends")["8-bit networks"] == Finding(
        "backends", "8-bit networks", status, detail
    )


def test_backends_that_are_missing_say_what_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    found = look("backends")
    assert found["cpu"].remedy == "pip install 'dsin[cpu]'"
    assert found["cuda"].remedy == "pip uninstall -y onnxruntime; pip install 'dsin[gpu]'"
    assert (found["tensorrt"].remedy or "").startswith("pip install 'dsin[tensorrt]'")
    assert {found[name].status for name in ("cpu", "cuda", "tensorrt")} == {"missing"}


def test_a_backend_that_is_there_and_fails_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RuntimeError("library of another version\nand more")

    monkeypatch.setattr(module, "_cpu", fail)
    assert look("backends")["cpu"] == Finding(
        "backends", "cpu", "broken", "RuntimeError: library of another version"
    )


def test_two_runtimes_in_one_environment_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed_version", lambda name: "1.32")
    assert look("extras")["onnxruntime"].status == "broken"
    monkeypatch.setattr(module, "installed_version", {"onnxruntime": "1.32"}.get)
    assert "onnxruntime" not in look("extras")


def test_cameras_have_names_and_may_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEVICES", tmp_path)
    monkeypatch.setattr(module, "_SYSFS", tmp_path / "sys")
    assert look("cameras")["USB and CSI cameras"].status == "missing"
    for name in ("video10", "video2"):
        (tmp_path / name).touch()
    (tmp_path / "sys" / "video2").mkdir(parents=True)
    (tmp_path / "sys" / "video2" / "name").write_bytes(b"HD Webcam \xff\n")
    asked: list[int] = []

    def access(path: Path, mode: int) -> bool:
        asked.append(mode)
        return Path(path).name == "video2"

    monkeypatch.setattr(os, "access", access)
    found = look("cameras")
    assert list(found)[:2] == [str(tmp_path / "video2"), str(tmp_path / "video10")]
    first, second = list(found.values())[:2]
    assert (first.status, first.detail) == ("there", "HD Webcam \N{REPLACEMENT CHARACTER}")
    assert (second.status, second.remedy) == ("broken", "sudo usermod -aG video $USER")
    assert second.detail == "no name, may not be opened"
    assert set(asked) >= {os.R_OK | os.W_OK}


@pytest.mark.parametrize(
    ("script", "status"),
    [(None, "missing"), ("exit 1", "broken"), ("echo gst-launch-1.0 version 1.22", "there")],
)
def test_gstreamer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, status: str
) -> None:
    if script is not None:
        (tmp_path / "gst-launch-1.0").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "gst-launch-1.0").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = look("cameras")["GStreamer"]
    assert found.status == status
    if status == "there":
        assert "1.22" in found.detail


def test_video_codecs_that_this_pyav_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look("video codecs")["decoding h264"].status == "there"

    def codec(name: str, mode: str) -> SimpleNamespace:
        if mode == "w":
            raise ValueError(name)
        return SimpleNamespace(long_name="long")

    fake = SimpleNamespace(Codec=codec, __version__="1")
    monkeypatch.setitem(sys.modules, "av", fake)
    found = look("video codecs")
    assert (found["decoding av1"].status, found["decoding av1"].detail) == ("there", "long, PyAV 1")
    assert found["encoding hevc"].status == "missing"
    monkeypatch.setitem(sys.modules, "av", None)
    assert look("video codecs")["video files"].remedy == "pip install 'dsin[video]'"


@pytest.mark.parametrize(
    ("kept", "status", "detail"),
    [
        (True, "there", "compiled by an earlier run"),
        (False, "missing", "the first run compiles, up to a minute"),
    ],
)
def test_kernels_that_the_first_run_compiles(
    monkeypatch: pytest.MonkeyPatch, kept: bool, status: str, detail: str
) -> None:
    monkeypatch.setattr("dsin.runtime.caches.has_kernels", lambda: kept)
    found = look("compilers and caches")
    assert list(found) == ["kernels of the CPU", "NVRTC", "cache"]
    assert (found["kernels of the CPU"].status, found["kernels of the CPU"].detail) == (
        status, detail,
    )  # fmt: skip
    assert (found["cache"].status, found["cache"].detail) == ("there", str(caches.cache_folder()))


def test_a_bundle_has_its_size_and_codec_id(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(file_bytes={"a": 1_500_000, "b": 750_000}, codec_id=b"\x01\xab")
    monkeypatch.setattr(module, "open_bundle", lambda name: fake)
    found = look("bundles")["edge"]
    assert (found.status, found.detail) == ("there", "whole, 2.2 MB, codec id 01ab")


def test_a_bundle_that_was_altered_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from dsin.runtime.errors import BundleError

    def refuse(name: str) -> None:
        raise BundleError(f"{name} was altered: its sha256 is another")

    monkeypatch.setattr(module, "open_bundle", refuse)
    found = look("bundles")["edge"]
    assert (found.status, found.remedy) == ("broken", "install dsin again")
    assert found.detail == "edge was altered: its sha256 is another"
