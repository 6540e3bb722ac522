"""The page of `dsin try`: one HTML file with its pictures inside, no script, light and dark.

Pictures are lossless WebP, so their pixels are those that were decoded. Wide ones are made smaller
for the page; the cuts below them never are.
"""

import base64
from collections.abc import Iterable
from html import escape

import cv2
import numpy as np

from dsin.runtime.evaluation.crops import WINDOW, busiest_place
from dsin.runtime.evaluation.two_pictures import Quality, Tried, help_map
from dsin.runtime.outputs.displacement_map import displacement_map, displacements_px, scale_px
from dsin.runtime.pictures import Image
from dsin.runtime.version import __version__

WIDEST = 1600
"""Pixels of a whole picture on the page."""
_LOSSLESS = 101
"""OpenCV's quality of a WebP that is."""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #16191f;
  --soft: #5b6472; --line: #dfe3e9; --good: #14804f; --bad: #b3501a; }
@media (prefers-color-scheme: dark) { :root { --page: #101317; --card: #191d23; --ink: #e8ebf0;
  --soft: #9aa4b2; --line: #2d343d; --good: #4cc38a; --bad: #f08a55; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 28px 0 8px; }
p { margin: 4px 0; } .soft { color: var(--soft); font-size: 0.87rem; }
.verdict { font-size: 1.15rem; font-weight: 600; margin: 14px 0; }
.yes { color: var(--good); } .no { color: var(--bad); }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; } .tile b { display: block; font-size: 1.45rem; font-weight: 650; }
.pictures { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); }
.cuts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; overflow: hidden; } figcaption { padding: 8px 12px; }
figcaption b { margin-right: 8px; }
img { display: block; width: 100%; height: auto; }
.key i { display: inline-block; width: 14px; height: 14px; border-radius: 3px;
  vertical-align: -2px; margin: 0 6px 0 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 0.87rem; }
