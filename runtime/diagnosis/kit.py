"""The interoperability kit: packets that every machine must decode alike, and pictures to encode.

    packets/x.png, packets/y.png    the built-in pictures, 150×100: what is encoded, its side image
    packets/format-N/BUNDLE.json    packets of format N (byte 4 of a packet), made by that bundle

A file has the bundle's `codec_id`, `int8_sha256` of the 8-bit networks that made packets of it
(absent without such packets; see the function), and a list of `packets`:

    kind        "picture": x.png; "extremes": numbers that no picture reaches; in format 2
                "referring": x.png with a square that has changed since the frame before
    networks    "float" or "8 bits": what made the packet of a picture; null of the others, and of
                pictures by 8-bit networks that have been replaced since, which are only decoded
    rate        rate index
    packet      the whole packet, base64
    latent      sha256 of what it decodes to: the latent's values, little-endian, in C order
    psnr_db, psnr_db_no_side    of the decoded picture, with y.png and without; null as networks
    reference   the packet of the frame that a referring one refers to, base64; null of the others

Every format has a folder of its own, and folders of older formats stay as they are: packets that
were written once are decoded for ever. `tests/golden/make_packets.py` writes the newest one.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsin.runtime.backends.derived_weights import RECIPE, weights_bytes, weights_of
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.errors import DsinError
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image

FOLDER = Path(__file__).parent / "packets"
Kind = Literal["picture", "extremes", "referring"]


@dataclass(frozen=True)
class Golden:
    """One packet of the kit, and what it decodes to; see the module."""

    kind: Kind
    networks: str | None
    rate: int
    packet: bytes
    latent: str
    psnr_db: float | None
    psnr_db_no_side: float | None
    reference: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        written = {**vars(self), "packet": base64.b64encode(self.packet).decode()}
        if self.reference is None:
            del written["reference"]
        else:
            written["reference"] = base64.b64encode(self.reference).decode()
        return written


@dataclass(frozen=True)
class KitFile:
    """The packets of one format and one bundle."""

    format: int
    bundle: str
    codec_id: str
    int8_sha256: str | None
    packets: tuple[Golden, ...]


def kit_folder(format_version: int) -> Path:
    """Where packets of a format lie."""
    return FOLDER / f"format-{format_version}"


def read_kit() -> list[KitFile]:
    """The whole kit, by format and name. Raises DsinError for an installation that lacks it."""
    paths = sorted(FOLDER.glob("format-*/*.json"))
    if not paths:
        raise DsinError(f"{FOLDER} has no packets: install dsin again")
    return [_read(path) for path in paths]


def int8_sha256(bundle: Bundle) -> str | None:
    """Of the files of a bundle's 8-bit networks, without those of its looks; None without any.

    The codec id does not tell of these networks: other ones make other packets that decode alike.
    Weights count as they are, whether they are stored or derived from the float ones.
    """
    found = [p for p in bundle.path.glob("*.int8.*") if not p.name.startswith("fusion_")]
    paths = {weights_of(p) if p.name.endswith(RECIPE) else p for p in found}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + hashlib.sha256(weights_bytes(path)).digest())
    return digest.hexdigest() if paths else None


def built_in_pictures() -> tuple[Image, Image]:
    """What is encoded, and its side image: the same pixels on every machine."""
    return read_image(FOLDER / "x.png"), read_image(FOLDER / "y.png")


def _read(path: Path) -> KitFile:
    try:
        data = json.loads(path.read_text("utf-8"))
        return KitFile(
            int(path.parent.name.removeprefix("format-")), path.stem, data["codec_id"],
            data.get("int8_sha256"), tuple(_goldens(data["packets"])),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise DsinError(f"{path} cannot be used ({error}): install dsin again") from error


def _goldens(entries: list[dict[str, Any]]) -> Iterator[Golden]:
    for entry in entries:
        given = [key for key in ("packet", "reference") if key in entry]
        packets: dict[str, Any] = {k: base64.b64decode(entry[k], validate=True) for k in given}
        yield Golden(**(entry | packets))
