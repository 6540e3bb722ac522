"""Time and size of entropy coding.

    python tests/benchmarks/entropy_coding.py [CONTEXT.npz SYMBOLS.npy]
    python tests/benchmarks/entropy_coding.py edge [BUNDLE]

The first is of the family `paper`: CONTEXT.npz holds a bundle's integer tables, SYMBOLS.npy uint8
(C, h, w); without them, meaningless tables and symbols of the paper's size. CPU time is the sum
over threads: on cores that something else uses too, it says more than wall time.

The second is of `edge`, at 1242×375: with the networks as sessions of onnxruntime and as kernels,
in turn, the least wall times and their ratio, and whether both write the same bytes.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dsin.export.paper.context_graph import context_graph
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.edge import open_kernels, open_sessions
from dsin.runtime.entropy import context_model as cm
from dsin.runtime.entropy import rans
from dsin.runtime.entropy.hyper_codec import HyperCodec
from dsin.runtime.pictures import pad, to_planes
from dsin.runtime.sources.synthetic_rig import SyntheticRig

PAPER_SIZE = (32, 40, 153)
EDGE_SIZE = (375, 1242)
REPEATS = 7


def meaningless_model() -> cm.IntegerContextModel:
    """Random tables of the paper's widths."""
    rng = np.random.default_rng(0)
    widths = [1, 24, 24, 24, 6]
    arrays: dict[str, NDArray[Any]] = {
        "bounds": np.array([(0, 255), (0, 255), (-128, 127), (-900, 900)], np.int32),
        "skip_shift": np.full(24, 8, np.int32),
        "levels": np.linspace(-127, 120, 6).astype(np.int8),
        "exponentials": np.rint(2**15 * np.exp(-np.arange(700) / 64)).astype(np.int32),
    }
    for i, shift in enumerate((6, 10, 9, 8)):
        weight = rng.integers(-60, 61, (widths[i + 1], widths[i], 2, 3, 3)).astype(np.int8)
        weight[:, :, ~cm.causal_mask(first=i == 0)] = 0
        arrays[f"weight{i}"] = weight
        arrays[f"bias{i}"] = rng.integers(-4000, 4000, widths[i + 1]).astype(np.int32)
        arrays[f"shift{i}"] = np.full(widths[i + 1], shift, np.int32)
    return cm.IntegerContextModel.from_arrays(arrays)


def load(arguments: list[str]) -> tuple[cm.IntegerContextModel, NDArray[np.uint8]]:
    if len(arguments) == 2:
        with np.load(arguments[0]) as stored:
            return cm.IntegerContextModel.from_arrays(dict(stored)), np.load(arguments[1])
    symbols = np.random.default_rng(1).integers(0, 6, PAPER_SIZE).astype(np.uint8)
    return meaningless_model(), symbols


def report(name: str, work: Callable[[], object]) -> None:
    """Print the median wall and CPU time of a few calls, after one that warms up."""
    work()
    wall, cpu = [], []
    for _ in range(REPEATS):
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (time.process_time() - start_cpu))
    print(f"{name:<44}{np.median(wall):>9.1f} ms wall{np.median(cpu):>9.1f} ms CPU")


def in_turn(name: str, old: Callable[[], object], new: Callable[[], object]) -> None:
    """Print the least wall time of both, after one call each that warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(REPEATS + 1):
        for work, taken in zip((old, new), times, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                taken.append(1e3 * (time.perf_counter() - start))
    before, after = map(min, times)
    print(
        f"{name:<24}sessions {before:6.1f} ms   kernels {after:6.1f} ms   "
        f"{before / after:.1f} times as fast"
    )


def latents(bundle: Bundle, rate: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """y and z of a frame of the built-in rig."""
    rig = SyntheticRig(width=EDGE_SIZE[1], height=EDGE_SIZE[0], frames=1)
    frame = pad(rig.view(0, "left"), bundle.frame_multiple)
    encoder = open_session(bundle.graph_path("encoder"))
    out = encoder.run(x=to_planes(frame), rate=np.array([rate], np.int64))
    return out["y"][0], out["z"][0]


def compare_networks(name: str) -> None:
    """What the second form of the command prints."""
    bundle = open_bundle(name)
    tables = bundle.hyper_tables
    old = HyperCodec(open_sessions(bundle, tables, "cpu", None), tables)
    new = HyperCodec(open_kernels(bundle, tables, None), tables)
    for rate in (bundle.default_rate, len(bundle.rate_points) - 1):
        y, z = latents(bundle, rate)
        payload, _ = new.encode(y, z, rate)
        same = payload == old.encode(y, z, rate)[0]
        print(f"rate {rate}: {len(payload)} bytes, {'the same' if same else 'NOT THE SAME'}")
        in_turn("encode", partial(old.encode, y, z, rate), partial(new.encode, y, z, rate))
        shape = y.shape[0], y.shape[1], y.shape[2]
        arguments = payload, shape, rate
        in_turn("decode", partial(old.decode, *arguments), partial(new.decode, *arguments))


def session(model: cm.IntegerContextModel, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    graph = context_graph(model).SerializeToString()
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def main() -> None:
    if sys.argv[1:2] == ["edge"]:
        compare_networks(*(sys.argv[2:3] or ["edge"]))
        return
    model, symbols = load(sys.argv[1:])
    payload = cm.encode_symbols(model, symbols)
    values = cm.frequencies(model, symbols)
    order = cm.wavefront_order(symbols.shape)
    rows, line = values.reshape(-1, values.shape[-1])[order], symbols.ravel()[order]
    bits = cm.cross_entropy_bits(model, symbols)
    print(f"{symbols.size} symbols, {len(payload)} bytes, cross-entropy {bits / 8:.1f} bytes")
    report("rANS encode", lambda: rans.encode(line, rows))
    report("rANS decode", lambda: rans.decode(payload, rows))
    feed = {"symbols": symbols[None]}
    for threads in sorted({1, min(2, numba.config.NUMBA_NUM_THREADS)}):
        numba.set_num_threads(threads)
        one = session(model, threads)
        report(f"frequencies, compiled, {threads} threads", lambda: cm.frequencies(model, symbols))
        report(f"frequencies, onnxruntime, {threads} threads", partial(one.run, None, feed))
        report(f"encode, {threads} threads", lambda: cm.encode_symbols(model, symbols))
        report(
            f"decode, {threads} threads", lambda: cm.decode_symbols(model, payload, symbols.shape)
        )


if __name__ == "__main__":
    main()
