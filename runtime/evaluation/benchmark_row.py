"""One row of `dsin benchmark`, measured in a process of its own so that its memory is its own.

python -m dsin.runtime.evaluation.benchmark_row REQUEST     a Request as JSON; prints Figures
"""

import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsin.runtime.backends.derived_weights import RECIPE, stored_files
from dsin.runtime.backends.onnx_weight_files import weight_files
from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.decoder import Decoded, Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.exact import ExactCoder, latent_sha256
from dsin.runtime.codec.packet import Packet
from dsin.runtime.errors import PacketError
from dsin.runtime.evaluation.pairs import Pair, read_pair
from dsin.runtime.evaluation.similarity import similarity
from dsin.runtime.files import exists
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.profiling.machine import peak_memory_mib
from dsin.runtime.terminal import run_app


@dataclass(frozen=True)
class Request:
    """What to measure. `pairs` are paths of x and y; `reference` is a file with packets of these
    frames and the hashes of their latents, which the first row of a bundle writes and the others
    must read alike."""

    bundle: str
    backend: Backend
    rate: int | None
    pairs: list[list[str]]
    crop: tuple[int, int] | None
    reference: str


@dataclass(frozen=True)
class Figures:
    """Means over all frames; `stages_ms` are medians, `fps` is of all stages one after the other.

    `megabytes` are those of the files that this row uses. `equal_bytes`: every reference packet
    decodes to the latent that it was made of, and that latent gives its payload again;
    `same_packets` is the share of frames whose packet is the reference's, byte by byte.
    """

    rate: int
    megabytes: float
    bpp: float
    psnr_db: float
    psnr_db_no_side: float
    ms_ssim: float | None
    stages_ms: dict[str, float]
    fps: float
    peak_mib: float
    equal_bytes: bool
    same_packets: float


def measure(request: Request) -> Figures:
    """Encode and decode every frame, the first one twice: what a first run compiles is not
    counted. Raises DsinError for whatever cannot run."""
    pairs = [read_pair(Pair(Path(x), Path(y)), request.crop) for x, y in request.pairs]
    with (
        Encoder(request.bundle, request.backend) as encoder,
        Decoder(request.bundle, request.backend) as decoder,
    ):
        frames = [_Frame(encoder, decoder, *pair, request.rate) for pair in [pairs[0], *pairs]][1:]
        bundle = encoder.bundle
    peak = peak_memory_mib()
    exact = ExactCoder(bundle, request.backend)
    equal, same = _compare(Path(request.reference), [f.packet for f in frames], exact)
    ssim = [frame.ms_ssim for frame in frames if frame.ms_ssim is not None]
    stages = defaultdict(list)
    for frame in frames:
        for name, ms in frame.stages_ms.items():
            stages[name].append(ms)
    return Figures(
        rate=bundle.rate_index(request.rate),
        megabytes=round(sum(bundle.file_bytes[name] for name in files_of(bundle)) / 1e6, 2),
        bpp=round(_mean([f.bpp for f in frames]), 6),
        psnr_db=round(_mean([f.psnr_db for f in frames]), 4),
        psnr_db_no_side=round(_mean([f.psnr_db_no_side for f in frames]), 4),
        ms_ssim=round(_mean(ssim), 6) if len(ssim) == len(frames) else None,
        stages_ms={name: round(statistics.median(ms), 2) for name, ms in stages.items()},
        fps=round(1000 / _mean([f.total_ms for f in frames]), 3),
        peak_mib=peak,
        equal_bytes=equal,
        same_packets=same,
    )


def files_of(bundle: Bundle) -> set[str]:
    """Files of a bundle that its graphs and tables are in, at the precision that was chosen."""
    graphs = set(bundle.graphs.values())
    kept = {name for g in graphs for name in weight_files((bundle.path / g).read_bytes())}
    stored = {file for name in kept for file in stored_files(bundle.path / name)}
    recipes = {name for name in bundle.file_bytes if name.endswith(RECIPE)}
    tables = {name for name in bundle.file_bytes if name.endswith(".npz")} - recipes
    return graphs | stored | tables


class _Frame:
    """One frame, coded, decoded and compared with the original."""

    def __init__(
        self, encoder: Encoder, decoder: Decoder, x: Image, y: Image, rate: int | None
    ) -> None:
        start = time.perf_counter()
        side = decoder.prepare_side(y, rate=rate)
        self.packet = encoder.encode(x, rate)
        decoded: Decoded = decoder.decode(bytes(self.packet), side)
        self.total_ms = 1000 * (time.perf_counter() - start)
        rooms = {"device": self.packet.stage_ms, "side": side.stage_ms, "server": decoded.stage_ms}
        self.stages_ms = {
            f"{room}.{name}": ms for room, of in rooms.items() for name, ms in of.items()
        }
        self.bpp = 8 * len(self.packet) / (x.shape[0] * x.shape[1])
        self.psnr_db, self.psnr_db_no_side = psnr_db(decoded.image, x), psnr_db(decoded.x_dec, x)
        self.ms_ssim = similarity(decoded.image, x)


def _compare(reference: Path, own: list[Packet], exact: ExactCoder) -> tuple[bool, float]:
    """Whether the reference's packets are read and written alike here, and the share of them that
    are ours too. Without a reference ours become it."""
    if not exists(reference):
        latents = [latent_sha256(exact.decode(packet)) for packet in own]
        entries = [[bytes(p).hex(), latent] for p, latent in zip(own, latents, strict=True)]
        reference.write_text(json.dumps(entries))
    theirs = [(bytes.fromhex(data), latent) for data, latent in json.loads(reference.read_text())]
    equal = all(_alike(Packet.parse(data), latent, exact) for data, latent in theirs)
    same = [bytes(packet) == data for packet, (data, _) in zip(own, theirs, strict=True)]
    return equal, round(float(np.mean(same)), 3)


def _alike(packet: Packet, latent: str, exact: ExactCoder) -> bool:
    try:
        found = exact.decode(packet)
    except PacketError:  # other probabilities than the sender's end that way too
        return False
    return latent_sha256(found) == latent and exact.encode_again(packet, found) == packet.payload


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """The process of a row."""
    data: dict[str, Any] = json.loads(sys.argv[1])
    crop = data["crop"] and (int(data["crop"][0]), int(data["crop"][1]))
    print(json.dumps(asdict(measure(Request(**{**data, "crop": crop})))))


if __name__ == "__main__":
    run_app(main, "dsin")
