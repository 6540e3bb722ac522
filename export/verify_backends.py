"""Do all ways to run a bundle on this machine agree? All run first, then they are compared.

reference: onnxruntime on the CPU         others: one thread, CUDA, TensorRT, PyTorch

bytes       the reference's packet decodes to the reference's latent, bit for bit, and where an
            encoder finds the same latent, its payload is the same
symbols     how many values of the latent an encoder finds as the reference does
pictures    PSNR between what decoders make of the reference's latent, alone and with the side
            image
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from dsin.runtime.backends.session import BACKENDS, Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.precision import float_networks
from dsin.runtime.codec.protocols import Latent, PictureDecoder, PictureEncoder
from dsin.runtime.errors import BackendError, ExportError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image, Planes, from_planes, middle, to_planes, to_uint8
from dsin.runtime.stopwatch import Stopwatch

LEAST_EQUAL = 0.98
"""Share of the latent's values that an encoder finds as the reference does. Float16 and other
orders of summation move those near a rounding boundary."""
LEAST_PSNR_DB = 45.0
"""Between pictures from one latent; 8-bit rounding alone leaves about 59 dB."""
SAME = 99.0
"""Shown for equal pictures, in dB."""


@dataclass(frozen=True)
class Check:
    """One comparison with the reference; true where it passed. `value` is a share (bytes, symbols)
    or dB (pictures), `least` what it has to be."""

    runner: str
    what: Literal["bytes", "symbols", "x_dec", "result"]
    value: float
    least: float

    def __bool__(self) -> bool:
        # Written so that NaN fails.
        return self.value >= self.least

    def __str__(self) -> str:
        word = "ok" if self else "DIFFERS"
        unit = " dB" if self.what in ("x_dec", "result") else ""
        return f"{self.runner:12} {self.what:8} {word:7} {self.value:.4g}{unit} ({self.least:g})"


HEADER = f"{'runner':12} {'compared':8} {'result':7} found (at least)"
"""Above the lines that comparisons print as."""


class Coded(NamedTuple):
    """One frame as one runner sees it; `latent`, `payload` and `result` are None where the runner
    has no such half. `decoded` is the reference's latent from the reference's payload."""

    latent: Latent | None
    payload: bytes | None
    decoded: Latent | None
    x_dec: Image
    result: Image | None


Runner = Callable[[Planes, Image, int, "Coded | None"], Coded]
"""Codes x (planes) with y at a rate; all but the reference are given the reference's result."""


def verify_backends(
    bundle: Bundle, frames: Sequence[Image], *, wanted: Sequence[Backend] = ()
) -> list[Check]:
    """Compare every backend of this machine, PyTorch too if it is installed, on pairs of frames
    (RGB uint8, neighbours in the list), each at another rate.

    `wanted` backends must be there. Of a bundle with both precisions the float networks are
    compared, unless it was opened as int8. Raises BackendError where a backend is not there,
    ExportError for fewer than two frames.
    """
    if bundle.precision != "int8":
        bundle = float_networks(bundle)
    if len(frames) < 2:
        raise ExportError("verifying needs a pair of frames: give two pictures or more")
    pairs = list(_pairs(bundle, frames))
    with ExitStack() as stack:
        reference = _onnx_runner(bundle, "cpu", None, stack)
        expected = [reference(*pair, None) for pair in pairs]
        runners = {"cpu, 1 thread": _onnx_runner(bundle, "cpu", 1, stack)}
        for backend in BACKENDS:
            if backend == "cpu":
                continue
            try:
                runners[backend] = _onnx_runner(bundle, backend, None, stack)
            except BackendError:
                if backend in wanted:
                    raise
        torch_runner = _torch_runner(bundle)
        if torch_runner is not None:
            runners["torch"] = torch_runner
        seen = {
            name: [runner(*pair, known) for pair, known in zip(pairs, expected, strict=True)]
            for name, runner in runners.items()
        }
    return [
        check
        for name, coded in seen.items()
        for check in _compared(name, expected, coded)
    ]  # fmt: skip


