"""`dsin selftest`: equal where everything is, and every kind of difference is found and told."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command_line import command_line

from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.exact import ExactCoder
from dsin.runtime.diagnosis import selftest as module
from dsin.runtime.diagnosis.kit import Golden, KitFile, read_kit
from dsin.runtime.diagnosis.selftest import PictureCheck, RateCheck, SelfTest, selftest
from dsin.runtime.profiling.machine import Machine

Change = Callable[[Golden], Golden]


def kit(change: Change = lambda golden: golden, name: str = "paper") -> list[KitFile]:
    """The kit's packets of one small bundle, changed."""
    return [
        dataclasses.replace(file, packets=tuple(map(change, file.packets)))
        for file in read_kit() if file.bundle == name
    ]  # fmt: skip


def check(change: Change = lambda golden: golden) -> RateCheck:
    (only,) = selftest("cpu", kit=kit(change)).checks
    return only


def test_this_machine_is_equal() -> None:
    found = check()
    assert found.equal
    assert (found.bundle, found.format, found.networks, found.rate) == ("paper", 1, "float", 0)
    assert (found.packets, found.decoded_equal, found.encoded_equal) == (2, True, True)
    assert found.picture is not None
    assert found.picture.received_equal
    assert found.picture.psnr_db > found.picture.psnr_db_no_side + 1


def test_another_latent_is_found() -> None:
    found = check(lambda g: dataclasses.replace(g, latent="0" * 64))
    assert (found.decoded_equal, found.encoded_equal, found.equal) == (False, True, False)


def test_a_payload_that_cannot_be_decoded_is_unequal_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dsin.runtime import PacketError

    def refuse(*_: object) -> None:
        raise PacketError("not of this model")

    monkeypatch.setattr(ExactCoder, "decode", refuse)
    monkeypatch.setattr(module._Codec, "_picture", lambda *_: None)
    found = check()
    assert (found.decoded_equal, found.encoded_equal, found.equal) == (False, False, False)


def test_packets_after_one_that_cannot_be_decoded_are_compared_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dsin.runtime import PacketError

    (file,) = kit()
    first = next(golden for golden in file.packets if golden.kind != "picture")
    (whole,) = (golden for golden in file.packets if golden.kind == "picture")
    decode = ExactCoder.decode

    def refuse(self: ExactCoder, packet: Any, *reference: Any) -> Any:
        if bytes(packet) == first.packet:
            raise PacketError("not of this model")
        return decode(self, packet, *reference)

    monkeypatch.setattr(ExactCoder, "decode", refuse)
    (found,) = selftest("cpu", kit=[dataclasses.replace(file, packets=(first, whole))]).checks
    assert (found.packets, found.decoded_equal, found.encoded_equal) == (2, False, False)
    assert found.picture is not None
    assert found.picture.different_share == 0
    assert found.picture.equal


def test_another_payload_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactCoder, "encode_again", lambda *_: b"other")
    found = check()
    assert (found.decoded_equal, found.encoded_equal, found.equal) == (True, False, False)


def test_pictures_of_another_quality_are_found() -> None:
    found = check(
        lambda g: dataclasses.replace(
            g, psnr_db_no_side=g.psnr_db_no_side and g.psnr_db_no_side + 0.2
        )
    )
    assert found.picture is not None
    assert found.picture.psnr_difference_db == pytest.approx(-0.2, abs=0.05)
    assert not found.equal


@pytest.mark.parametrize(("share", "equal"), [(0.01, True), (0.2, False)])
def test_an_encoder_that_rounds_otherwise_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, share: float, equal: bool
) -> None:
    """A few values may differ; the packet is then another, and read correctly everywhere."""

    def encode_it(self: Any, planes: Any, rate: int) -> Any:
        latent = original(self, planes, rate).copy()
        places = np.random.RandomState(0).rand(*latent.shape) < share
        latent[places] = (latent[places] + 1) % 6
        return latent

    from dsin.runtime.codec.paper import CausalPictureEncoder

    original = CausalPictureEncoder.latent
    monkeypatch.setattr(CausalPictureEncoder, "latent", encode_it)
    monkeypatch.setattr(module, "PSNR_TOLERANCE_DB", 100)
    found = check().picture
    assert found is not None
    assert not found.equal_bytes
    assert found.received_equal
    assert found.different_share == pytest.approx(share, rel=0.3)
    assert found.equal is equal


