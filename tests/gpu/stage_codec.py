"""Bytes of the shipped codec decode alike on GPU and CPU: networks in float32 and float16 on the
GPU, the entropy model's integers on both.

    cpu       everything as the runtime does it on the CPU
    entropy   the entropy model on the GPU: equal latents have to give equal bytes
    fp32      the networks there too
    fp16      the networks in float16

Whatever made a packet, all others have to decode it to the latent that its encoder knew.
"""

import itertools
import statistics
import time
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from graph_on_torch import sessions_on_torch
from numpy.typing import NDArray
from stage import NotCarriedError, Orders, Report, need_gpu, need_torch_on_gpu, run
from torch.nn import functional as F
from visit_frames import Frames, frames, middle
from visit_layout import bundles

FRAMES = 20
PICTURES = 4
"""Of them that are decoded with their side image too: the search runs on the CPU here."""
LEAST_DB, LEAST_WITH_Y_DB = 45.0, 35.0
"""PSNR between pictures of different machines, from equal bytes, below which something is wrong;
with a side image patches may be found elsewhere."""


class Codec(NamedTuple):
    """A bundle opened one way."""

    encoder: Any
    decoder: Any
    whole: Any


class Made(NamedTuple):
    """What one codec made of a frame: payload, the latent that it stands for, x_dec from that."""

    payload: bytes
    latent: NDArray[np.float32]
    x_dec: NDArray[np.float32]


def work(orders: Orders, report: Report) -> None:
    from dsin.runtime.codec.bundle import open_bundle

    device = "cpu" if orders.rehearse else "cuda"
    if not orders.rehearse:
        need_gpu(least_gib=4)
        need_torch_on_gpu()
    names = [name for name in ("edge", "edge-structure") if name in bundles()]
    if not names:
        raise NotCarriedError("neither the bundle edge nor edge-structure is in this copy")
    found = frames(orders.pack, 1 if orders.rehearse else FRAMES)
    if orders.rehearse:
        cut = [(middle(x, 64, 128), middle(y, 64, 128)) for x, y in found.pairs]
        found = found._replace(pairs=cut)
    report.facts(bundle=names[0], frames=found.source, frame_count=len(found.pairs))
    _integers(report, device)
    bundle = open_bundle(f"{names[0]}@float")
    codecs = {
        "cpu": _opened(bundle),
        "entropy": _opened(bundle, device, networks=False),
        "fp32": _opened(bundle, device),
        "fp16": _opened(bundle, device, half=True),
    }
    with report.part("packets"):
        _packets(report, bundle, codecs, found)
    with report.part("pictures"):
        _pictures(report, codecs, found)
    with report.part("TensorFloat-32"):
        _tensor_float(report, bundle, device, found)


def _opened(bundle: Any, device: str | None = None, **how: Any) -> Codec:
    from dsin.runtime.codec.decoder import Decoder
    from dsin.runtime.codec.families import family_of

    with sessions_on_torch(device, **how) if device else nullcontext():
        return Codec(*family_of(bundle).open_codecs(bundle, "cpu", None), Decoder(bundle, "cpu"))


