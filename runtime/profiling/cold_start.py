"""How long after its start a fresh process has its first packet."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.precision import exact_name
from dsin.runtime.errors import DsinError
from dsin.runtime.pictures import Image

_PROGRAM = """
import json, sys
import numpy as np
from dsin.runtime import Encoder
frame, bundle, backend, threads, rate = json.loads(sys.argv[1])
with Encoder(bundle, backend, threads=threads) as encoder:
    encoder.encode(np.load(frame), rate=rate)
    print("packet", flush=True)
"""


def cold_start_ms(
    bundle: Bundle, backend: Backend, threads: int | None, rate: int | None, frame: Image
) -> float:
    """From starting the interpreter to the first packet, in milliseconds.

    Files may be in the system's cache, compiled kernels in numba's. Raises DsinError if the
    process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.npy"
        np.save(path, frame)
        options = json.dumps([str(path), exact_name(bundle), backend, threads, rate])
        start = time.perf_counter_ns()
        with subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed_ms = (time.perf_counter_ns() - start) / 1e6
            _, errors = process.communicate()
    if line.strip() != "packet":
        last = (errors.strip() or "no message").splitlines()[-1]
        raise DsinError(f"a fresh process could not encode a frame: {last}")
    return elapsed_ms
