"""`dsin selftest`: does this machine code as every other machine does?

Of each packet of the kit:

    decoded     its latent is the one that it was made of                    must be equal
    encoded     that latent gives the same payload, but for packets that refer to another one,
                whose latent does not tell what was coded                    must be equal

and of the built-in picture, at each rate:

    received    what this machine encodes, it decodes to the encoder's own latent   must be equal
    latent      values that its encoder's network, which computes in floats, rounds otherwise than
                where the kit was made: at most MOST_DIFFERENT of them; none gives equal bytes
    pictures    PSNR with the side image and without it: within PSNR_TOLERANCE_DB of the kit's
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, Precision, open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.exact import ExactCoder, latent_sha256
from dsin.runtime.codec.packet import REFERRING, Packet
from dsin.runtime.codec.precision import at_precision, precision_of
from dsin.runtime.diagnosis.kit import (
    Golden,
    KitFile,
    built_in_pictures,
    read_kit,
)
from dsin.runtime.errors import DsinError, PacketError
from dsin.runtime.files import check_target, write_json
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.profiling.machine import Machine, describe_machine, versions
from dsin.runtime.progress import ProgressLine
from dsin.runtime.terminal import counted

FORMAT = 1
"""Version of the JSON."""
MOST_DIFFERENT = 0.05
"""Share of the latent. One value that is rounded otherwise shifts the predictions of its
neighbours, and so the latent there, by 64ths of a step."""
PSNR_TOLERANCE_DB = 0.1


@dataclass(frozen=True)
class PictureCheck:
    """The built-in picture, encoded and decoded here. `equal_bytes` and `different_share` compare
    with the kit's packet of the same networks, the PSNR with its pictures."""

    equal_bytes: bool
    received_equal: bool
    different_share: float
    psnr_db: float
    psnr_db_no_side: float
    psnr_difference_db: float

    @property
    def equal(self) -> bool:
        """Whether everything is as the module says that it must be."""
        return (
            self.received_equal
            and self.different_share <= MOST_DIFFERENT
            and abs(self.psnr_difference_db) <= PSNR_TOLERANCE_DB
        )


@dataclass(frozen=True)
class RateCheck:
    """Everything at one rate of one bundle; `packets` of the kit were compared."""

    bundle: str
    codec_id: str
    format: int
    networks: str
    rate: int
    packets: int
    decoded_equal: bool
    encoded_equal: bool
    picture: PictureCheck | None
    """None where the kit has no picture by networks of that kind."""

    @property
    def equal(self) -> bool:
        """Whether everything is as it must be."""
        return (
            self.decoded_equal
            and self.encoded_equal
            and bool(not self.picture or self.picture.equal)
        )


