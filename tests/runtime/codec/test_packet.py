"""Packets: their bytes, their round trip, and everything that must be refused."""

import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.codec.packet import (
    MAX_PACKET_BYTES,
    MAX_PAYLOAD,
    MAX_PIXELS,
    PACKET_HEADER_BYTES,
    Packet,
    PacketHeader,
    Reference,
)
from dsin.runtime.errors import PacketError

CODEC = b"\x01\x02\x03\x04\x05\x06"
HEADER = PacketHeader(
    CODEC, width=1242, height=375, rate=2, frame_number=7, timestamp_ns=1_600_000_000_123_456_789
)

REFERRING = dataclasses.replace(HEADER, reference=Reference(5, 0xAABBCCDD))

sizes = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).filter(
    lambda size: size[0] * size[1] <= MAX_PIXELS
)


numbers = st.integers(0, 2**32 - 1)


@st.composite
def headers(draw: st.DrawFn) -> PacketHeader:
    width, height = draw(sizes)
    return PacketHeader(
        draw(st.binary(min_size=6, max_size=6)),
        width,
        height,
        draw(st.integers(0, 255)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.none() | st.builds(Reference, numbers, numbers)),
    )


def with_checksum(head: bytes, payload: bytes = b"") -> bytes:
    """What a malicious sender makes: any header, and the checksum that fits it."""
    return head + zlib.crc32(head + payload).to_bytes(4, "little") + payload


