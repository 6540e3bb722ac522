"""Test vectors of the entropy coders and of whole frames, made on one machine, checked on another.

    python vectors.py frames FILE [--kitti DRIVE]     pictures that all machines are to code
    python vectors.py make FOLDER FRAMES BUNDLE…      what this machine makes of them
    python vectors.py check FOLDER BUNDLE…            another machine's; exit 1 if they differ

A vector is what an entropy coder was given (symbols, or y and z), the payload that it made of that
and the latent that a decoder gets from it. Those of whole frames have packet and pictures as well,
random ones numbers that no picture reaches. `check` demands the same payload for the same input,
the same latent from the same payload, and pictures that hardly differ. The encoder's network
computes in floats: it may round a few values otherwise on this machine, and how many is reported.
"""

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.edge import open_hyper_codec
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.entropy.context_model import IntegerContextModel, decode_symbols, encode_symbols
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE, HyperTables
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import pad, to_planes
from dsin.runtime.sources.recordings import open_stereo
from dsin.runtime.sources.synthetic_rig import SyntheticRig

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SIZE = {HyperTables: (128, 192), IntegerContextModel: (80, 120)}
"""Height and width of the pictures, by entropy model: small, since emulation is slow."""
X_DEC_LEVELS = 1
"""By how many grey levels x_dec may differ between machines: networks are floats, then rounded."""
LEAST_EQUAL = 0.95
"""Share of the latent that both machines' encoders must agree in. One value that is rounded
otherwise shifts the predictions of its neighbours, and so the latent there, by 64ths of a step."""
LEAST_PSNR_DB = 50.0
"""Of one machine's picture against the other's: a search may decide a tie otherwise."""