@dataclass(frozen=True)
class SelfTest:
    """The whole report; `to_json` is what `dsin selftest --json` writes."""

    backend: Backend
    machine: Machine
    versions: dict[str, str]
    checks: tuple[RateCheck, ...]
    tested_at: str

    @property
    def equal(self) -> bool:
        """Whether everything is as it must be."""
        return all(check.equal for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        checks = [{**asdict(check), "equal": check.equal} for check in self.checks]
        return {"dsin_selftest": FORMAT, "equal": self.equal, **asdict(self), "checks": checks}

    def table(self) -> str:
        """The report for a person, without a newline at the end."""
        machine = self.machine
        lines = [
            f"chip      {machine.name}, {machine.architecture}, {machine.threads} threads",
            f"system    {machine.system}",
            f"packages  {', '.join(f'{name} {v}' for name, v in self.versions.items())}",
            f"backend   {self.backend}",
            "",
            f"{'codec':24}{'networks':>9}{'rate':>6}{'decoded':>9}{'encoded':>9}"
            f"{'picture':>24}{'PSNR':>10}",
        ]
        lines += [_line(check) for check in self.checks]
        verdict, packets = "equal" if self.equal else "UNEQUAL", sum(c.packets for c in self.checks)
        rates = counted(sum(c.format == 1 for c in self.checks), "rate")
        what = f"{packets} packets of the kit, and the built-in picture at {rates}"
        return "\n".join([*lines, "", f"{verdict}: {what}"])


def run_selftest(
    backend: Backend = "cpu", precision: Precision = "auto", json_path: Path | None = None
) -> SelfTest:
    """Test this machine, print the report, write it to `json_path`.

    `precision` is of the networks, where a bundle has several. Raises BackendError for a backend
    that is not there, and DsinError, after all that, where something is unequal.
    """
    check_target(json_path)
    with ProgressLine() as progress:
        report = selftest(backend, precision, progress.show)
    print(report.table())
    if json_path is not None:
        write_json(json_path, report.to_json())
    for check in report.checks:
        if not check.equal:
            raise DsinError(
                f"{check.bundle} at rate {check.rate} is not as on other machines: packets may be "
                "read wrongly, send this report to dsin's developers"
            )
    return report


def selftest(
    backend: Backend, precision: Precision = "auto",
    tell: Callable[[str], None] = lambda line: None, kit: list[KitFile] | None = None,
) -> SelfTest:  # fmt: skip
    """Compare everything; `tell` gets what is going on, `kit` None is the one that is shipped."""
    pictures = built_in_pictures()
    checks: list[RateCheck] = []
    for file in read_kit() if kit is None else kit:
        tell(f"testing {file.bundle}")
        opened = replace(open_bundle(file.bundle), precision=_fitting(file.bundle, precision))
        bundle = at_precision(opened, backend)
        if bundle.codec_id.hex() != file.codec_id:
            raise DsinError(f"the kit's packets are of another {file.bundle}: install dsin again")
        checks += _Codec(file, bundle, backend, pictures).checks(tell)
    moment = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return SelfTest(backend, describe_machine(), versions(), tuple(checks), moment)


def _fitting(name: str, precision: Precision) -> Precision:
    """8 bits where there are some."""
    return "auto" if precision == "int8" and not open_bundle(name).int8 else precision


class _Exact(NamedTuple):
    """Latents of the kit's packets, by packet, as they were decoded here; and what was equal."""

    latents: dict[bytes, npt.NDArray[Any]]
    decoded: bool
    encoded: bool


class _Codec:
    """One bundle on this machine."""

    def __init__(
        self, file: KitFile, bundle: Bundle, backend: Backend, pictures: tuple[Image, Image]
    ) -> None:
        self._file, self._bundle, self._pictures = file, bundle, pictures
        self._exact = ExactCoder(bundle, backend)
        self._encoder = Encoder(bundle, backend)
        self._decoder = Decoder(bundle, backend)

    def checks(self, tell: Callable[[str], None]) -> list[RateCheck]:
        """Rate by rate."""
        by_rate: dict[int, list[Golden]] = defaultdict(list)
        for golden in self._file.packets:
            by_rate[golden.rate].append(golden)
        checks = []
        for rate, goldens in sorted(by_rate.items()):
            tell(f"testing {self._file.bundle}, rate {rate}")
            checks.append(self._check(rate, goldens))
        return checks

    def _check(self, rate: int, goldens: list[Golden]) -> RateCheck:
        networks = precision_of(self._bundle)
        exact = self._compare(goldens)
        alike = [g for g in goldens if g.kind == "picture" and g.networks == networks]
        picture = self._picture(alike[0], exact.latents.get(alike[0].packet)) if alike else None
        return RateCheck(
            self._file.bundle, self._file.codec_id, self._file.format, networks, rate, len(goldens),
            exact.decoded, exact.encoded, picture,
        )  # fmt: skip

    def _compare(self, goldens: list[Golden]) -> _Exact:
        latents, decoded, encoded = {}, True, True
        for golden in goldens:
            packet = Packet.parse(golden.packet)
            reference = None if golden.reference is None else Packet.parse(golden.reference)
            try:
                latent = self._exact.decode(packet, reference)
            except PacketError:  # other probabilities than the sender's end that way too
                decoded = encoded = False
                continue
            latents[golden.packet] = latent
            decoded &= latent_sha256(latent) == golden.latent
            if reference is None:
                encoded &= self._exact.encode_again(packet, latent) == packet.payload
        return _Exact(latents, decoded, encoded)

    def _picture(self, golden: Golden, theirs: npt.NDArray[Any] | None) -> PictureCheck:
        x, y = self._pictures
        stamp = Packet.parse(golden.packet).header
        packet = self._encoder.encode(
            x, golden.rate, frame_number=stamp.frame_number, timestamp_ns=stamp.timestamp_ns
        )
        own = self._encoder.latent(x, rate=golden.rate)
        decoded = self._decoder.decode(bytes(packet), y)
        psnr = psnr_db(decoded.image, x), psnr_db(decoded.x_dec, x)
        wanted = golden.psnr_db or 0.0, golden.psnr_db_no_side or 0.0
        differences = [here - there for here, there in zip(psnr, wanted, strict=True)]
        worst: float = max(differences, key=abs)
        return PictureCheck(
            equal_bytes=bytes(packet) == golden.packet,
            received_equal=np.array_equal(self._exact.decode(packet), own),
            different_share=1.0 if theirs is None else float(np.mean(own != theirs)),
            psnr_db=round(psnr[0], 4),
            psnr_db_no_side=round(psnr[1], 4),
            psnr_difference_db=round(worst, 4),
        )


def _line(check: RateCheck) -> str:
    decoded, encoded = (
        "equal" if it else "UNEQUAL" for it in (check.decoded_equal, check.encoded_equal)
    )
    shown, difference, picture = "not in the kit", "", check.picture
    if check.format == REFERRING:
        shown = "refers to another"
    if picture is not None:
        difference = f"{picture.psnr_difference_db:+.2f} dB"
        shown = "equal bytes"
        if not picture.equal_bytes:
            shown = f"{100 * picture.different_share:.2g} % of values differ"
        if not picture.equal:
            shown = "UNEQUAL, " + shown.replace(" of values differ", " differ")
    return (
        f"{check.bundle + ' ' + check.codec_id:24}{check.networks:>9}{check.rate:>6}{decoded:>9}"
        f"{encoded:>9}{shown:>24}{difference:>10}"
    )