def _pairs(bundle: Bundle, frames: Sequence[Image]) -> Iterator[tuple[Planes, Image, int]]:
    """Planes of x, y, and the rate; middles of whole multiples."""
    rates = len(bundle.rate_points)
    for number in range(0, len(frames) - 1, 2):
        x, y = (
            middle(frame, bundle.frame_multiple, what="a frame to verify on")
            for frame in frames[number : number + 2]
        )
        if y.shape != x.shape:
            y = np.roll(x, 5, 1)
        yield to_planes(x), y, (number // 2 * 3 + 1) % rates


def _onnx_runner(bundle: Bundle, backend: Backend, threads: int | None, stack: ExitStack) -> Runner:
    encoder, decoder = family_of(bundle).open_codecs(bundle, backend, threads)
    whole = stack.enter_context(Decoder(bundle, backend, threads=threads))

    def run(x: Planes, y: Image, rate: int, known: Coded | None) -> Coded:
        return _coded(encoder, decoder, whole, x, y, rate, known)

    return run


def _coded(
    encoder: PictureEncoder, decoder: PictureDecoder, whole: Decoder, x: Planes, y: Image,
    rate: int, known: Coded | None,
) -> Coded:  # fmt: skip
    latent, payload = encoder.latent(x, rate), encoder.encode(x, rate, Stopwatch())
    source = payload if known is None else known.payload
    assert source is not None
    decoded = decoder.latent(source, (x.shape[2], x.shape[3]), rate)
    taken = latent if known is None else known.latent
    assert taken is not None
    pictures = whole.decode_latent(taken, y, *y.shape[:2], rate=rate)
    return Coded(latent, payload, decoded, pictures.x_dec, pictures.image)


def _torch_runner(bundle: Bundle) -> Runner | None:
    """The PyTorch model, restored from the bundle: its decoder. None without PyTorch."""
    try:
        import torch

        from dsin.export.families import FAMILIES
        from dsin.export.restore import restore_model
    except ImportError:
        return None
    if "calibration" in bundle.training:
        return None  # its weights are 8-bit: there is no float model in it
    model = restore_model(bundle)

    def run(x: Planes, y: Image, rate: int, known: Coded | None) -> Coded:
        assert known is not None
        with torch.no_grad():
            latent = torch.from_numpy(np.asarray(known.latent))[None]
            x_dec = FAMILIES[bundle.family].x_dec(model, latent, rate)
        picture = to_uint8(
            from_planes(x_dec.clamp(0, 255).numpy()), (x.shape[2], x.shape[3]),
            truncate=bundle.truncate_to_uint8,
        )  # fmt: skip
        return Coded(None, None, None, picture, None)

    return run


def _compared(name: str, expected: Sequence[Coded], got: Sequence[Coded]) -> Iterator[Check]:
    both = list(zip(expected, got, strict=True))
    if got[0].latent is not None:
        yield Check(name, "bytes", float(all(_same_bytes(*pair) for pair in both)), 1.0)
        yield Check(name, "symbols", min(_equal_share(*pair) for pair in both), LEAST_EQUAL)
    yield Check(name, "x_dec", min(_psnr(a.x_dec, b.x_dec) for a, b in both), LEAST_PSNR_DB)
    if got[0].result is not None:
        worst = min(_psnr(a.result, b.result) for a, b in both)
        yield Check(name, "result", worst, LEAST_PSNR_DB)


def _same_bytes(known: Coded, got: Coded) -> bool:
    decodes = np.array_equal(known.latent, got.decoded)  # type: ignore[arg-type]
    found_same = np.array_equal(known.latent, got.latent)  # type: ignore[arg-type]
    return decodes and (not found_same or known.payload == got.payload)


def _equal_share(known: Coded, got: Coded) -> float:
    assert known.latent is not None
    assert got.latent is not None
    # ŷ is a prediction plus a whole number: predictions follow what was decoded before.
    close = np.abs(known.latent.astype(np.float64) - got.latent) < 0.5
    return float(close.mean())


def _psnr(one: Any, other: Any) -> float:
    return SAME if np.array_equal(one, other) else psnr_db(one, other)
