"""What `dsin info` says about a bundle, with every word of it."""

from dataclasses import replace

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.facts import as_lines, bundle_facts, bundle_summary, packet_facts
from dsin.runtime.codec.packet import Packet, PacketHeader, Reference
from dsin.runtime.manifest import MANIFEST, read_manifest


def test_a_bundle_says_everything() -> None:
    bundle = open_bundle("edge")
    manifest = read_manifest(bundle.path / MANIFEST).data
    assert bundle_facts(bundle) == {
        "bundle": str(bundle.path),
        "model": "edge",
        "codec_id": bundle.codec_id.hex(),
        "model_id": manifest["model_id"],
        "latent": "128 channels, stride 16, hyperprior",
        "frame_multiple": [64, 64],
        "search": {
            "patch": [20, 24],
            "measure": "pearson",
            "prior": True,
            "stretched_patches": False,
            "off_centre_prior": False,
            "flow": True,
        },
        "precision": "float and 8 bits",
        "looks": ["faithful", *bundle.looks],
        "truncate_to_uint8": False,
        "target_bpp": [point["target_bpp"] for point in manifest["rate_points"]],
        "default_rate": manifest["default_rate"],
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "training": manifest["training"],
        "weights_licence": manifest["weights_licence"],
    }


def test_the_few_lines_for_a_person() -> None:
    bundle = open_bundle("paper@float")
    facts = bundle_summary(bundle)
    assert facts == {
        "bundle": "paper",
        "folder": str(bundle.path),
        "family": "paper",
        "latent": "32 channels, stride 8, 6 centres, causal context model",
        "rates": "0.06 bits per pixel",
        "default_rate": "0, of 0 to 0",
        "frames": "any size, padded to multiples of 24x40",
        "networks": f"float, {sum(bundle.file_bytes.values()) / 1e6:.1f} MB",
        "looks": "faithful",
        "codec_id": bundle.codec_id.hex(),
        "weights_licence": bundle.weights_licence,
    }
    assert as_lines({"looks": ["a", "b"], "default_rate": 3, "reference": None}).splitlines() == [
        'looks         ["a", "b"]',
        "default rate  3",
        "reference     none",
    ]


def test_a_packet_says_what_is_in_its_header_and_how_large_it_is() -> None:
    header = PacketHeader(b"\x01\x02\x03\x04\x05\x06", 48, 32, 2, 7, 1234)
    whole = Packet(header, bytes(100))
    facts = {
        "format": 1, "codec_id": "010203040506", "width": 48, "height": 32, "rate": 2,
        "frame_number": 7, "timestamp_ns": 1234, "reference": None, "bytes": len(whole),
        "payload_bytes": 100, "bpp": round(8 * len(whole) / (48 * 32), 6),
    }  # fmt: skip
    assert packet_facts(whole) == facts
    after = Packet(replace(header, reference=Reference(5, 99)), bytes(100))
    assert packet_facts(after) == facts | {
        "format": 2, "reference": 5, "bytes": len(after),
        "bpp": round(8 * len(after) / (48 * 32), 6),
    }  # fmt: skip
    assert len(after) > len(whole)
