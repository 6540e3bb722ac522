"""The original's inference mode: code a list of pairs for real, and measure.

Bits are those of whole packets. PSNR is over RGB at 8 bits; MS-SSIM is over RGB, five scales, data
range 255, with the batch axis in front. (The original's helper has it at the end and scores an
image as a batch of rows, which gives higher figures; published ones may be of that kind.)
"""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.decoder import Decoded, Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import Packet
from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation.comparison import (
    Point,
    bd_rates,
    plot_comparison,
    print_comparison,
    rival_curve,
)
from dsin.runtime.evaluation.crops import beside_rivals
from dsin.runtime.evaluation.pairs import Pair, read_pair, read_pair_list
from dsin.runtime.evaluation.rivals import Rival, rivals
from dsin.runtime.evaluation.sequences import refuse_videos, video_curve, with_encoder_times
from dsin.runtime.evaluation.similarity import similarity
from dsin.runtime.evaluation.video_rivals import VIDEO_RIVALS, VideoRival, video_rivals
from dsin.runtime.files import write_image, write_json
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.progress import track

FIGURES = (
    "bytes",
    "bpp",
    "psnr_db",
    "ms_ssim",
    "psnr_db_no_side",
    "ms_ssim_no_side",
    "used_side",
    "encode_ms",
    "decode_ms",
)
"""What is measured for each image and averaged over all."""

_COLUMNS = "{:>8} {:>8} {:>8} {:>8} {:>12} {:>8}  {:<13}  {}"
_HEADER = _COLUMNS.format(
    "bytes", "bpp", "PSNR dB", "MS-SSIM", "without: dB", "MS-SSIM", "side image", "picture"
)


class Coded(NamedTuple):
    """One image, coded and decoded."""

    packet: Packet
    decoded: Decoded
    encode_ms: float
    decode_ms: float


def evaluate_list(
    pairs: Path,
    root: Path,
    *,
    bundle: Path | str | None = None,
    rate: int | None = None,
    crop: tuple[int, int] | None = None,
    json_path: Path | None = None,
    save_images: Path | None = None,
    backend: Backend = "cpu",
    against: Sequence[str] = (),
    plot: Path | None = None,
    in_order: bool = False,
) -> dict[str, Any]:
    """Evaluate a pair list, print each pair and the mean, and write the report; see `evaluate`.

    `against` names rival codecs (see `dsin.runtime.evaluation.rivals`): the bundle is then measured
    at all its rates, and the report has `rates` (see `means_of_rates`), `rivals` and `bd_rate` in
    percent too; `plot` gets the curves as PNG. Where the pairs are the frames of a recording
    `in_order`, video codecs may be among the rivals (see `dsin.runtime.evaluation.video_rivals`).
    Raises DsinError where `json_path` or `plot` cannot be written, before anything is computed.
    """
    if not in_order:
        refuse_videos(against)
    listed = read_pair_list(pairs, root)
    others = rivals([name for name in against if name not in VIDEO_RIVALS])
    videos = video_rivals([name for name in against if name in VIDEO_RIVALS])
    for path in (json_path, plot):
        if path is not None and not os.access(path.resolve().parent, os.W_OK):
            raise DsinError(f"cannot write {path}: its folder is missing or read-only")
    opened = open_bundle(bundle)
    report = evaluate(
        opened, listed, rate=rate, crop=crop, save_images=save_images, backend=backend,
        others=others,
    )  # fmt: skip
    print_pairs(report, root)
    print_mean(report)
    if others or videos:
        report |= _compare(opened, listed, crop, backend, others, plot, videos)
    if json_path is not None:
        write_json(json_path, report)
    return report


def evaluate(
    bundle: Bundle,
    pairs: list[Pair],
    *,
    rate: int | None = None,
    crop: tuple[int, int] | None = None,
    save_images: Path | None = None,
    backend: Backend = "cpu",
    others: Sequence[Rival] = (),
) -> dict[str, Any]:
    """Figures of every pair and their mean, as `dsin evaluate --json` writes them.

    `crop` is (height, width), cut from the middle. `ms_ssim` is None for images with a side under
    161 pixels. `used_side` is false where the side image shows another scene; its mean is the share
    of pairs where it was used. `decode_ms` is from the packet to the picture, with what depends on
    y alone already prepared, as it is when the packet arrives. `save_images` gets x, x_dec, y_syn
    and the result of each pair as PNG, and with `others` a sheet of cuts beside theirs at equal
    bytes. Raises FrameError for images that cannot be used.
    """
    images = []
    if save_images is not None:
        save_images.mkdir(parents=True, exist_ok=True)
    with Encoder(bundle, backend) as encoder, Decoder(bundle, backend) as decoder:
        for number, pair in enumerate(track(pairs, description=_named(bundle, rate))):
            x, y = read_pair(pair, crop)
            coded = _code(encoder, decoder, x, y, rate)
            images.append(_figures(pair, x, coded))
            if save_images is not None:
                stem = save_images / f"{number:04}_{pair.x.stem}"
                _save(stem, x, coded.decoded)
                if others:
                    sheet = beside_rivals(
                        x, len(coded.packet), coded.decoded, others, bundle.path.name
                    )
                    write_image(stem.with_name(f"{stem.name}_against.png"), sheet)
    return {"bundle": bundle.path.name, "images": images, "mean": _mean(images)}


