"""gRPC as the rig uses it: method, limits, keepalive, certificates.

TLS is mutual: the server proves its host name, each camera its rig, whose name is the common name
of the camera's certificate. Without TLS only loopback addresses are allowed.
"""

import ipaddress
import ssl
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from dsin.runtime.codec.packet import MAX_PAYLOAD
from dsin.runtime.errors import StreamError

SERVICE, METHOD = "dsin.v1.Rig", "Stream"
PROTOCOL = 1
CREDITS = 2
"""Frames that a camera may have under way: one is decoded while another comes."""
MAX_MESSAGE_BYTES = MAX_PAYLOAD + 4096
MAX_STREAMS = 16
"""Streams on one connection; a camera needs one."""
NAME_BYTES = 64
"""Longest name of a rig."""

# A peer that is frozen or cut off is noticed within 3 s: a ping every 1.9 s, answered within 1 s,
# and a little for gRPC's timers.
# gRPC 1.85 goes by ping_timeout_ms, older ones by keepalive_timeout_ms. Pings that measure the
# bandwidth stay off: they would hold those back, and widen a window that keeps pings from waiting
# behind more than 64 KiB of a large picture, half a second at 1 Mbit/s.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 1900),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
]
SERVER_OPTIONS = [
    *_KEEPALIVE,
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_metadata_size", 8192),
    ("grpc.so_reuseport", 0),
]
CAMERA_OPTIONS = [
    *_KEEPALIVE,
    ("grpc.max_receive_message_length", 65536),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority that both sides trust, the certificate of this side, and its key."""

    authority: Path
    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Their contents. Raises StreamError for a file that cannot be read or is not PEM, and for
        a key that belongs to another certificate."""
        contents = _pem(self.authority), _pem(self.certificate), _pem(self.key)
        self._check(contents[0].decode("ascii", "ignore"))
        return contents

    def _check(self, authority: str) -> None:
        """gRPC would only say that there is no handshake."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            with _without_mark(self.certificate) as certificate, _without_mark(self.key) as key:
                # With a password, if only an empty one, an encrypted key fails instead of asking.
                context.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise StreamError(
                    f"{self.key} is not the private key of {self.certificate}"
                ) from error
            raise StreamError(
                f"{self.certificate} and {self.key} are not a certificate with its private key, "
                f"unencrypted ({error.reason or error})"
            ) from error
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise StreamError(f"{self.authority} holds no certificate") from error


def check_camera(address: str, certificates: Certificates | None) -> None:
    """Raise StreamError for what `camera_channel` would not take."""
    host, _ = split_address(address)
    if certificates is None:
        check_plaintext(host)
    else:
        certificates.read()


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """TLS that asks every camera for a certificate of the authority. Raises StreamError."""
    authority, certificate, key = certificates.read()
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=True
    )


def camera_channel(address: str, certificates: Certificates | None) -> grpc.Channel:
    """A channel to HOST:PORT, which connects when it is used.

    Raises StreamError for an unusable address or file, and for one beyond loopback without TLS.
    """
    host, _ = split_address(address)
    options = CAMERA_OPTIONS
    if is_loopback(host):
        # A proxy that the environment names (http_proxy) would look for the server on its machine.
        options = [*CAMERA_OPTIONS, ("grpc.enable_http_proxy", 0)]
    if certificates is None:
        check_plaintext(host)
        return grpc.insecure_channel(address, options=options)
    authority, certificate, key = certificates.read()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.secure_channel(address, credentials, options=options)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host stands in brackets. Raises StreamError."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if ":" in host and not bracketed:
        # gRPC would take ::1:7000 for a host without a port.
        raise StreamError(f"{address!r} is not HOST:PORT: an IPv6 host stands in brackets")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise StreamError(f"{address!r} is not HOST:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by an address of loopback or the name localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_plaintext(host: str) -> None:
    """Raise StreamError for a host beyond loopback."""
    if not is_loopback(host):
        raise StreamError(
            f"{host} is not on this machine: plaintext is for loopback only; give certificates "
            "(--ca, --cert, --key)"
        )


def _pem(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StreamError(f"cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN" not in data:
        raise StreamError(f"{path} is not a PEM file")
    return data.removeprefix(BOM_UTF8)


@contextmanager
def _without_mark(path: Path) -> Iterator[Path]:
    """A file without the mark that some editors begin UTF-8 with, which OpenSSL does not know."""
    data = path.read_bytes()
    if not data.startswith(BOM_UTF8):
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:  # for its owner's eyes only
        copy.write(data.removeprefix(BOM_UTF8))
        copy.flush()
        yield Path(copy.name)
