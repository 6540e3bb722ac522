"""Who may stream: certificates made with the README's lines decide, and plaintext stays at home."""

from pathlib import Path

import pytest
from support.certificates import Authority
from support.rig_fakes import fake_device, fake_server, wait_until

from dsin.runtime.errors import StreamError
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.server.stream_server import StreamServer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_camera_with_its_certificate_streams(authority: Authority) -> None:
    with fake_server(certificates=authority.server) as server:
        address = f"localhost:{server.server.port}"
        fake_device(address, "front", certificates=authority.rig("front")).finish()
        assert server.numbers("front")


def test_one_rig_cannot_speak_for_another(authority: Authority) -> None:
    with fake_server(certificates=authority.server) as server:
        device = fake_device(server.address, "rear", certificates=authority.rig("front"))
        with pytest.raises(StreamError, match="certificate belongs to front"):
            device.finish()
        assert not server.frames


def test_a_rig_cannot_issue_certificates_for_others(authority: Authority) -> None:
    authority.rig("front")
    stolen = authority.issued_by_rig("front", "rear")
    assert_shut_out(authority, stolen)


def test_an_expired_certificate_is_shut_out(authority: Authority) -> None:
    assert_shut_out(authority, authority.expired("late"))


def test_a_certificate_of_another_authority_is_shut_out(
    authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "other").rig("front")
    known = Certificates(authority.server.authority, foreign.certificate, foreign.key)
    assert_shut_out(authority, known)


def test_a_camera_trusts_only_servers_of_its_authority(
    authority: Authority, tmp_path: Path
) -> None:
    foreign = Authority(tmp_path / "other").rig("front")
    assert_shut_out(authority, foreign)


def test_no_certificate_means_no_stream(authority: Authority) -> None:
    assert_shut_out(authority, None, "if it asks for TLS, give --ca, --cert and --key")


def assert_shut_out(
    authority: Authority, certificates: Certificates | None, cure: str = ""
) -> None:
    """The server never hears of such a camera, and goes on serving others."""
    with fake_server(certificates=authority.server) as server:
        device = fake_device(server.address, certificates=certificates, give_up_s=0.4)
        with pytest.raises(StreamError, match="cannot connect to .*" + cure):
            device.finish()
        assert not server.pool.status()
        good = fake_device(server.address, "good", certificates=authority.rig("good"), count=None)
        wait_until(lambda: server.numbers("good"))
        good.stop()


def test_a_server_without_certificates_stays_on_loopback() -> None:
    with pytest.raises(StreamError, match="loopback only"), fake_server() as server:
        StreamServer(server.pool, "0.0.0.0", 0)


@pytest.mark.parametrize("missing", ["ca.pem", "server.key"])
def test_certificates_that_are_not_there_are_named(
    authority: Authority, missing: str, tmp_path: Path
) -> None:
    broken = Certificates(
        *(
            tmp_path / missing if path.name == missing else path
            for path in (
                authority.server.authority, authority.server.certificate, authority.server.key,
            )
        )
    )  # fmt: skip
    with pytest.raises(StreamError, match=missing), fake_server(certificates=broken):
        pass
    (tmp_path / missing).write_text("not a certificate")
    with pytest.raises(StreamError, match="not a PEM file"), fake_server(certificates=broken):
        pass


def test_certificates_may_begin_with_a_mark_of_utf_8(authority: Authority, tmp_path: Path) -> None:
    """Editors of some systems write one, and OpenSSL does not know it."""
    of_server = authority.server
    marked = []
    for path in (of_server.authority, of_server.certificate, of_server.key):
        marked.append(tmp_path / path.name)
        marked[-1].write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Certificates(*marked).read() == of_server.read()
