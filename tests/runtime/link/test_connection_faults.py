"""What a person is told of a connection that does not come about."""

import pytest

from dsin.runtime.link.connection_faults import LONGEST, likely_cause

REFUSED = "failed to connect to all addresses; last error: Connection refused"
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_server_that_is_not_there() -> None:
    assert likely_cause(REFUSED, "rig.example", tls=True) == (
        "nothing listens there; does dsin serve run?"
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * (LONGEST + 1), "x" * LONGEST + "…"),
        ("no address; last error: strange", "strange"),
    ],
)
def test_what_is_not_known_is_cited_and_not_at_length(said: str, told: str) -> None:
    assert likely_cause(said, "rig.example", tls=True) == told


@pytest.mark.parametrize("name", VARIABLES[:3])
def test_a_proxy_that_is_dead_is_not_blamed_on_the_server(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://someone:secret@proxy.example:3128/")
    cause = likely_cause(REFUSED, "rig.example", tls=True)
    assert f"proxy proxy.example:3128 that ${name} names" in cause
    assert "no_proxy=rig.example" in cause
    assert "dsin serve" not in cause
    assert "secret" not in cause


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "a.rig.example", "10.1.2.3"])
def test_what_goes_without_the_proxy_is_not_blamed_on_it(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "other, .rig.example,10.1.2.3")
    assert "dsin serve" in likely_cause(REFUSED, host, tls=False)


CLOSED_IN_TLS = (
    "it closed the connection during the TLS handshake: it may not accept this camera's "
    "certificate (of another authority, expired, or not one for clients); its log with --verbose "
    "tells"
)
CLOSED = "it closed the connection: if it asks for TLS, give --ca, --cert and --key"


@pytest.mark.parametrize(
    ("said", "with_tls", "without"),
    [
        (
            "certificate verify failed: certificate has expired",
            "the server's certificate, or that of the authority (--ca), has expired, unless the "
            "clock of this machine is wrong",
            None,
        ),
        (
            "CERTIFICATE_VERIFY_FAILED: certificate is not yet valid",
            "the server's certificate is not valid yet: look at the clocks of both machines",
            None,
        ),
        (
            "Hostname Verification Check failed.",
            "the server's certificate does not name rig.example: use a name or address that is "
            "among its subjectAltName",
            None,
        ),
        (
            "CERTIFICATE_VERIFY_FAILED: unsupported certificate purpose",
            "the server's certificate is not one for servers",
            None,
        ),
        (
            "CERTIFICATE_VERIFY_FAILED: self-signed",
            "the server's certificate is not of the authority in --ca",
            None,
        ),
        (
            "WRONG_VERSION_NUMBER: Invalid certificate",
            "it answers without TLS: it runs with --plaintext, or is no dsin serve",
            None,
        ),
        ("Socket closed", CLOSED_IN_TLS, CLOSED),
        ("recvmsg: Connection reset by peer", CLOSED_IN_TLS, CLOSED),
        *(
            (said, told, told)
            for said, told in (
                ("Connection refused", "nothing listens there; does dsin serve run?"),
                ("errors resolving rig.example", "there is no host of that name"),
                ("Trying to connect an HTTP/2 server", "what answers there is no dsin serve"),
                ("connect: No route to host", "the host cannot be reached"),
                ("connect: Network is unreachable", "the host cannot be reached"),
                ("Connection timed out", "the host does not answer"),
                ("FD shutdown", "the host does not answer"),
            )
        ),
    ],
)
def test_each_sign_has_its_meaning(said: str, with_tls: str, without: str | None) -> None:
    """Without TLS nothing is said of certificates."""
    assert likely_cause(said, "rig.example", tls=True) == with_tls
    assert likely_cause(said, "rig.example", tls=False) == (without or said)


def test_of_a_proxy_it_is_told_what_it_said_and_how_to_go_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128/")
    assert likely_cause(REFUSED, "rig.example", tls=True) == (
        "the way there leads through the proxy proxy.example:3128 that $http_proxy names "
        "(Connection refused): does it run, and let dsin through? no_proxy=rig.example goes "
        "without it"
    )
