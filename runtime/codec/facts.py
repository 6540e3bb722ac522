"""What is in a bundle or a packet, as plain data and as lines for a person."""

import json
from collections.abc import Mapping
from typing import Any

from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.packet import REFERRING, VERSION, Packet
from dsin.runtime.codec.precision import precision_of


def packet_facts(packet: Packet) -> dict[str, Any]:
    """Header fields, sizes in bytes, bits per pixel; `reference` is a frame number."""
    header, size = packet.header, len(packet)
    referring = header.reference
    return {
        "format": VERSION if referring is None else REFERRING,
        "codec_id": header.codec_id.hex(),
        "width": header.width,
        "height": header.height,
        "rate": header.rate,
        "frame_number": header.frame_number,
        "timestamp_ns": header.timestamp_ns,
        "reference": None if referring is None else referring.frame_number,
        "bytes": size,
        "payload_bytes": len(packet.payload),
        "bpp": round(8 * size / (header.width * header.height), 6),
    }


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Everything that is known about a bundle."""
    search = bundle.search
    return {
        "bundle": str(bundle.path),
        "model": bundle.model,
        "codec_id": bundle.codec_id.hex(),
        "model_id": bundle.model_id,
        "latent": latent_of(bundle),
        "frame_multiple": list(bundle.frame_multiple),
        "search": {"patch": list(search.patch), "measure": search.measure, "prior": search.prior,
                   "stretched_patches": search.stretched, "off_centre_prior": search.off_centre,
                   "flow": search.flow},
        "precision": precision_of(bundle),
        "looks": [bundle.look, *bundle.looks],
        "truncate_to_uint8": bundle.truncate_to_uint8,
        "target_bpp": [point.target_bpp for point in bundle.rate_points],
        "default_rate": bundle.default_rate,
        "bytes": sum(bundle.file_bytes.values()),
        "training": dict(bundle.training),
        "weights_licence": bundle.weights_licence,
    }  # fmt: skip


def bundle_summary(bundle: Bundle) -> dict[str, Any]:
    """The same for a person who wants to use it, in eleven lines."""
    last = len(bundle.rate_points) - 1
    rates = ", ".join(f"{point.target_bpp:g}" for point in bundle.rate_points)
    rows, columns = bundle.frame_multiple
    return {
        "bundle": bundle.path.name,
        "folder": str(bundle.path),
        "family": bundle.family,
        "latent": latent_of(bundle),
        "rates": f"{rates} bits per pixel",
        "default_rate": f"{bundle.default_rate}, of 0 to {last}",
        "frames": f"any size, padded to multiples of {columns}x{rows}",
        "networks": f"{precision_of(bundle)}, {sum(bundle.file_bytes.values()) / 1e6:.1f} MB",
        "looks": ", ".join([bundle.look, *bundle.looks]),
        "codec_id": bundle.codec_id.hex(),
        "weights_licence": bundle.weights_licence,
    }


def latent_of(bundle: Bundle) -> str:
    """Its size, and how it is coded."""
    where = f"{bundle.channels} channels, stride {bundle.stride}"
    if bundle.family == "paper":
        centres = bundle.context_model.symbols_per_alphabet
        return f"{where}, {centres} centres, causal context model"
    return f"{where}, hyperprior"


def as_lines(facts: Mapping[str, Any]) -> str:
    """A line for each, without a newline at the end."""
    width = max(map(len, facts))
    shown = {
        name: json.dumps(value) if isinstance(value, dict | list | bool) else value
        for name, value in facts.items()
    }
    return "\n".join(
        f"{n.replace('_', ' '):{width}}  {'none' if value is None else value}"
        for n, value in shown.items()
    )
