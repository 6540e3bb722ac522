"""Why a camera cannot connect, in words for a person, from what gRPC says.

With TLS 1.3 a camera has done its part of the handshake before the server looks at the camera's
certificate, so it only sees a connection that is closed: the reason is in the server's log alone.
"""

import os

from dsin.runtime.link.rpc import is_loopback

_CLOSED_IN_TLS = (
    "it closed the connection during the TLS handshake: it may not accept this camera's "
    "certificate (of another authority, expired, or not one for clients); its log with --verbose "
    "tells"
)
_CLOSED = "it closed the connection: if it asks for TLS, give --ca, --cert and --key"
Causes = tuple[tuple[str, str], ...]
"""What gRPC's details contain, and what it means."""

_TLS_CAUSES: Causes = (
    (
        "certificate has expired",
        "the server's certificate, or that of the authority (--ca), has expired, unless the clock "
        "of this machine is wrong",
    ),
    (
        "certificate is not yet valid",
        "the server's certificate is not valid yet: look at the clocks of both machines",
    ),
    (
        "Hostname Verification Check failed",
        "the server's certificate does not name {host}: use a name or address that is among its "
        "subjectAltName",
    ),
    ("unsupported certificate purpose", "the server's certificate is not one for servers"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not of the authority in --ca"),
    (
        "WRONG_VERSION_NUMBER",
        "it answers without TLS: it runs with --plaintext, or is no dsin serve",
    ),
    ("Socket closed", _CLOSED_IN_TLS),
    ("Connection reset", _CLOSED_IN_TLS),
)
_PLAINTEXT_CAUSES: Causes = (("Socket closed", _CLOSED), ("Connection reset", _CLOSED))
_CAUSES: Causes = (
    ("Connection refused", "nothing listens there; does dsin serve run?"),
    ("errors resolving", "there is no host of that name"),
    ("HTTP/2", "what answers there is no dsin serve"),
    ("No route to host", "the host cannot be reached"),
    ("Network is unreachable", "the host cannot be reached"),
    ("Connection timed out", "the host does not answer"),
    ("FD shutdown", "the host does not answer"),
)
LONGEST = 200
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY = ("no_grpc_proxy", "no_proxy")
"""Variables that gRPC looks at, the first that is there."""


def likely_cause(details: str, host: str, *, tls: bool) -> str:
    """The likely cause of a failed connection to `host`; what is not known is cited, shortened.

    `details` are those of gRPC's status.
    """
    proxy = _proxy(host)
    for sign, cause in (*(_TLS_CAUSES if tls else _PLAINTEXT_CAUSES), *_CAUSES):
        if sign in details and proxy is None:
            return cause.format(host=host)
    cited = details.rpartition("last error: ")[2]
    cited = cited if len(cited) <= LONGEST else f"{cited[:LONGEST]}…"
    if proxy is None:
        return cited
    name, address = proxy
    return (
        f"the way there leads through the proxy {address} that ${name} names ({cited}): does it "
        f"run, and let dsin through? no_proxy={host} goes without it"
    )


def _proxy(host: str) -> tuple[str, str] | None:
    """The variable that makes gRPC take a proxy to that host, and its address without a password;
    None where it takes none."""
    if is_loopback(host):
        return None
    free = next(filter(None, map(os.environ.get, _NO_PROXY)), "")
    if any(host.endswith(end.strip()) for end in free.split(",") if end.strip()):
        return None
    for name in _PROXIES:
        if found := os.environ.get(name):
            return name, found.rpartition("@")[2].rpartition("//")[2].rstrip("/")
    return None
