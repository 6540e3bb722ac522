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