def test_what_is_sent_must_be_what_is_received(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Encoder.latent
    monkeypatch.setattr(Encoder, "latent", lambda self, *a, **o: true(self, *a, **o) ^ 1)
    found = check()
    assert found.picture is not None
    assert not found.picture.received_equal
    assert not found.equal


def test_the_report_and_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dsin = command_line(monkeypatch, capfd)
    monkeypatch.setattr(module, "read_kit", kit)
    done = dsin("selftest", "--json", tmp_path / "r.json")
    assert done.status == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["dsin_selftest"], report["equal"], report["backend"]) == (1, True, "cpu")
    assert report["machine"]["name"] in done.out
    assert {"python", "numpy"} <= report["versions"].keys()
    assert [c["equal"] for c in report["checks"]] == [True]
    assert "paper" in done.out
    assert done.out.splitlines()[-1].startswith("equal: 2 packets")
    spoilt = kit(lambda g: dataclasses.replace(g, latent="0" * 64))
    monkeypatch.setattr(module, "read_kit", lambda: spoilt)
    done = dsin("selftest", "--json", tmp_path / "r.json")
    assert done.status == 1
    assert "UNEQUAL" in done.out
    assert "dsin: paper at rate 0 is not as on other machines" in done.err
    assert json.loads((tmp_path / "r.json").read_text())["equal"] is False
    done = dsin("selftest", "--json", tmp_path / "none" / "r.json")
    assert (done.status, done.out) == (1, "")


TABLE = """\
chip      Chip, riscv64, 3 threads
system    Linux 6
packages  python 3.12, numpy 2
backend   cpu

codec                    networks  rate  decoded  encoded                 picture      PSNR
edge 0a1b                   float     0    equal    equal             equal bytes  +0.00 dB
edge 0a1b                   float     1    equal    equal  1.2 % of values differ  +0.00 dB
edge 0a1b                   float     2    equal    equal   UNEQUAL, 1.2 % differ  -0.50 dB
edge 0a1b                   float     3  UNEQUAL    equal          not in the kit
edge 0a1b                   float     4    equal  UNEQUAL       refers to another

UNEQUAL: 15 packets of the kit, and the built-in picture at 4 rates
"""


def test_the_table_tells_of_each_rate_what_was_equal() -> None:
    as_it_must = PictureCheck(True, True, 0.0, 30.0, 29.0, 0.004)
    rounded = dataclasses.replace(as_it_must, equal_bytes=False, different_share=0.0123)
    worse = dataclasses.replace(rounded, psnr_difference_db=-0.5)
    good = RateCheck("edge", "0a1b", 1, "float", 0, 3, True, True, as_it_must)
    checks = (
        good,
        dataclasses.replace(good, rate=1, picture=rounded),
        dataclasses.replace(good, rate=2, picture=worse),
        dataclasses.replace(good, rate=3, picture=None, decoded_equal=False),
        dataclasses.replace(good, rate=4, picture=None, format=2, encoded_equal=False),
    )
    machine = Machine("Chip", "riscv64", "Linux 6", 3, None, None)
    report = SelfTest("cpu", machine, {"python": "3.12", "numpy": "2"}, checks, "now")
    assert [line.rstrip() for line in report.table().split("\n")] == TABLE.splitlines()
    assert dataclasses.replace(report, checks=(good,)).table().splitlines()[-1] == (
        "equal: 3 packets of the kit, and the built-in picture at 1 rate"
    )


def test_a_kit_of_another_bundle_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dsin = command_line(monkeypatch, capfd)
    foreign = [dataclasses.replace(file, codec_id="00" * 6) for file in kit()]
    monkeypatch.setattr(module, "read_kit", lambda: foreign)
    done = dsin("selftest")
    assert done.status == 1
    assert "install dsin again" in done.err


def test_both_precisions_decode_all_packets() -> None:
    few = [
        dataclasses.replace(file, packets=tuple(g for g in file.packets if g.rate == 0))
        for file in kit(name="edge")
    ]
    alone, referring = selftest("cpu", "float", kit=few).checks
    assert alone.equal
    assert (alone.networks, alone.packets) == ("float", 5)  # by 8 bits, those of before too
    assert referring.equal
    assert (referring.format, referring.packets, referring.picture) == (2, 1, None)
    alone, _ = selftest("cpu", "int8", kit=few).checks
    assert (alone.networks, alone.decoded_equal, alone.encoded_equal) == ("8 bits", True, True)


def test_a_packet_that_refers_to_another_one_than_it_should_is_unequal() -> None:
    (file,) = (file for file in kit(name="edge") if file.format == 2)
    first, last = file.packets
    swapped = dataclasses.replace(first, reference=last.reference)
    (check,) = selftest("cpu", kit=[dataclasses.replace(file, packets=(swapped,))]).checks
    assert not check.decoded_equal
