"""The weights of the golden cases, drawn anew: pseudo-random, with sane activations.

`original_weights()` gives all 379 variables under their TensorFlow names and in TensorFlow's
layouts: conv [kh, kw, in, out], transposed [kh, kw, out, in], 3-D [d, h, w, in, out]. Moving
statistics cannot be drawn and are stored.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
HERE = Path(__file__).parent


def original_weights(seed: int = 1) -> dict[str, Array]:
    weights = {}
    for line in (HERE / "variables.txt").read_text().splitlines():
        name, shape, _ = line.split("\t")
        if "moving_" not in name:
            weights[name] = _draw(name, [int(n) for n in shape.strip("[]").split(",")], seed)
    with np.load(HERE / "moving_statistics.npz") as stored:
        weights.update({name: stored[name] for name in stored.files})
    return weights


def _draw(name: str, shape: list[int], seed: int) -> Array:
    """One variable from its own generator, rounded to half precision."""
    number = sum((i + 1) * ord(letter) for i, letter in enumerate(name))
    rng = np.random.RandomState((seed * 1000003 + number) % 2**31)
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "centers":
        value = np.sort(np.linspace(-2, 2, shape[0]) + rng.uniform(-0.2, 0.2, shape))
    elif leaf == "gamma":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "beta":
        value = rng.normal(0, 0.1, shape)
    elif leaf == "biases":
        value = rng.normal(0, 0.1 if "probclass" in name else 0.02, shape)
    elif "siNetwork/g_conv_last" in name:
        value = rng.normal(0, 0.03, shape)
        for c in range(3):
            value[0, 0, c, c] += 0.7
            value[0, 0, 3 + c, c] += 0.3
    elif "siNetwork" in name:
        value = rng.normal(0, 0.02, shape)
        for i in range(shape[2]):
            value[1, 1, i, i] += 1.0
    else:
        value = rng.normal(0, np.sqrt(2.0 / _fan_in(name, shape)), shape)
    return value.astype(np.float32).astype(np.float16).astype(np.float32)


def _fan_in(name: str, shape: list[int]) -> float:
    transposed = name.endswith("from_bn/weights") or "/h12/" in name or "/h13/" in name
    if "decoder" in name and transposed:
        return shape[0] * shape[1] * shape[3] / 4.0
    visible = 14.0 / 18 if "probclass" in name else 1.0
    return float(visible * np.prod(shape[:-1]))
