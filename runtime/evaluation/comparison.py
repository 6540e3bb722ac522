"""A bundle at all its rates against other codecs on the same pictures: curves, BD-rates, a plot.

BD-rate (Bjøntegaard, VCEG-M33) is the mean difference of bits at equal quality over the qualities
that both curves have, with Akima interpolation; MS-SSIM enters in decibels. Curves are means over
all pictures at one setting; settings that a cheaper one equals or beats are left out.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation.rivals import Rival
from dsin.runtime.evaluation.similarity import similarity
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.progress import track

LEAST_POINTS = 4
"""With fewer there is no curve."""


class Point(NamedTuple):
    """Means over all pictures at one rate or setting; `ms_ssim` is None for small pictures,
    `encode_ms` (the encoder's processor time) where it is not measured."""

    setting: float
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    encode_ms: float | None = None


def rival_curve(rival: Rival, pictures: list[Image]) -> list[Point]:
    """One point for each of the rival's settings."""
    points = []
    for setting in track(rival.settings, description=f"encoding {rival.name}"):
        coded = (rival.code(picture, setting) for picture in pictures)
        points.append(mean_point(setting, pictures, coded))
    return points


def mean_point(
    setting: float, pictures: Sequence[Image], coded: Iterable[tuple[int, Image]]
) -> Point:
    """The means over pictures, of what each takes in bytes and decodes to."""
    bits, psnr, ssim = [], [], []
    for picture, (size, decoded) in zip(pictures, coded, strict=True):
        seen = np.ascontiguousarray(decoded)
        bits.append(8 * size / (picture.shape[0] * picture.shape[1]))
        psnr.append(psnr_db(seen, picture))
        ssim.append(similarity(seen, picture))
    return Point(setting, _mean(bits), _mean(psnr), _mean_or_none(ssim))


def bd_rates(ours: list[Point], theirs: list[Point]) -> dict[str, float | None]:
    """Percent of bits that we need more than they do at equal quality, by measure; None where the
    curves have no quality in common."""
    return {
        "psnr": _bd_rate(ours, theirs, _psnr_db),
        "ms_ssim": _bd_rate(ours, theirs, _ssim_db),
    }


def _psnr_db(point: Point) -> float | None:
    return point.psnr_db


def _ssim_db(point: Point) -> float | None:
    return None if point.ms_ssim is None else -10 * math.log10(1 - point.ms_ssim)


def _frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """By rate, without those that a cheaper one equals or beats: nobody would choose them."""
    kept: list[tuple[float, float]] = []
    for bpp, value in sorted(points):
        if not kept or value > kept[-1][1]:
            kept.append((bpp, value))
    return kept


def _bd_rate(
    ours: list[Point], theirs: list[Point], quality: Callable[[Point], float | None]
) -> float | None:
    try:
        import bjontegaard
    except ImportError as error:
        raise DsinError("bjontegaard is not installed: pip install 'dsin[evaluate]'") from error
    curves = []
    for points in (theirs, ours):
        values = [(point.bpp, quality(point)) for point in points]
        frontier = _frontier([(bpp, v) for bpp, v in values if v is not None])
        if len(frontier) < LEAST_POINTS or len(values) > sum(v is not None for _, v in values):
            return None
        curves.append([np.array(column) for column in zip(*frontier, strict=True)])
    (rate, low), (own_rate, own) = curves
    if max(low[0], own[0]) >= min(low[-1], own[-1]):
        return None
    return float(
        bjontegaard.bd_rate(
            rate, low, own_rate, own, method="akima", require_matching_points=False, min_overlap=0
        )
    )


def print_comparison(name: str, ours: list[Point], others: dict[str, list[Point]]) -> None:
    """A table of all points and BD-rates, with the encoders' times where they are known."""
    table = Table(title=f"{name} and its rivals")
    timed = any(point.encode_ms is not None for points in others.values() for point in points)
    times = ("encoder ms",) if timed else ()
    figures = ("codec", "setting", "bpp", "PSNR dB", "MS-SSIM", *times)
    for column in (*figures, "BD-rate PSNR", "MS-SSIM"):
        table.add_column(column, justify="right")
    for codec, points in {name: ours, **others}.items():
        gains = bd_rates(ours, points) if codec != name else {}
        for number, point in enumerate(points):
            shown = [_percent(gains.get(m)) if number == 0 else "" for m in ("psnr", "ms_ssim")]
            ssim = "" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"
            spent = "" if point.encode_ms is None else f"{point.encode_ms:.0f}"
            table.add_row(
                codec if number == 0 else "", f"{point.setting:g}", f"{point.bpp:.4f}",
                f"{point.psnr_db:.2f}", ssim, *([spent] if timed else []), *shown,
            )  # fmt: skip
    Console().print(table)


def plot_comparison(path: Path, name: str, ours: list[Point], others: dict[str, list[Point]],
                    alone: list[Point]) -> None:  # fmt: skip
    """Rate-distortion curves as a picture with two panels; `alone` is without the side image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    curves = {name: ours, f"{name}, no side image": alone, **others}
    for panel, label, quality in zip(
        panels, ("PSNR (dB)", "MS-SSIM (dB)"), (_psnr_db, _ssim_db), strict=True
    ):
        for number, (codec, points) in enumerate(curves.items()):
            drawn = [(p.bpp, quality(p)) for p in points if quality(p) is not None]
            style = "o-" if number == 0 else "o--" if number == 1 else ".-"
            panel.plot(*zip(*drawn, strict=True), style, label=codec,
                       color="C0" if number < 2 else f"C{number - 1}",
                       linewidth=2.2 if number < 2 else 1.3)  # fmt: skip
        panel.set(xlabel="bits per pixel", ylabel=label, xlim=(0, 0.3))
        panel.grid(alpha=0.3)
    panels[1].legend(fontsize=9)
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