def _compare(
    bundle: Bundle, pairs: list[Pair], crop: tuple[int, int] | None, backend: Backend,
    others: list[Rival], plot: Path | None, videos: Sequence[VideoRival] = (),
) -> dict[str, Any]:  # fmt: skip
    """Curves of the bundle at all rates and of the rivals, and BD-rates."""
    means = means_of_rates(bundle, pairs, crop=crop, backend=backend)
    with_side, alone = (curve(means, side=side) for side in (True, False))
    pictures = [read_pair(pair, crop)[0] for pair in pairs]
    if videos:
        with_side = with_encoder_times(with_side, bundle, pictures, backend)
    curves = {rival.name: rival_curve(rival, pictures) for rival in others}
    curves |= {rival.name: video_curve(rival, pictures) for rival in videos}
    print_comparison(bundle.path.name, with_side, curves)
    if plot is not None:
        plot_comparison(plot, bundle.path.name, with_side, curves, alone)
    return {
        "rates": means,
        "rivals": {name: [p._asdict() for p in points] for name, points in curves.items()},
        "bd_rate": {name: bd_rates(with_side, points) for name, points in curves.items()},
        "bd_rate_no_side": {name: bd_rates(alone, points) for name, points in curves.items()},
    }


def _named(bundle: Bundle, rate: int | None) -> str:
    return f"{bundle.path.name}, rate {bundle.rate_index(rate)}"


def means_of_rates(
    bundle: Bundle,
    pairs: list[Pair],
    *,
    crop: tuple[int, int] | None = None,
    backend: Backend = "cpu",
) -> list[dict[str, Any]]:
    """The mean of `evaluate` at every rate of a bundle, in their order; each has the figures of the
    pairs beside it, as `images`."""
    reports = [
        evaluate(bundle, pairs, rate=point.index, crop=crop, backend=backend)
        for point in bundle.rate_points
    ]
    return [{**report["mean"], "images": report["images"]} for report in reports]


def curve(means: list[dict[str, Any]], *, side: bool = True) -> list[Point]:
    """Points of such means, with the side image or without."""
    s = "" if side else "_no_side"
    return [Point(n, m["bpp"], m["psnr_db" + s], m["ms_ssim" + s]) for n, m in enumerate(means)]


def print_pairs(report: dict[str, Any], root: Path) -> None:
    """A row for each pair: bits, quality with and without the side image, and whether it was used;
    pictures are named relative to `root`."""
    print(_HEADER)
    for image in report["images"]:
        similarities = (image["ms_ssim"], image["ms_ssim_no_side"])
        aided, alone = ("" if value is None else f"{value:.4f}" for value in similarities)
        row = _COLUMNS.format(
            image["bytes"], f"{image['bpp']:.4f}", f"{image['psnr_db']:.2f}", aided,
            f"{image['psnr_db_no_side']:.2f}", alone,
            "used" if image["used_side"] else "another scene",
            os.path.relpath(image["pair"][0], root),
        )  # fmt: skip
        print(row)


def print_mean(report: dict[str, Any]) -> None:
    """Two lines: what was coded, and how well."""
    mean = report["mean"]
    print(f"{len(report['images'])} images with {report['bundle']}: {mean['bpp']:.4f} bpp")
    for label, suffix in (("with side information", ""), ("without", "_no_side")):
        similarity = mean["ms_ssim" + suffix]
        shown = "" if similarity is None else f", MS-SSIM {similarity:.4f}"
        print(f"{label:>22}: PSNR {mean['psnr_db' + suffix]:.2f} dB{shown}")


def _code(encoder: Encoder, decoder: Decoder, x: Image, y: Image, rate: int | None) -> Coded:
    side = decoder.prepare_side(y)
    start = time.perf_counter()
    packet = encoder.encode(x, rate)
    sent = time.perf_counter()
    decoded = decoder.decode(bytes(packet), side)
    done = time.perf_counter()
    return Coded(packet, decoded, 1e3 * (sent - start), 1e3 * (done - sent))


def _figures(pair: Pair, x: Image, coded: Coded) -> dict[str, Any]:
    height, width = x.shape[:2]
    result, alone = coded.decoded.image, coded.decoded.x_dec
    return {
        "pair": [str(pair.x), str(pair.y)],
        "width": width,
        "height": height,
        "bytes": len(coded.packet),
        "bpp": 8 * len(coded.packet) / (width * height),
        "psnr_db": psnr_db(result, x),
        "ms_ssim": similarity(result, x),
        "psnr_db_no_side": psnr_db(alone, x),
        "ms_ssim_no_side": similarity(alone, x),
        "used_side": coded.decoded.used_side,
        "encode_ms": coded.encode_ms,
        "decode_ms": coded.decode_ms,
    }


def _mean(images: list[dict[str, Any]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in FIGURES:
        values = [image[name] for image in images]
        means[name] = None if None in values else math.fsum(values) / len(values)
    return means


def _save(stem: Path, x: Image, decoded: Decoded) -> None:
    pictures = {"x": x, "x_dec": decoded.x_dec, "y_syn": decoded.y_syn, "result": decoded.image}
    for name, picture in pictures.items():
        if picture is not None:
            write_image(stem.with_name(f"{stem.name}_{name}.png"), picture)
