"""What can be checked before decoders are loaded, which takes a while."""

import errno
import importlib.util
import socket
from collections.abc import Sequence

from dsin.runtime.errors import StreamError
from dsin.runtime.link.rpc import Certificates, check_plaintext, join_address, split_address


def check_address(address: str, certificates: Certificates | None) -> tuple[str, int]:
    """Host and port of a server that may listen there. Raises StreamError."""
    host, port = split_address(address)
    if certificates is None:
        check_plaintext(host)
    else:
        certificates.read()
    check_free(host, port, "HOST:PORT")
    return host, port


def check_packages(*, health: bool, http: bool) -> None:
    """Raise StreamError for packages of the extra `serve` that are missing."""
    wanted = (["grpc_health"] if health else []) + (
        ["aiohttp", "prometheus_client"] if http else []
    )
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise StreamError(
            f"serving needs {', '.join(missing)}, not installed here: pip install 'dsin[serve]'"
        )


def check_http_ports(host: str, ports: Sequence[tuple[str, int | None]]) -> None:
    """Raise StreamError for a port of (option, port) that cannot be used."""
    for option, port in ports:
        if port is not None:
            if not 0 <= port <= 65535:
                raise StreamError(f"{option} {port}: ports are 0 to 65535, and 0 picks a free one")
            check_free(host, port, option)


def check_free(host: str, port: int, option: str) -> None:
    """Raise StreamError for a host that is not this machine, or a port that is taken.

    This is only an early check: another program may still take the port.
    """
    where = join_address(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        socket.create_server(address[:2], family=family).close()
    except socket.gaierror as error:
        raise StreamError(f"cannot listen at {where}: there is no host {host}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StreamError(
                f"cannot listen at {where}: the port is taken; choose another one with {option}"
            ) from error
        if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES):
            reason = (error.strerror or str(error)).lower()
            raise StreamError(f"cannot listen at {where}: {reason}") from error