@dataclass(frozen=True)
class Coder:
    """The entropy coder of a bundle, whatever its kind, between arrays and bytes."""

    bundle: Bundle

    def analyse(self, picture: Array, rate: int) -> Arrays:
        """What the encoder's network makes of a picture, H×W×3 uint8: the input of `encode`."""
        session = open_session(self.bundle.graph_path("encoder"), "cpu", threads=1)
        planes = to_planes(pad(picture, self.bundle.frame_multiple))
        if self.bundle.family == "paper":
            return {"symbols": session.run(x=planes)["symbols"][0]}
        out = session.run(x=planes, rate=np.array([rate], np.int64))
        return {name: out[name][0] for name in ("y", "z")}

    def random(self, rng: np.random.Generator) -> Arrays:
        """An input with values far outside those of pictures."""
        height, width = SIZE[type(self.bundle.entropy)]
        shape = (self.bundle.channels, height // self.bundle.stride, width // self.bundle.stride)
        if self.bundle.family == "paper":
            kinds = self.bundle.context_model.symbols_per_alphabet
            return {"symbols": rng.integers(0, kinds, shape, dtype=np.uint8)}
        channels = self.bundle.hyper_tables.z_scales.shape[1]
        small = (channels, *(n // HYPER_STRIDE for n in shape[1:]))
        return {
            "y": (rng.standard_cauchy(shape) * 4).astype(np.float32),
            "z": (rng.standard_cauchy(small) * 4).astype(np.float32),
        }

    def encode(self, coded: Arrays, rate: int) -> bytes:
        """The payload."""
        if self.bundle.family == "paper":
            return encode_symbols(self.bundle.context_model, coded["symbols"])
        codec = open_hyper_codec(self.bundle, self.bundle.hyper_tables, "cpu", 1)
        return codec.encode(coded["y"], coded["z"], rate)[0]

    def decode(self, payload: bytes, shape: tuple[int, ...], rate: int) -> Array:
        """The latent of that shape."""
        channels, rows, columns = shape
        if self.bundle.family == "paper":
            return decode_symbols(self.bundle.context_model, payload, (channels, rows, columns))
        codec = open_hyper_codec(self.bundle, self.bundle.hyper_tables, "cpu", 1)
        return codec.decode(payload, (channels, rows, columns), rate)


def write_frames(path: Path, drive: Path | None) -> None:
    """Stereo pictures by name: of the built-in rig, and the middle of a KITTI frame."""
    rig = SyntheticRig(width=192, height=128, frames=6).frame(5)
    pictures = {"rig left": rig.left, "rig right": rig.right}
    if drive is not None:
        source = open_stereo(drive, 1)
        top, left = source.size[0] // 2 - 64, source.size[1] // 2 - 96
        for side in ("left", "right"):
            view = source.view(0, "left" if side == "left" else "right")
            pictures[f"kitti {side}"] = view[top : top + 128, left : left + 192]
    np.savez(path, **pictures)


def make(bundle: Bundle, frames: dict[str, Array]) -> Arrays:
    """All vectors of a bundle, as arrays by `case/what`."""
    coder, made = Coder(bundle), {}
    height, width = SIZE[type(bundle.entropy)]
    rates = sorted({bundle.default_rate, len(bundle.rate_points) - 1})
    for rate in sorted({0, *rates}):
        rng = np.random.default_rng(rate)
        made |= _vector(coder, f"random, rate {rate}", coder.random(rng), rate)
    with Encoder(bundle, threads=1) as encoder, Decoder(bundle, threads=1) as decoder:
        for name in sorted({key.split()[0] for key in frames}):
            left, right = (frames[f"{name} {side}"][:height, :width] for side in ("left", "right"))
            for rate in rates:
                case = f"{name}, rate {rate}"
                made |= _vector(coder, case, coder.analyse(left, rate), rate)
                packet = bytes(encoder.encode(left, rate))
                made |= {f"{case}/packet": _bytes(packet), f"{case}/right": right}
                made |= {f"{case}/left": left} | _pictures(decoder, case, packet, right)
    return made


def _vector(coder: Coder, case: str, coded: Arrays, rate: int) -> Arrays:
    payload = coder.encode(coded, rate)
    latent = coder.decode(payload, next(iter(coded.values())).shape, rate)
    made = {f"{case}/rate": np.array(rate), f"{case}/latent": latent}
    made[f"{case}/payload"] = _bytes(payload)
    return made | {f"{case}/coded {name}": array for name, array in coded.items()}


def _pictures(decoder: Decoder, case: str, packet: bytes, side: Array) -> Arrays:
    decoded = decoder.decode(packet, side)
    return {f"{case}/x_dec": decoded.x_dec, f"{case}/x_hat": decoded.image}


def check(bundle: Bundle, theirs: Arrays) -> Iterator[tuple[bool, str]]:
    """One line for each demand on another machine's vectors, and whether it is met."""
    coder = Coder(bundle)
    cases = list(dict.fromkeys(key.split("/")[0] for key in theirs))
    with Decoder(bundle, threads=1) as decoder:
        for case in cases:
            start = f"{case}/"
            vector = {k.removeprefix(start): a for k, a in theirs.items() if k.startswith(start)}
            yield from ((met, f"{case}: {text}") for met, text in _check(coder, decoder, vector))


def _check(coder: Coder, decoder: Decoder, vector: Arrays) -> Iterator[tuple[bool, str]]:
    rate, payload, latent = int(vector["rate"]), vector["payload"].tobytes(), vector["latent"]
    coded = {k.removeprefix("coded "): a for k, a in vector.items() if k.startswith("coded ")}
    own_payload = coder.encode(coded, rate)
    yield own_payload == payload, f"same payload of the same input, {len(payload)} bytes"
    same = np.array_equal(coder.decode(payload, latent.shape, rate), latent)
    yield same, f"same latent of the same payload, {latent.size} values"
    if "packet" not in vector:
        return
    packet = vector["packet"].tobytes()
    own = _pictures(decoder, "own", packet, vector["right"])
    off = int(np.abs(own["own/x_dec"].astype(int) - vector["x_dec"]).max())
    yield off <= X_DEC_LEVELS, f"x_dec differs by {off} grey levels at most"
    psnr = psnr_db(own["own/x_hat"], vector["x_hat"])
    yield psnr >= LEAST_PSNR_DB, f"picture with side image: {psnr:.1f} dB against the other's"
    mine = coder.analyse(vector["left"], rate)
    own_payload = coder.encode(mine, rate)
    own_latent = coder.decode(own_payload, latent.shape, rate)
    share = float(np.mean(own_latent == latent))
    bytes_alike = "the same bytes" if own_payload == payload else f"{len(own_payload)} bytes"
    text = f"own encoder: {100 * share:.3f} % of the latent equal, {bytes_alike}"
    yield share >= LEAST_EQUAL, text


def _bytes(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _machine() -> str:
    import numba
    import onnxruntime

    versions = f"numpy {np.__version__}, numba {numba.__version__}"
    python = f"Python {platform.python_version()}"
    return f"{platform.machine()}, {python}, {versions}, onnxruntime {onnxruntime.__version__}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Vectors of one machine, checked on another.")
    commands = parser.add_subparsers(dest="command", required=True)
    frames = commands.add_parser("frames")
    frames.add_argument("file", type=Path)
    frames.add_argument("--kitti", type=Path)
    making, checking = commands.add_parser("make"), commands.add_parser("check")
    making.add_argument("folder", type=Path)
    making.add_argument("frames", type=Path)
    checking.add_argument("folder", type=Path)
    for command in (making, checking):
        command.add_argument("bundles", nargs="+")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    if arguments.command == "frames":
        write_frames(arguments.file, arguments.kitti)
        return 0
    print(f"{arguments.command} on {_machine()}", flush=True)
    failures = 0
    for name in arguments.bundles:
        start, bundle = time.perf_counter(), open_bundle(name)
        path = arguments.folder / f"{bundle.path.name}.npz"
        if arguments.command == "make":
            np.savez(path, **make(bundle, dict(np.load(arguments.frames))))
        else:
            for met, text in check(bundle, dict(np.load(path))):
                failures += not met
                print(f"  {'ok  ' if met else 'FAIL'}  {name}, {text}", flush=True)
        print(f"  {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
