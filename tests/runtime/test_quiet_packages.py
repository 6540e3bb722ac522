"""No package speaks to anybody, or leaves anything outside of our cache, unless it is asked to."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from support.block_bundle import write_block_bundle

from dsin.runtime.quiet_packages import REST

ROOT = Path(__file__).resolve().parents[2]

FORBID = """
import sys
sys.path.insert(0, sys.argv[1])
from support.no_network import forbid_network
forbid_network()
"""

CODE_A_FRAME = """
import numpy as np
from dsin.runtime import Decoder, Encoder

frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
with Encoder(sys.argv[2]) as encoder, Decoder(sys.argv[2]) as decoder:
    decoder.decode(bytes(encoder.encode(frame)), frame)
"""

IMPORT_ALL = """
import importlib, pkgutil
import dsin.export, dsin.runtime, dsin.training
for package in (dsin.runtime, dsin.training, dsin.export):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert not error.name.startswith("dsin"), error
for name in ("av", "onnxruntime", "rerun", "imagecodecs"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
"""

# Ray is not among them: it opens a socket, to nowhere, to see whether there is IPv6.

MATPLOTLIB = {"matplotlib"}
"""Its own cache of fonts below the user's: it tells nobody."""


def run(program: str, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process with an empty home, which dies if it opens a socket to anywhere."""
    hidden = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "CI", "ORT_DISABLE_TELEMETRY")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [sys.executable, "-c", FORBID + program, str(ROOT / "tests"), *map(str, arguments)],
        env={**kept, "HOME": str(home)}, capture_output=True, text=True,
    )  # fmt: skip


def written_below(home: Path) -> set[str]:
    """Which packages left files: names of their folders below .cache, .config and the like."""
    files = [path.relative_to(home).parts for path in home.rglob("*") if path.is_file()]
    return {(parts[1:2] or parts)[0] for parts in files} - {"dsin"} - MATPLOTLIB


def test_a_frame_is_coded_without_a_word_to_anybody(tmp_path: Path) -> None:
    bundle = write_block_bundle(tmp_path / "blocks")
    home = tmp_path / "home"
    home.mkdir()
    done = run(CODE_A_FRAME, home, bundle)
    assert done.returncode == 0, done.stderr
    assert written_below(home) == set()


def test_no_module_speaks_when_it_is_imported(tmp_path: Path) -> None:
    done = run(IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert written_below(tmp_path) == set()


def test_a_program_that_opens_a_socket_is_noticed(tmp_path: Path) -> None:
    program = "import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)"
    for family in ("AF_INET", "AF_INET6"):
        assert run(program.format(family=family), tmp_path).returncode == -signal.SIGSYS
    assert run(program.format(family="AF_UNIX"), tmp_path).returncode == 0


def test_onnxruntime_alone_would_speak(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    program = "import dsin.runtime.quiet_packages, os; del os.environ['ORT_DISABLE_TELEMETRY']\n"
    run(program + "import onnxruntime", tmp_path)
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29):
        pytest.skip("this onnxruntime does not report on Linux")
    assert written_below(tmp_path) == {"Microsoft"}


def test_onnxruntime_is_imported_in_one_place() -> None:
    importers = [
        path.relative_to(ROOT).as_posix()
        for folder in ("calibration", "export", "runtime", "training")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Import) and node.names[0].name.startswith("onnxruntime"))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onnxruntime"))
    ]
    assert importers == ["runtime/backends/ort.py"]


def test_opencv_heeds_what_lets_its_threads_sleep() -> None:
    (library,) = Path(cv2.__file__).parent.glob("cv2*.so")
    content = library.read_bytes()
    assert all(name.encode() in content for name in REST)


def test_opencv_is_told_before_it_loads() -> None:
    program = (
        "import os, sys; import dsin.runtime; assert 'cv2' not in sys.modules; "
        f"print(*(os.environ[name] for name in {tuple(REST)}))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in REST}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.stdout.split() == [b"0"] * len(REST), done.stderr


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_who_wants_a_report_may_have_it(chosen: str) -> None:
    names = ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
    program = f"import os, dsin.runtime; print(*(os.environ[n] for n in {names}))"
    environment = {**os.environ, **dict.fromkeys(names, chosen)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.stdout.split() == [chosen.encode()] * 2
