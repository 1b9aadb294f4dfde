"""Where the database is: what a URL and the environment say, and what is chosen where they are silent."""

import asyncio
import ssl
from pathlib import Path

import pytest

from checkpointd.postgres import dsn as address
from checkpointd.postgres.connection import DRIVER_ERRORS, connect
from checkpointd.postgres.dsn import AddressError, Host
from support.servers import revocations, self_signed


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PGHOST", "PGPORT", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCERT", "PGSSLKEY",
                     "PGTARGETSESSIONATTRS", "PGSERVICE"):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql:///db", ()),
        ("postgresql://h/db", (Host("h", None),)),
        ("postgresql://u:p%40q@h:5433/db", (Host("h", 5433),)),
        ("postgres://u@h1:1,h2,[::1]:3/db", (Host("h1", 1), Host("h2", None), Host("::1", 3))),
        ("postgresql://u@/db?host=/run/postgresql&port=7", (Host("/run/postgresql", 7),)),
        ("postgresql://%2Frun%2Fpostgresql/db", (Host("/run/postgresql", None),)),
        ("postgresql:///db?host=h1,h2&port=1,2", (Host("h1", 1), Host("h2", 2))),
        ("postgresql:///db?host=h1,h2&port=7", (Host("h1", 7), Host("h2", 7))),
    ],
)
def test_hosts(url: str, hosts: tuple[Host, ...]) -> None:
    """Hosts and ports are read from where PostgreSQL's own clients read them."""
    assert hosts == address.parse(url).hosts


def test_the_environment_fills_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the URL lacks comes from the variables of PostgreSQL's own clients."""
    monkeypatch.setenv("PGHOST", "h")
    monkeypatch.setenv("PGPORT", "7")
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    found = address.parse("postgresql:///db")
    assert ((Host("h", 7),), "require", "read-write") == (found.hosts, found.sslmode, found.attribute)
    found = address.parse("postgresql://other:8/db?sslmode=verify-full&target_session_attrs=any")
    assert ((Host("other", 8),), "verify-full", "any") == (found.hosts, found.sslmode, found.attribute)


@pytest.mark.parametrize(("url", "attribute"), [("postgresql://h/db", "any"), ("postgresql://h1,h2/db", "primary")])
def test_of_several_hosts_the_primary(url: str, attribute: str) -> None:
    """Of several hosts it is the primary that is meant."""
    assert attribute == address.parse(url).attribute


@pytest.mark.parametrize("host", ["db.example.org", "10.0.0.1", "localhost.example.org", "127.1", "[fe80::1]"])
def test_elsewhere_is_verified(host: str) -> None:
    """The certificate of a server elsewhere is verified, its name too; what somebody chose instead is told."""
    found = address.parse(f"postgresql://{host}/db")
    context = found.tls(found.hosts[0])
    assert isinstance(context, ssl.SSLContext)
    assert (True, ssl.CERT_REQUIRED) == (context.check_hostname, context.verify_mode)
    assert found.unverified is None
    for mode in ("disable", "allow", "prefer", "require", "verify-ca"):
        found = address.parse(f"postgresql://{host}/db?sslmode={mode}")
        assert (mode, host.strip("[]")) == (found.tls(found.hosts[0]), found.unverified)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "%2Frun%2Fpostgresql"])
def test_here_is_not(host: str) -> None:
    """On this machine TLS is taken where it is offered, and nothing is verified or warned of."""
    found = address.parse(f"postgresql://{host}/db")
    assert found.tls(found.hosts[0]) is None
    assert address.parse(f"postgresql://{host}/db?sslmode=disable").unverified is None


def test_the_url_is_not_shown() -> None:
    """The repr of an address has no password."""
    assert "canary" not in repr(address.parse("postgresql://u:canary@h/db?password=canary"))


# Files of certificates


def _url(**parameters: object) -> str:
    return "postgresql://db.example.org/db?" + "&".join(f"{name}={value}" for name, value in parameters.items())


FILES = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}


@pytest.mark.parametrize("parameter", FILES)
def test_files_that_are_not_there(parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read is told at once, in the URL or in a variable, unless no TLS is possible."""
    for gone in (tmp_path / "gone", tmp_path, "%00"):
        with pytest.raises(AddressError, match=f"^its {parameter} names no file that this user can read$"):
            address.parse(_url(**{parameter: gone}))
    monkeypatch.setenv(FILES[parameter], str(tmp_path / "gone"))
    with pytest.raises(AddressError, match=f"^{FILES[parameter]} names no file that this user can read$"):
        address.parse("postgresql://db.example.org/db")
    address.parse("postgresql:///db?host=/run/postgresql")
    address.parse("postgresql://db.example.org/db?sslmode=disable")


@pytest.mark.parametrize("parameter", FILES)
async def test_a_file_that_goes(parameter: str, tmp_path: Path) -> None:
    """A file that is gone for a moment, as while it is replaced, is to a daemon a database that is away, no crash."""
    with pytest.raises(DRIVER_ERRORS, match=f"its {parameter} names no file"):
        await connect(_url(**{parameter: tmp_path / "gone"}))


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    """A file that holds no certificate, or a key that is not its own, is told at once."""
    other = tmp_path / "other"
    other.write_text("no certificate")
    certificate, key = self_signed(tmp_path, "one")
    _, another = self_signed(tmp_path, "two")
    address.parse(_url(sslrootcert=certificate, sslcert=certificate, sslkey=key))
    for wrong in ({"sslrootcert": other}, {"sslcrl": other}):
        with pytest.raises(AddressError, match=f"^the file of {next(iter(wrong))} is none in PEM format$"):
            address.parse(_url(**wrong))
    for pair in ((other, key), (certificate, other), (certificate, another)):
        with pytest.raises(AddressError, match=r"^the files of sslcert and sslkey are no certificate with its key"):
            address.parse(_url(sslcert=pair[0], sslkey=pair[1]))


def test_an_encrypted_key(tmp_path: Path) -> None:
    """A key with a password takes sslpassword; without it nobody is asked at the terminal."""
    certificate, key = self_signed(tmp_path, "ours", "-passout", "pass:canary")
    files = {"sslcert": certificate, "sslkey": key}
    assert ["canary"] == address.parse(_url(**files, sslpassword="canary")).secrets
    for wrong in ({}, {"sslpassword": "wrong"}):
        with pytest.raises(AddressError, match=r"or sslpassword is wrong$"):
            address.parse(_url(**files, **wrong))


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_a_certificate_that_was_revoked(
    is_revoked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the system's authorities, too, a list of revoked certificates counts; one that names no other harms none."""
    certificate, key = self_signed(tmp_path, "server", "-nodes", "-addext", "subjectAltName=DNS:localhost")
    revoked = revocations(certificate, key, *([certificate] if is_revoked else []))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # an authority that the system trusts
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=theirs) as server:
        port = server.sockets[0].getsockname()[1]

        async def visit(url: str) -> None:
            ours = (found := address.parse(url)).tls(found.hosts[0])
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
    """The system's authorities go with full verification alone, as with PostgreSQL's own clients."""
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    if fits:
        assert isinstance((found := address.parse(_url(sslmode=mode))).tls(found.hosts[0]), ssl.SSLContext)
    else:
        with pytest.raises(AddressError, match="verify-full"):
            address.parse(_url(sslmode=mode))
