"""Where the database is: what a URL and the environment say, and what is chosen where they are silent."""

import ssl

import pytest

from checkpointd import address
from checkpointd.address import Host


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PGHOST", "PGPORT", "PGSSLMODE", "PGSSLROOTCERT", "PGTARGETSESSIONATTRS", "PGSERVICE"):
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
