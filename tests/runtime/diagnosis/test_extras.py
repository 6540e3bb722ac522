"""Extras as the package's metadata declares them, and what of them is installed."""

import re
import sys
from pathlib import Path

import pytest

from dsin.runtime.diagnosis import extras as module
from dsin.runtime.diagnosis.extras import extras, install_line

REQUIRES = [
    "numpy>=1.26",
    'onnxruntime>=1.20; extra == "cpu"',
    'av>=15; extra == "video"',
    "dsin[video]; extra == 'serve'",
    'aiohttp>=3.10; extra == "serve"',
    f'nothing>=1; sys_platform != "{sys.platform}" and extra == "serve"',
    'onnxruntime-gpu>=1.20; extra == "gpu"',
]


def found(**versions: str) -> dict[str, tuple[dict[str, str], list[str]]]:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return {e.name: (e.installed, e.missing) for e in extras(REQUIRES, named.get)}


def test_what_is_there_and_what_is_missing() -> None:
    assert found(numpy="2.4", onnxruntime="1.32.0", aiohttp="3.14") == {
        "cpu": ({"onnxruntime": "1.32.0"}, []),
        "video": ({}, ["av"]),
        "serve": ({"aiohttp": "3.14"}, ["av"]),  # what it names by another extra too
        "gpu": ({}, ["onnxruntime-gpu"]),
    }


def test_a_version_that_is_too_old_is_missing() -> None:
    assert found(av="14.2")["video"] == ({}, ["av>=15 (found 14.2)"])
    assert found(av="15.0.0rc1")["video"] == ({}, ["av>=15 (found 15.0.0rc1)"])


def test_the_gpus_onnxruntime_has_the_cpu_too() -> None:
    assert found(onnxruntime_gpu="1.31")["cpu"] == ({"onnxruntime": "1.31"}, [])


def test_every_declared_extra_is_told_of() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    block = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    names = re.findall(r"^([a-z-]+) = \[", block, re.MULTILINE)
    assert [extra.name for extra in extras()] == names
    assert all(extra.installed or extra.missing for extra in extras())


@pytest.mark.parametrize(("there", "line"), [
    (None, "pip install 'dsin[gpu]'"),
    ("1.32", "pip uninstall -y onnxruntime; pip install 'dsin[gpu]'"),
])  # fmt: skip
def test_the_line_that_installs_an_extra(
    monkeypatch: pytest.MonkeyPatch, there: str | None, line: str
) -> None:
    monkeypatch.setattr(module, "installed_version", lambda name: there)
    assert install_line("gpu") == line
    assert install_line("video") == "pip install 'dsin[video]'"


def test_a_source_that_is_not_installed_has_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAME", "no-such-distribution")
    assert extras() == []
