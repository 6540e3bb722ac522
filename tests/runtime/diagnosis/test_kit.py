"""Packets of every shipped bundle and rate, made once, decode to the same latents for ever."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsin.runtime import DsinError, Packet, open_bundle, shipped_bundles
from dsin.runtime.backends.derived_weights import weights_bytes
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.exact import ExactCoder, latent_sha256
from dsin.runtime.codec.packet import REFERRING, VERSION
from dsin.runtime.diagnosis import kit
from dsin.runtime.diagnosis.kit import KitFile, int8_sha256, read_kit

FILES = read_kit()
REMAKE = "run tests/golden/make_packets.py"


def test_every_bundle_has_packets_of_every_rate() -> None:
    newest = {file.bundle: file for file in FILES if file.format == VERSION}
    assert sorted(newest) == shipped_bundles(), REMAKE
    for name, file in newest.items():
        bundle = open_bundle(name)
        last = len(bundle.rate_points) - 1
        kinds = ["float", "8 bits"] if bundle.int8 else ["float"]
        expected = [("picture", n, rate) for n in kinds for rate in range(last + 1)]
        expected += [("extremes", None, rate) for rate in sorted({0, last})]
        found = [(g.kind, g.networks, g.rate) for g in file.packets]
        assert found[: len(expected)] == expected, REMAKE
        # Of 8-bit networks that have been replaced: not made any more, but decoded for ever.
        assert all(golden[:2] == ("picture", None) for golden in found[len(expected) :])
        assert file.int8_sha256 == int8_sha256(bundle), REMAKE


def test_other_8_bit_networks_are_told_by_their_hash(tmp_path: Path) -> None:
    bundle = dataclasses.replace(open_bundle("edge"), path=tmp_path)
    assert int8_sha256(bundle) is None
    (tmp_path / "encoder.onnx").write_bytes(b"float")
    (tmp_path / "fusion_sharp.int8.onnx").write_bytes(b"a look")
    assert int8_sha256(bundle) is None
    (tmp_path / "encoder.int8.onnx").write_bytes(b"before")
    before = int8_sha256(bundle)
    (tmp_path / "encoder.int8.weights").write_bytes(b"")
    (tmp_path / "encoder.int8.onnx").write_bytes(b"after")
    assert len({None, before, int8_sha256(bundle)}) == 3


def test_weights_that_are_derived_count_as_if_they_were_stored(tmp_path: Path) -> None:
    bundle = open_bundle("edge")
    shutil.copytree(bundle.path, tmp_path / "edge")
    weights = tmp_path / "edge" / "encoder.int8.weights"
    weights.write_bytes(weights_bytes(weights))
    (tmp_path / "edge" / "encoder.int8.npz").unlink()
    whole = dataclasses.replace(bundle, path=tmp_path / "edge")
    assert int8_sha256(whole) == int8_sha256(bundle)


def test_every_format_that_was_ever_written_keeps_a_packet() -> None:
    assert {file.format for file in FILES if file.packets} == {VERSION, REFERRING}


def test_every_bundle_that_refers_has_pairs_at_the_lowest_and_the_highest_rate() -> None:
    files = {file.bundle: file for file in FILES if file.format == REFERRING}
    bundles = {name: open_bundle(name) for name in shipped_bundles()}
    assert set(files) == {name for name, bundle in bundles.items() if bundle.refers}, REMAKE
    for name, file in files.items():
        assert [g.rate for g in file.packets] == [0, len(bundles[name].rate_points) - 1]
        for golden in file.packets:
            assert golden.reference is not None
            first, second = (Packet.parse(p) for p in (golden.reference, golden.packet))
            assert second.header.reference == (1, first.checksum)
            assert len(second) < 0.7 * len(first)


@pytest.fixture(scope="module", params=FILES, ids=lambda file: f"{file.bundle} {file.format}")
def case(request: pytest.FixtureRequest) -> tuple[KitFile, Bundle]:
    bundle = open_bundle(request.param.bundle)
    assert request.param.codec_id == bundle.codec_id.hex(), REMAKE
    return request.param, bundle


def test_headers_say_what_the_frame_was(case: tuple[KitFile, Bundle]) -> None:
    file, bundle = case
    for golden in file.packets:
        assert golden.packet[4] == file.format
        header = Packet.parse(golden.packet).header
        assert (header.codec_id, header.rate) == (bundle.codec_id, golden.rate)
        if golden.kind == "picture":
            assert (header.width, header.height) == (150, 100)
            assert header.frame_number == golden.rate
            assert header.timestamp_ns == 10**18 + golden.rate


def test_packets_decode_to_latents_that_are_coded_to_the_same_payloads(
    case: tuple[KitFile, Bundle],
) -> None:
    """So a new receiver reads old packets, and an old one reads new ones."""
    file, bundle = case
    coder = ExactCoder(bundle, "cpu", 1)
    for golden in file.packets:
        packet = Packet.parse(golden.packet)
        before = None if golden.reference is None else Packet.parse(golden.reference)
        latent = coder.decode(packet, before)
        assert latent_sha256(latent) == golden.latent, golden
        if before is not None:
            continue
        assert coder.encode_again(packet, latent) == packet.payload, golden
        if golden.kind == "extremes" and bundle.family == "edge":
            assert np.abs(coder.hyper_symbols(packet, latent)).max() > 128, "nothing to clip"
            assert np.abs(latent).max() > 64, "nothing to clip"


def test_a_hash_is_of_values_not_of_their_layout() -> None:
    latent = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert latent_sha256(latent) == latent_sha256(np.asfortranarray(latent))
    assert latent_sha256(latent) == latent_sha256(latent.astype(">f4"))
    assert latent_sha256(latent) != latent_sha256(latent + 1)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"codec_id": "", "packets": [{}]}'])
def test_a_kit_that_is_spoilt_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(kit, "FOLDER", tmp_path)
    if content is not None:
        (tmp_path / "format-1").mkdir()
        (tmp_path / "format-1" / "edge.json").write_text(content)
    with pytest.raises(DsinError, match="install dsin again"):
        read_kit()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.bundle} {file.format}")
def test_packets_are_written_as_they_were_read(file: KitFile) -> None:
    path = kit.kit_folder(file.format) / f"{file.bundle}.json"
    stored = json.loads(path.read_text("utf-8"))
    assert [golden.to_json() for golden in file.packets] == stored["packets"]
