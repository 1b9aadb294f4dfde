"""The database's URL: how a connection is protected, and the certificate files."""

import asyncio
import ssl
from pathlib import Path

import pytest

from checkpointd.postgres import dsn
from checkpointd.postgres.connection import connect
from checkpointd.postgres.dsn import DsnError
from checkpointd.postgres.errors import DRIVER_ERRORS
from support.servers import revocations, self_signed

pytestmark = pytest.mark.usefixtures("no_pg_variables")


@pytest.mark.parametrize("host", ["db.example.org", "10.0.0.1", "localhost.example.org", "127.1", "[fe80::1]"])
def test_a_remote_host_is_verified(host: str) -> None:
    """The certificate of a remote server and the name in it are verified. A weaker sslmode is reported."""
    found = dsn.parse(f"postgresql://{host}/db")
    context = found.tls(found.hosts[0])
    assert isinstance(context, ssl.SSLContext)
    assert (True, ssl.CERT_REQUIRED) == (context.check_hostname, context.verify_mode)
    assert found.unverified_host is None
    for mode in ("disable", "allow", "prefer", "require", "verify-ca"):
        found = dsn.parse(f"postgresql://{host}/db?sslmode={mode}")
        assert (mode, host.strip("[]")) == (found.tls(found.hosts[0]), found.unverified_host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "%2Frun%2Fpostgresql"])
def test_a_local_host_is_not_verified(host: str) -> None:
    """On this machine TLS is used if the server offers it, and nothing is verified or reported."""
    found = dsn.parse(f"postgresql://{host}/db")
    assert found.tls(found.hosts[0]) is None
    assert dsn.parse(f"postgresql://{host}/db?sslmode=disable").unverified_host is None


def _url(**parameters: object) -> str:
    return "postgresql://db.example.org/db?" + "&".join(f"{name}={value}" for name, value in parameters.items())


FILES = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}


@pytest.mark.parametrize("parameter", FILES)
def test_missing_files(parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read is reported at once, named by the URL or by a variable, unless TLS is not used."""
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(DsnError, match=f"^its {parameter} must name a file that this user can read$"):
            dsn.parse(_url(**{parameter: path}))
    monkeypatch.setenv(FILES[parameter], str(tmp_path / "gone"))
    with pytest.raises(DsnError, match=f"^{FILES[parameter]} must name a file that this user can read$"):
        dsn.parse("postgresql://db.example.org/db")
    dsn.parse("postgresql:///db?host=/run/postgresql")
    dsn.parse("postgresql://db.example.org/db?sslmode=disable")


@pytest.mark.parametrize("parameter", FILES)
async def test_a_missing_file_is_an_unavailable_database(parameter: str, tmp_path: Path) -> None:
    """A file that is missing for a moment, as while it is replaced, does not crash a daemon."""
    with pytest.raises(DRIVER_ERRORS, match=f"its {parameter} must name a file"):
        await connect(_url(**{parameter: tmp_path / "gone"}))


def test_files_with_other_content(tmp_path: Path) -> None:
    """A file without a certificate, or a key of another certificate, is reported at once."""
    other = tmp_path / "other"
    other.write_text("no certificate")
    certificate, key = self_signed(tmp_path, "one")
    _, another = self_signed(tmp_path, "two")
    dsn.parse(_url(sslrootcert=certificate, sslcert=certificate, sslkey=key))
    for wrong in ({"sslrootcert": other}, {"sslcrl": other}):
        with pytest.raises(DsnError, match=f"^the file of {next(iter(wrong))} must be in PEM format$"):
            dsn.parse(_url(**wrong))
    for pair in ((other, key), (certificate, other), (certificate, another)):
        with pytest.raises(DsnError, match=r"^the files of sslcert and sslkey must be a certificate and its key"):
            dsn.parse(_url(sslcert=pair[0], sslkey=pair[1]))


def test_an_encrypted_key(tmp_path: Path) -> None:
    """Sslpassword decrypts a key; without it, OpenSSL does not ask at the terminal."""
    certificate, key = self_signed(tmp_path, "ours", "-passout", "pass:canary")
    files = {"sslcert": certificate, "sslkey": key}
    assert ("canary",) == dsn.parse(_url(**files, sslpassword="canary")).secrets
    for wrong in ({}, {"sslpassword": "wrong"}):
        with pytest.raises(DsnError, match=r"sslpassword must be the key's password, if it has one$"):
            dsn.parse(_url(**files, **wrong))


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_a_revoked_certificate(is_revoked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation list is also used with the system's authorities, and rejects only the certificates in it."""
    certificate, key = self_signed(tmp_path, "server", "-nodes", "-addext", "subjectAltName=DNS:localhost")
    revoked = revocations(certificate, key, *([certificate] if is_revoked else []))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # an authority that the system trusts
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=theirs) as server:
        port = server.sockets[0].getsockname()[1]

        async def visit(url: str) -> None:
            ours = (found := dsn.parse(url)).tls(found.hosts[0])
            assert isinstance(ours, ssl.SSLContext)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours, server_hostname="localhost")
            await reader.read()
            writer.close()

        await visit(_url())
        if is_revoked:
            with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
                await visit(_url(sslcrl=revoked))
        else:
            await visit(_url(sslcrl=revoked))
        monkeypatch.setenv("PGSSLCRL", str(tmp_path / "server.crt"))
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
            await visit(_url())


@pytest.mark.parametrize(("mode", "fits"), [("require", False), ("verify-ca", False), ("verify-full", True)])
def test_the_systems_authorities(mode: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's authorities require full verification, as with PostgreSQL's own clients."""
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    if fits:
        assert isinstance((found := dsn.parse(_url(sslmode=mode))).tls(found.hosts[0]), ssl.SSLContext)
    else:
        with pytest.raises(DsnError, match="verify-full"):
            dsn.parse(_url(sslmode=mode))
