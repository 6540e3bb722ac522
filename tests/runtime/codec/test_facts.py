"""What `dsin info` says about a bundle, with every word of it."""

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.facts import as_lines, bundle_facts, bundle_summary
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