td:first-child, th:first-child { text-align: left; }
"""


def to_html(tried: Tried) -> str:
    """The whole page."""
    body = "\n".join(
        (_head(tried), _tiles(tried), _table(tried), _pictures(tried), _cuts(tried), _side(tried))
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f"<title>{escape('dsin: ' + tried.left)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body><main>\n{body}\n</main></body>\n</html>\n"
    )


def verdict(tried: Tried) -> tuple[str, str]:
    """Whether the side image helped: `yes` or `no`, and a sentence."""
    gain, better = tried.help.gain_db, 100 * tried.help.better
    if not tried.decoded.used_side:
        return "no", "The side image was not used: it seems to show another scene."
    if gain < 0.005:
        return "no", f"The side image did not help: {gain:+.2f} dB."
    return (
        "yes",
        f"The side image helped: {gain:+.2f} dB, and {better:.0f} % of the picture is better.",
    )


def _head(tried: Tried) -> str:
    height, width = tried.x.shape[:2]
    word, sentence = verdict(tried)
    how = (
        f"bundle {tried.bundle}, rate {tried.packet.header.rate}, networks in {tried.networks} on "
        f"{tried.backend}, dsin {__version__}"
    )
    return (
        f"<h1>{escape(tried.left)}, seen again in {escape(tried.right)}</h1>\n"
        f'<p class="soft">{width}×{height} pixels; {escape(how)}</p>\n'
        f'<p class="verdict {word}">{escape(sentence)}</p>'
    )


def _tiles(tried: Tried) -> str:
    result, alone = tried.result, tried.alone
    tiles = [
        (f"{result.size:,} B", f"of {tried.x.size:,} uncompressed"),
        (f"{result.bpp:.4f}", "bits per pixel"),
        (f"{result.psnr_db:.2f} dB", f"PSNR, {alone.psnr_db:.2f} without the side image"),
    ]
    if result.ms_ssim is not None and alone.ms_ssim is not None:
        tiles.append((f"{result.ms_ssim:.4f}", f"MS-SSIM, {alone.ms_ssim:.4f} without"))
    boxes = (
        f'<div class="tile"><b>{escape(value)}</b><span class="soft">{escape(what)}</span></div>'
        for value, what in tiles
    )
    return f'<div class="tiles">{"".join(boxes)}</div>'


def _table(tried: Tried) -> str:
    rows = (
        f"<tr><td>{escape(q.name)}</td><td>{q.size:,}</td><td>{q.bpp:.4f}</td>"
        f"<td>{q.psnr_db:.2f}</td><td>{'' if q.ms_ssim is None else f'{q.ms_ssim:.4f}'}</td></tr>"
        for q in (tried.result, tried.alone, *tried.others)
    )
    absent = "".join(f'<p class="soft">{escape(line)}</p>' for line in tried.absent)
    return (
        '<h2>At equal bytes</h2><div class="scroll"><table><tr><th>codec</th><th>bytes</th>'
        f"<th>bits per pixel</th><th>PSNR, dB</th><th>MS-SSIM</th></tr>{''.join(rows)}</table>"
        f"</div>{absent}"
    )


def _pictures(tried: Tried) -> str:
    shown = [_figure(_small(tried.x), "original", "what was encoded")]
    shown += [
        _figure(_small(q.picture), q.name, _note(q, tried.result.size))
        for q in (tried.result, tried.alone, *tried.others)
    ]
    return f"<h2>Pictures</h2>{_grid(shown)}"


def _cuts(tried: Tried) -> str:
    top, left = busiest_place(tried.x, WINDOW)

    def cut(picture: Image) -> Image:
        return picture[top : top + WINDOW[0], left : left + WINDOW[1]]

    named = [("original", tried.x)]
    named += [(q.name, q.picture) for q in (tried.result, tried.alone, *tried.others)]
    shown = [_figure(cut(picture), name, "") for name, picture in named]
    return f"<h2>The same place, close up</h2>{_grid(shown, 'cuts')}"


def _side(tried: Tried) -> str:
    shown = [_figure(_small(tried.y), "side image", "what the receiver sees itself")]
    decoded = tried.decoded
    if decoded.y_syn is not None and decoded.matches is not None:
        scale = scale_px(displacements_px(decoded.matches, tried.patch))
        matches = displacement_map(decoded.x_dec, decoded.matches, tried.patch, scale)
        shown.append(
            _figure(_small(matches), "matches",
                    f"how far away each piece was found: blue 0, red {scale} pixels or more")
        )  # fmt: skip
        shown.append(_figure(_small(decoded.y_syn), "y_syn", "the pieces, where they belong"))
    if decoded.used_side:
        key = (
            '<span class="key"><i style="background:#26a65b"></i>smaller error with the side image'
            '<i style="background:#e66e1e"></i>larger</span>'
        )
        shown.append(_figure(_small(help_map(tried)), "where it helped", key, markup=True))
    return f"<h2>The side image</h2>{_grid(shown)}"


def _note(quality: Quality, wanted: int) -> str:
    ssim = "" if quality.ms_ssim is None else f", MS-SSIM {quality.ms_ssim:.4f}"
    ratio = quality.size / wanted
    more = f" ({ratio:.2f} times ours: it has no setting nearer)" if abs(ratio - 1) > 0.1 else ""
    return f"{quality.size:,} bytes{more}, {quality.psnr_db:.2f} dB{ssim}"


def _grid(figures: Iterable[str], kind: str = "") -> str:
    return f'<div class="pictures {kind}">{"".join(figures)}</div>'


def _figure(picture: Image, name: str, note: str, *, markup: bool = False) -> str:
    height, width = picture.shape[:2]
    caption = note if markup else escape(note)
    size = f'width="{width}" height="{height}"'
    return (
        f'<figure><img alt="{escape(name)}" {size} src="{_data(picture)}" />'
        f'<figcaption><b>{escape(name)}</b><span class="soft">{caption}</span></figcaption>'
        "</figure>"
    )


def _small(picture: Image) -> Image:
    height, width = picture.shape[:2]
    if width <= WIDEST:
        return picture
    size = WIDEST, max(1, round(height * WIDEST / width))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _data(picture: Image) -> str:
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
