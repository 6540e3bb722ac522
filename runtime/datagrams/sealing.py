"""Datagrams that only the two ends of a session can make or read, and none of them twice.

Each direction has a key of its own, drawn at random for each session and told inside the gRPC
stream of mutual TLS. ChaCha20-Poly1305 (RFC 8439) seals the content; the sequence number, which
never repeats under a key, is the nonce, and the clear header is authenticated with the content.

    offset  bytes  field, little-endian
         0      4  session
         4      6  sequence number
        10      n  sealed content
    10 + n     16  its tag
"""

import struct
import threading

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dsin.runtime.errors import StreamError

MAX_BYTES = 1200
"""A datagram's payload at most: no path of the internet has to cut it."""
KEY_BYTES = 32
TAG_BYTES = 16
_HEADER = struct.Struct("<IIH")
MAX_CONTENT = MAX_BYTES - _HEADER.size - TAG_BYTES
MAX_SEQUENCE = 2**48 - 1
WINDOW = 1024
"""Sequence numbers so much older than the newest are refused unseen."""

MALFORMED, UNKNOWN, FORGED, REPEATED, STALE = (
    "malformed", "unknown_session", "forged", "repeated", "stale",
)  # fmt: skip
REASONS = (MALFORMED, UNKNOWN, FORGED, REPEATED, STALE)
"""Why datagrams are rejected: of an impossible size, of no session here, not sealed by its key, one
that was taken already, older than the window."""


class RejectedError(Exception):
    """A datagram that is not taken; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def new_key() -> bytes:
    """A key for one direction of one session."""
    return ChaCha20Poly1305.generate_key()


def session_of(datagram: bytes) -> int:
    """The session that a datagram claims to be of. Raises RejectedError for an impossible size."""
    if not _HEADER.size + TAG_BYTES < len(datagram) <= MAX_BYTES:
        raise RejectedError(MALFORMED)
    session: int = _HEADER.unpack_from(datagram)[0]
    return session


class Sealer:
    """Seals what one end sends; for several threads at once."""

    def __init__(self, session: int, key: bytes) -> None:
        self._session = session
        self._cipher = ChaCha20Poly1305(key)
        self._lock = threading.Lock()
        self._next = 0

    def seal(self, content: bytes) -> tuple[int, bytes]:
        """The sequence number and the datagram. Content has at least a byte, at most MAX_CONTENT.
        Raises StreamError once all sequence numbers are used."""
        assert 0 < len(content) <= MAX_CONTENT
        with self._lock:
            sequence, self._next = self._next, self._next + 1
        if sequence > MAX_SEQUENCE:
            raise StreamError("all sequence numbers of this session are used: connect again")
        header = _HEADER.pack(self._session, sequence & 0xFFFFFFFF, sequence >> 32)
        return sequence, header + self._cipher.encrypt(_nonce(sequence), content, header)


class Opener:
    """Opens what one end receives. Not for several threads at once."""

    def __init__(self, session: int, key: bytes) -> None:
        self._session = session
        self._cipher = ChaCha20Poly1305(key)
        self._seen = ReplayWindow()

    @property
    def seen(self) -> "ReplayWindow":
        """Which sequence numbers came."""
        return self._seen

    def open(self, datagram: bytes) -> bytes:
        """The content of a datagram that is genuine and new. Raises RejectedError."""
        if session_of(datagram) != self._session:
            raise RejectedError(UNKNOWN)
        header = datagram[: _HEADER.size]
        _, low, high = _HEADER.unpack(header)
        sequence = high << 32 | low
        self._seen.check(sequence)
        try:
            content = self._cipher.decrypt(_nonce(sequence), datagram[_HEADER.size :], header)
        except InvalidTag:
            raise RejectedError(FORGED) from None
        self._seen.add(sequence)
        return content


class ReplayWindow:
    """The sequence numbers that came: the newest, how many, and which of the last WINDOW."""

    def __init__(self) -> None:
        self.highest = -1
        self.received = 0
        self._bits = 0
        """Bit n: that `highest - n` came."""

    def check(self, sequence: int) -> None:
        """Raise RejectedError for a number that came already or is too old to know."""
        behind = self.highest - sequence
        if behind >= WINDOW:
            raise RejectedError(STALE)
        if behind >= 0 and self._bits >> behind & 1:
            raise RejectedError(REPEATED)

    def received_until(self, sequence: int) -> int:
        """How many numbers up to that one came; it is not older than the window."""
        newer = self.highest - sequence
        return self.received - (self._bits & (1 << newer) - 1).bit_count()

    def came(self, sequence: int) -> bool:
        """Whether that number came; it is not newer than the newest, nor older than the window."""
        return bool(self._bits >> self.highest - sequence & 1)

    def add(self, sequence: int) -> None:
        """Note a number that was checked, once its datagram has proved to be genuine."""
        ahead = sequence - self.highest
        if ahead > 0:
            self.highest = sequence
            # Shifting by more than the window would only make a larger number of it.
            self._bits = self._bits << min(ahead, WINDOW) & (1 << WINDOW) - 1 | 1
        else:
            self._bits |= 1 << -ahead
        self.received += 1


def _nonce(sequence: int) -> bytes:
    return bytes(4) + sequence.to_bytes(8, "little")
