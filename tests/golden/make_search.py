"""Rebuilds the golden positions: `python tests/golden/make_search.py`.

`search.json` has what the definitions find on two small views made of integers alone, which are the
same everywhere: positions and scores of patches, and blocks refined from them. Code and reference
share their constants, so only such values notice when one changes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from dsin.runtime.patch_correlation import Matches
from dsin.runtime.patch_correlation.block_refinement import Refined, paste, refine_reference
from dsin.runtime.patch_correlation.definition import match_reference

FILE = Path(__file__).parent / "search.json"
PATCH = (20, 24)
SEARCHES: dict[str, dict[str, Any]] = {
    "pearson": {}, "no prior": {"prior": False}, "off centre": {"off_centre": True},
    "l2": {"measure": "l2"},
}  # fmt: skip


def views() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_dec, y_dec and y, uint8 (72, 120, 3): a soft texture that repeats itself in part, with two
    depths, another exposure of each colour, and a flat corner."""
    rng = np.random.RandomState(7)
    scene = rng.randint(0, 256, (24, 48, 3)).repeat(4, 0).repeat(4, 1)
    scene[:, 96:] = scene[:, 48:144] + rng.randint(-9, 10, (96, 96, 3))
    for axis in (0, 1):
        scene = sum(np.roll(scene, shift, axis) for shift in range(-2, 3)) // 5
    scene = scene[8:80]
    noise = rng.randint(-5, 6, (2, 72, 120, 3))
    near, far = scene[:, 10:130], scene[:, 13:133]
    x = np.where(np.arange(72)[:, None, None] % 40 < 20, near, far)
    x[52:, 96:] = 90
    y = scene[:, 16:136] * (15, 14, 16) // 16 + 6
    y_dec = y + noise[1]
    pictures = (x + noise[0] * (x != 90), y_dec, y)
    return tuple(np.clip(picture, 0, 255).astype(np.uint8) for picture in pictures)  # type: ignore[return-value]


def found(matches: Matches) -> dict[str, Any]:
    """Positions and scores as they are stored."""
    return {
        "row": matches.row.tolist(), "col": matches.col.tolist(),
        "score": [[round(float(s), 6) for s in row] for row in matches.score],
    }  # fmt: skip


def refined(blocks: Refined, y: np.ndarray, y_dec: np.ndarray) -> dict[str, Any]:
    """The same of blocks, with the hashes of the pictures that they are put together to."""
    return {
        "down": blocks.down.tolist(), "right": blocks.right.tolist(),
        "cost": [[round(float(c), 3) for c in row] for row in blocks.cost],
        "y_syn": hashlib.sha256(paste(y, blocks)).hexdigest(),
        "y_dec_syn": hashlib.sha256(paste(y_dec, blocks)).hexdigest(),
    }  # fmt: skip


def main() -> None:
    x, y_dec, y = views()
    stored = {
        name: found(match_reference(x, y_dec, patch=PATCH, **options))
        for name, options in SEARCHES.items()
    }
    blocks = refine_reference(x, y_dec, match_reference(x, y_dec, patch=PATCH), PATCH)
    FILE.write_text(json.dumps({**stored, "blocks": refined(blocks, y, y_dec)}) + "\n")


if __name__ == "__main__":
    main()