def _integers(report: Report, device: str) -> None:
    """Convolutions of 8-bit integers as PyTorch computes them: they need not be whole, but have to
    round to the exact sums (cuDNN may take Winograd's algorithm or TensorFloat-32)."""
    rng = np.random.default_rng(0)
    for kernel, channels, groups in ((1, 320, 1), (3, 96, 1), (5, 192, 192)):
        x = torch.from_numpy(rng.integers(0, 256, (1, channels, 24, 80)).astype(np.float64))
        shape = (128 if groups == 1 else channels, channels // groups, kernel, kernel)
        weight = torch.from_numpy(rng.integers(-127, 128, shape).astype(np.float64))
        exact = F.conv2d(x, weight, padding=kernel // 2, groups=groups)
        for tf32 in (False, True):
            torch.backends.cudnn.allow_tf32 = tf32
            single = (x.float().to(device), weight.float().to(device))
            got = F.conv2d(*single, padding=kernel // 2, groups=groups).cpu().double()
            error = float((got - exact).abs().max())
            name = f"8-bit integers, {kernel}x{kernel}, {'TF32' if tf32 else 'float32'}"
            largest = f"sums to {exact.abs().max():.0f}"
            report.check(name, error < 0.5, f"largest error {error:g}, {largest}")


def _packets(report: Report, bundle: Any, codecs: dict[str, Codec], found: Frames) -> None:
    rate = bundle.rate_index(None)
    made: dict[str, list[Made]] = {name: [] for name in codecs}
    for name, codec in codecs.items():
        for x, _ in found.pairs:
            made[name].append(_encoded(codec, _planes(bundle, x), rate))
    count = len(found.pairs)
    equal = sum(
        a.payload == b.payload for a, b in zip(made["cpu"], made["entropy"], strict=True)
    )  # fmt: skip
    report.check("equal latents give equal bytes", equal == count, f"{equal} of {count} frames")
    for maker, reader in itertools.permutations(codecs, 2):
        same = 0
        for (x, _), one in zip(found.pairs, made[maker], strict=True):
            size = _planes(bundle, x).shape[2:]
            same += _decodes(codecs[reader].decoder, one, size, rate)
        report.check(
            f"made by {maker}, decoded by {reader}", same == count, f"{same} of {count} latents"
        )
    for name in ("fp32", "fp16"):
        pairs = list(zip(made["cpu"], made[name], strict=True))
        differing = statistics.mean(float((a.latent != b.latent).mean()) for a, b in pairs)
        more = statistics.mean(len(b.payload) / len(a.payload) - 1 for a, b in pairs)
        report.tell(
            f"{name} against the CPU's encoder",
            f"{100 * differing:.3f} % of the latent differ, {100 * more:+.3f} % bytes",
        )
        worst = min(_psnr_db(codecs[name].decoder, a, rate) for a, _ in pairs)
        report.check(
            f"{name}: x_dec from the CPU's latent", worst > LEAST_DB,
            f"at least {worst:.1f} dB to the CPU's",
        )  # fmt: skip
        report.facts(**{f"latent_differs_{name}": differing, f"bytes_more_{name}": more})


def _decodes(decoder: Any, made: Made, size: tuple[int, int], rate: int) -> bool:
    """Whether a payload becomes the latent that it was made of."""
    from dsin.runtime.errors import PacketError

    try:
        return bool(np.array_equal(decoder.latent(made.payload, size, rate), made.latent))
    except PacketError as error:
        print(error)
        return False


def _encoded(codec: Codec, planes: Any, rate: int) -> Made:
    from dsin.runtime.gpu.device_tensor import on_host
    from dsin.runtime.stopwatch import Stopwatch

    payload = codec.encoder.encode(planes, rate, Stopwatch())
    latent = codec.encoder.latent(planes, rate)
    return Made(payload, latent, on_host(codec.decoder.reconstruct(latent, rate).x_dec))


def _psnr_db(decoder: Any, made: Made, rate: int) -> float:
    from dsin.runtime.gpu.device_tensor import on_host

    return psnr_db(on_host(decoder.reconstruct(made.latent, rate).x_dec), made.x_dec)


def _pictures(report: Report, codecs: dict[str, Codec], found: Frames) -> None:
    """Whole pictures with the side image, from the CPU's packets; and what decoding takes."""
    from dsin.runtime.codec.encoder import Encoder

    bundle = codecs["cpu"].whole.bundle
    with Encoder(bundle) as encoder:
        packets = [encoder.encode(x) for x, _ in found.pairs[:PICTURES]]
    pictures: dict[str, list[Any]] = {}
    for name in ("cpu", "fp32", "fp16"):
        pictures[name] = []
        took = []
        for packet, (_, y) in zip(packets, found.pairs, strict=False):
            began = time.perf_counter()
            pictures[name].append(codecs[name].whole.decode(packet, y).image)
            took.append(1000 * (time.perf_counter() - began))
        report.tell(f"{name}: decoding with y", f"{statistics.median(took):.0f} ms, search on CPU")
    for name in ("fp32", "fp16"):
        near = [psnr_db(a, b) for a, b in zip(pictures["cpu"], pictures[name], strict=True)]
        worst = f"at least {min(near):.1f} dB to the CPU's, {len(near)} pictures"
        report.check(f"{name}: pictures with y", min(near) > LEAST_WITH_Y_DB, worst)
    report.facts(picture_psnr_db={n: [round(psnr_db(x, p), 3) for (x, _), p in zip(
        found.pairs, made, strict=False)] for n, made in pictures.items()})  # fmt: skip


def _tensor_float(report: Report, bundle: Any, device: str, found: Frames) -> None:
    """What the runtime asks backends not to do: weights of 13 bits do not fit TensorFloat-32."""
    rate, planes = bundle.rate_index(None), _planes(bundle, found.pairs[0][0])
    plain, rounded = _opened(bundle), _opened(bundle, device, tf32=True, networks=False)
    payloads = [codec.encoder.encode(planes, rate, _watch()) for codec in (plain, rounded)]
    word = "equal" if payloads[0] == payloads[1] else "other bytes, as is to be expected"
    report.tell("the entropy model in TensorFloat-32, which the runtime forbids", word)


def _watch() -> Any:
    from dsin.runtime.stopwatch import Stopwatch

    return Stopwatch()


def _planes(bundle: Any, image: Any) -> Any:
    from dsin.runtime.pictures import pad, to_planes

    return to_planes(pad(image, bundle.frame_multiple))


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Between pictures in 0..255; at most 99, as where they are equal."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return min(99.0, float(10 * np.log10(255**2 / max(error, 1e-12))))


if __name__ == "__main__":
    run(work)