class TestPacket:
    def test_its_bytes_are_these(self) -> None:
        packet = bytes(Packet(HEADER, b"payload"))
        assert packet.hex(" ") == (
            "44 53 49 4e 01 02 01 02 03 04 05 06 07 00 00 00 "  # DSIN, version, rate, codec, number
            "15 cd fb df 85 57 34 16 da 04 77 01 1e e5 64 3b "  # nanoseconds, width, height, CRC-32
            "70 61 79 6c 6f 61 64"
        )

    def test_its_bytes_with_a_reference_are_these(self) -> None:
        packet = bytes(Packet(REFERRING, b"payload"))
        assert packet.hex(" ") == (
            "44 53 49 4e 02 02 01 02 03 04 05 06 07 00 00 00 "
            "15 cd fb df 85 57 34 16 da 04 77 01 99 76 86 8b "
            "05 00 00 00 dd cc bb aa 70 61 79 6c 6f 61 64"  # frame number, its packet's checksum
        )
        assert Packet(REFERRING, b"payload").checksum == 0x8B867699

    def test_a_reference_that_is_cut_off_is_refused_whatever_the_checksum(self) -> None:
        head = bytes(Packet(REFERRING, b""))[:28]
        for length in range(8):
            with pytest.raises(PacketError, match="before it says which frame"):
                Packet.parse(with_checksum(head, bytes(length)))
        assert Packet.parse(with_checksum(head, bytes(8))).header.reference == Reference(0, 0)

    @given(headers(), st.binary(max_size=200))
    def test_what_goes_in_comes_out(self, header: PacketHeader, payload: bytes) -> None:
        parsed = Packet.parse(bytes(Packet(header, payload)), header.codec_id)
        assert (parsed.header, parsed.payload) == (header, payload)

    def test_it_may_be_stamped_anew(self) -> None:
        packet = Packet(HEADER, b"payload", {"entropy": 1.5})
        stamped = packet.stamped(8, 9)
        assert stamped.header == dataclasses.replace(HEADER, frame_number=8, timestamp_ns=9)
        assert (stamped.payload, stamped.stage_ms) == (b"payload", {"entropy": 1.5})
        assert Packet.parse(bytes(stamped)) == stamped != packet

    def test_times_are_no_part_of_it(self) -> None:
        timed, received = Packet(HEADER, b"payload", {"entropy": 1.5}), Packet(HEADER, b"payload")
        assert (timed, len(timed), bytes(timed)) == (received, 39, bytes(received))

    @pytest.mark.parametrize("data", ["text", None, [68, 83], 3])
    def test_what_is_no_bytes_is_named(self, data: object) -> None:
        with pytest.raises(PacketError, match=f"a packet is bytes, not {type(data).__name__}"):
            Packet.parse(data)  # type: ignore[arg-type]

    @pytest.mark.parametrize("payload", [b"", b"\x00", b"payload", bytes(range(64))])
    def test_every_truncation_and_extension_is_refused(self, payload: bytes) -> None:
        for header in (HEADER, REFERRING):
            packet = bytes(Packet(header, payload))
            for length in range(len(packet)):
                with pytest.raises(PacketError):
                    Packet.parse(packet[:length])
            with pytest.raises(PacketError, match="checksum"):
                Packet.parse(packet + b"\x00")

    @pytest.mark.parametrize("payload", [b"", b"\x00", b"payload", bytes(range(64))])
    def test_every_single_bit_flip_is_refused(self, payload: bytes) -> None:
        for header in (HEADER, REFERRING):
            packet = bytes(Packet(header, payload))
            for bit in range(8 * len(packet)):
                flipped = bytearray(packet)
                flipped[bit // 8] ^= 1 << bit % 8
                with pytest.raises(PacketError):
                    Packet.parse(flipped)

    def test_another_kind_of_file_is_named(self) -> None:
        with pytest.raises(PacketError, match="does not start with DSIN"):
            Packet.parse(b"\x89PNG" + bytes(60))

    def test_another_version_is_named(self) -> None:
        packet = bytearray(bytes(Packet(HEADER, b"")))
        packet[4] = 9
        with pytest.raises(PacketError, match="version 9, but this dsin reads versions 1 and 2"):
            Packet.parse(packet)

    def test_a_packet_of_another_bundle_is_named(self) -> None:
        with pytest.raises(PacketError, match="made by another bundle: its codec id is 010203"):
            Packet.parse(bytes(Packet(HEADER, b"")), b"other!")

    @pytest.mark.parametrize(("width", "height"), [(65535, 65535), (65535, 257), (0, 4), (4, 0)])
    def test_sizes_that_would_allocate_gigabytes_are_refused(self, width: int, height: int) -> None:
        head = bytes(Packet(HEADER, b""))[:24]
        packet = with_checksum(head + width.to_bytes(2, "little") + height.to_bytes(2, "little"))
        with pytest.raises(PacketError, match=f"{width}x{height}"):
            Packet.parse(packet)

    def test_an_oversized_payload_is_refused(self) -> None:
        with pytest.raises(PacketError, match="over the limit"):
            Packet.parse(bytes(Packet(HEADER, b"")) + bytes(MAX_PAYLOAD + 1))
        with pytest.raises(PacketError, match="over the limit"):
            Packet(HEADER, bytes(MAX_PAYLOAD + 1))
        largest = bytes(Packet(REFERRING, bytes(MAX_PAYLOAD)))
        assert len(largest) == MAX_PACKET_BYTES
        assert Packet.parse(largest).header == REFERRING
        with pytest.raises(PacketError, match="over the limit"):
            Packet.parse(largest + b"\0")

    @pytest.mark.parametrize(
        "change",
        [
            {"codec_id": b"short"},
            {"rate": 256},
            {"rate": -1},
            {"frame_number": 2**32},
            {"timestamp_ns": -1},
            {"width": 0},
            {"width": 70000, "height": 1},
            {"reference": Reference(2**32, 0)},
            {"reference": Reference(0, -1)},
        ],
    )
    def test_fields_that_do_not_fit_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(PacketError):
            Packet(dataclasses.replace(HEADER, **change), b"")  # type: ignore[arg-type]

    @given(st.binary(max_size=100))
    def test_random_bytes_raise_nothing_but_packet_errors(self, data: bytes) -> None:
        with pytest.raises(PacketError):
            Packet.parse(data)

    @given(st.binary(min_size=24, max_size=24), st.binary(max_size=40))
    def test_headers_of_any_content_with_a_true_checksum(self, rest: bytes, payload: bytes) -> None:
        try:
            header = Packet.parse(with_checksum(b"DSIN" + rest, payload)).header
        except PacketError:
            return
        assert 1 <= header.width * header.height <= MAX_PIXELS


def test_the_limits_admit_a_4k_frame() -> None:
    assert MAX_PIXELS >= 4000 * 3000  # cameras of 12 megapixels
    assert PACKET_HEADER_BYTES == 32
