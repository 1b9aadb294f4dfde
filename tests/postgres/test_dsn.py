"""The database's URL: its grammar, its hosts, what the environment supplies, and what the driver gets."""

import asyncio
import ctypes
import getpass
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkpointd.postgres import dsn
from checkpointd.postgres.connection import connect
from checkpointd.postgres.dsn import DsnError, Host
from checkpointd.postgres.errors import DRIVER_ERRORS
from support.servers import free_port

pytestmark = pytest.mark.usefixtures("no_pg_variables")

# Grammar

URLS: dict[str, dict[str, str]] = {
    "postgresql://": {},
    "postgres://": {},
    "postgresql:///": {},
    "postgresql:///?": {},
    "postgresql:///db": {"dbname": "db"},
    "postgresql://h": {"host": "h"},
    "postgresql://h/": {"host": "h"},
    "postgresql://h?user=u": {"host": "h", "user": "u"},
    "postgresql://h:5433/db": {"host": "h", "port": "5433", "dbname": "db"},
    "postgresql://h:/db": {"host": "h", "dbname": "db"},
    "postgresql://:5433/db": {"port": "5433", "dbname": "db"},
    "postgresql://u@h/db": {"user": "u", "host": "h", "dbname": "db"},
    "postgresql://u@/db": {"user": "u", "dbname": "db"},
    "postgresql://u:@h/db": {"user": "u", "host": "h", "dbname": "db"},
    "postgresql://:p@h/db": {"password": "p", "host": "h", "dbname": "db"},
    "postgresql://u:p:q@h": {"user": "u", "password": "p:q", "host": "h"},
    "postgresql://u:p%40%2F%3a+%25@h": {"user": "u", "password": "p@/:+%", "host": "h"},
    "postgresql://%C3%A9:é@h": {"user": "é", "password": "é", "host": "h"},
    "postgresql://u@h/d@b": {"user": "u", "host": "h", "dbname": "d@b"},
    "postgresql://h/a/b": {"host": "h", "dbname": "a/b"},
    "postgresql://h/a%3Fb": {"host": "h", "dbname": "a?b"},
    "postgresql://[::1]/db": {"host": "::1", "dbname": "db"},
    "postgresql://[::1]:3": {"host": "::1", "port": "3"},
    "postgresql://[fe80::1%25eth0]": {"host": "fe80::1%eth0"},
    "postgresql://[h]": {"host": "h"},
    "postgresql://%2Frun%2Fpostgresql:7/db": {"host": "/run/postgresql", "port": "7", "dbname": "db"},
    "postgres://u@h1:1,h2,[::1]:3/db": {"user": "u", "host": "h1,h2,::1", "port": "1,,3", "dbname": "db"},
    "postgresql://h1,h2/db": {"host": "h1,h2", "port": ",", "dbname": "db"},
    "postgresql://h1%2Ch2:7": {"host": "h1,h2", "port": "7"},
    "postgresql:///db?host=/run/postgresql&port=7": {"host": "/run/postgresql", "port": "7", "dbname": "db"},
    "postgresql:///?host=::1": {"host": "::1"},
    "postgresql://h1:1/db?host=h2": {"host": "h2", "port": "1", "dbname": "db"},
    "postgresql://h1:1,h2/db?port=7": {"host": "h1,h2", "port": "7", "dbname": "db"},
    "postgresql://u:p@h/db?user=v&password=q&dbname=e": {"user": "v", "password": "q", "host": "h", "dbname": "e"},
    "postgresql:///?user=u&user=v": {"user": "v"},
    "postgresql:///?us%65r=v&": {"user": "v"},
    "postgresql:///?application_name=a+b/c:d@e?f%26%3D": {"application_name": "a+b/c:d@e?f&="},
    "postgresql:///?options=-c%20geqo%3Doff": {"options": "-c geqo=off"},
}  # fmt: skip
"""URLs, and the options that they set."""

INVALID = {
    "http://h/db": "begin with",
    "postgresql:/h/db": "begin with",
    "PostgreSQL://h/db": "begin with",
    "postgresql://h/%": "hexadecimal",
    "postgresql://h/%4": "hexadecimal",
    "postgresql://h/%4g": "hexadecimal",
    "postgresql://u:%00@h": "hexadecimal",
    "postgresql://h/%FF": "UTF-8",
    "postgresql://h/\udcff": "UTF-8",
    "postgresql://[::1": "not a valid",
    "postgresql://[]": "not a valid",
    "postgresql://[::1]1": "not a valid",
    "postgresql://::1": "a port",
    "postgresql://h:+1": "a port",
    "postgresql://h:0": "a port",
    "postgresql://h:65536": "a port",
    "postgresql:///?port=x": "a port",
    "postgresql:///?port=1,2": "as many ports",
    "postgresql://h?port=1,2": "as many ports",
    "postgresql://h1,h2,h3?port=1,2": "as many ports",
    "postgresql://h1,,h2": "a host",
    "postgresql://,": "a host",
    "postgresql://h%3A1": "a host",
    "postgresql:///?host=h:1": "a host",
    "postgresql:///?host=[::1]": "a host",
    "postgresql://h..i": "a host",
    "postgresql:///?user": "name=value",
    "postgresql:///?user=a=b": "name=value",
    "postgresql:///?user=a&&": "name=value",
    "postgresql:///?&user=a": "name=value",
    "postgresql:///?=a": "name=value",
}
"""URLs that are rejected, and words of the message."""

AMBIGUOUS = (
    "postgresql://u:p/q@h",
    "postgresql://u:1/q@h",
    "postgresql://u:p?q@h",
    "postgresql://h?application_name=a@b",
    "postgresql://u:p@q@h",
    "postgresql://u:p#q@h",
    "postgresql://h/db#x",
)
"""URLs in which a part of a password may be taken for something else. libpq accepts them."""


class _Option(ctypes.Structure):
    """PQconninfoOption of libpq-fe.h."""

    _fields_ = [  # as ctypes requires
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    ]


def _load_libpq() -> ctypes.CDLL | None:
    try:
        libpq = ctypes.CDLL("libpq.so.5")
    except OSError:
        return None
    libpq.PQconninfoParse.restype = ctypes.POINTER(_Option)
    libpq.PQconninfoFree.restype = None
    return libpq


LIBPQ = _load_libpq()
needs_libpq = pytest.mark.skipif(LIBPQ is None, reason="no libpq.so.5")


def _by_libpq(url: str) -> dict[str, str] | None:
    """Return the options that libpq reads in a URL and that are not empty, or None if it rejects the URL."""
    assert LIBPQ is not None
    options = LIBPQ.PQconninfoParse(url.encode(), None)
    if not options:
        return None
    found = {option.keyword: option.val for option in takewhile(lambda option: option.keyword, options)}
    LIBPQ.PQconninfoFree(options)
    return {name.decode(): value.decode() for name, value in found.items() if value}


@pytest.mark.parametrize("url", URLS)
def test_what_a_url_sets(url: str) -> None:
    """Each part of a URL is read and unescaped; a parameter of the same name overrides it."""
    assert URLS[url] == dsn.parse(url).options


@needs_libpq
@pytest.mark.parametrize("url", URLS)
def test_libpq_reads_the_same(url: str) -> None:
    """Libpq reads the same options in these URLs."""
    assert URLS[url] == _by_libpq(url)


@pytest.mark.parametrize("url", [*INVALID, *AMBIGUOUS])
def test_what_is_rejected(url: str) -> None:
    """A URL is rejected if it is invalid, or if libpq and other parsers would read it differently."""
    with pytest.raises(DsnError, match=INVALID.get(url, "not a valid")):
        dsn.parse(url)


def test_a_newline_at_the_end_is_ignored() -> None:
    """A URL may end with a newline, as the content of a file does."""
    assert {"dbname": "db"} == dsn.parse("postgresql:///db\n").options


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5})?", fullmatch=True)
FOLDERS = st.text(st.characters(codec="ascii", exclude_characters="\0,")).map(lambda text: f"/{text}")
HOSTS = st.builds(Host, NAMES | FOLDERS | st.ip_addresses().map(str), st.none() | st.integers(1, 65535))
PARAMETERS = ("application_name", "connect_timeout", "krbsrvname", "options", "passfile")


@settings(deadline=None)
@given(
    main=st.fixed_dictionaries({}, optional={"user": TEXT, "password": TEXT, "dbname": TEXT}),
    hosts=st.lists(HOSTS, max_size=4),
    parameters=st.dictionaries(st.sampled_from(PARAMETERS), TEXT),
)
def test_a_url_is_read_back_as_its_parts(main: dict[str, str], hosts: list[Host], parameters: dict[str, str]) -> None:
    """A URL that is built from escaped parts is read as those parts, and libpq reads the same."""
    escaped = {name: quote(value, safe="") for name, value in main.items()}
    user = escaped.get("user", "") + (f":{escaped['password']}" if "password" in main else "")
    names = [f"[{host.name}]" if re.match(r"[^/]*:", host.name) else quote(host.name, safe="") for host in hosts]
    listed = ",".join(name + (f":{host.port}" if host.port else "") for name, host in zip(names, hosts, strict=True))
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    url = f"postgresql://{user and f'{user}@'}{listed}/{escaped.get('dbname', '')}{query and f'?{query}'}"
    found = dsn.parse(url)
    assert tuple(hosts) == found.hosts
    assert main | parameters == {name: value for name, value in found.options.items() if name not in {"host", "port"}}
    assert tuple(main[name] for name in main if name == "password") == found.secrets
    assert LIBPQ is None or found.options == _by_libpq(url)


PIECES = st.sampled_from([*"ab1:/?#@[],=&%.", "::1", "%2F", "%40", "%00", "%2C", "é", "host=", "port=", "user="])


@needs_libpq
@settings(deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
@example("u@h?user=a@b")
def test_what_is_accepted_is_what_libpq_reads(text: str) -> None:
    """Any text is either rejected, or read as libpq reads it."""
    url = f"postgresql://{text}"
    try:
        found = dsn.parse(url).options
    except DsnError:
        return
    # Other parameters are accepted, and sent to the server. libpq rejects names that it does not know.
    if {"host", "port", "user"} >= set(re.findall("([^&=]+)=", url.partition("?")[2])):
        assert found == _by_libpq(url)


# Hosts


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql:///db", ()),
        ("postgresql://:5433/db", ()),
        ("postgresql://h/db", (Host("h", None),)),
        ("postgresql://u:p%40q@h:5433/db", (Host("h", 5433),)),
        ("postgres://u@h1:1,h2,[::1]:3/db", (Host("h1", 1), Host("h2", None), Host("::1", 3))),
        ("postgresql://u@/db?host=/run/postgresql&port=7", (Host("/run/postgresql", 7),)),
        ("postgresql://%2Frun%2Fpostgresql/db", (Host("/run/postgresql", None),)),
        ("postgresql:///db?host=h1,h2&port=1,2", (Host("h1", 1), Host("h2", 2))),
        ("postgresql:///db?host=h1,h2&port=1,", (Host("h1", 1), Host("h2", None))),
        ("postgresql:///db?host=h1,h2&port=7", (Host("h1", 7), Host("h2", 7))),
        ("postgresql://h1:1/db?host=h2,h3", (Host("h2", 1), Host("h3", 1))),
    ],
)
def test_hosts(url: str, hosts: tuple[Host, ...]) -> None:
    """Each host gets its port; one port is for all hosts."""
    assert hosts == dsn.parse(url).hosts


def test_the_environment_supplies_what_the_url_omits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the URL omits is read from the variables of PostgreSQL's own clients."""
    monkeypatch.setenv("PGHOST", "h")
    monkeypatch.setenv("PGPORT", "7")
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    found = dsn.parse("postgresql:///db")
    assert ((Host("h", 7),), "require", "read-write") == (found.hosts, found.sslmode, found.target_session_attrs)
    assert (Host("h1", 7), Host("h2", 7)) == dsn.parse("postgresql://h1,h2/db").hosts
    found = dsn.parse("postgresql://other:8/db?sslmode=verify-full&target_session_attrs=any")
    assert ((Host("other", 8),), "verify-full", "any") == (found.hosts, found.sslmode, found.target_session_attrs)


@pytest.mark.parametrize(("url", "attribute"), [("postgresql://h/db", "any"), ("postgresql://h1,h2/db", "primary")])
def test_the_primary_of_several_hosts(url: str, attribute: str) -> None:
    """Of several hosts the primary is chosen, unless the URL says otherwise."""
    assert attribute == dsn.parse(url).target_session_attrs


def test_the_password_is_not_shown() -> None:
    """The repr of a parsed URL has no password. All passwords are listed, for redaction."""
    found = dsn.parse("postgresql://u:canary@h/db?password=canary2&sslpassword=canary3")
    assert "canary" not in repr(found)
    assert ("canary", "canary2", "canary3") == found.secrets


# What the driver gets


async def _login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str]:
    """Read what a client sends first, ask for its password in clear text, and hang up."""
    length = int.from_bytes(await reader.readexactly(4))
    words = (await reader.readexactly(length - 4))[4:].decode().split("\0")
    writer.write(b"R" + (8).to_bytes(4) + (3).to_bytes(4))
    kind, length = await reader.readexactly(1), int.from_bytes(await reader.readexactly(4))
    assert b"p" == kind
    password = (await reader.readexactly(length - 4)).decode().strip("\0")
    writer.close()
    return dict(zip(words[::2], words[1::2], strict=False)) | {"password": password}


@asynccontextmanager
async def _logins() -> AsyncIterator[tuple[int, list[dict[str, str]]]]:
    """Run a server to which clients only log in; yields its port on 127.0.0.1 and the logins that it saw."""
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await _login(reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], seen


async def test_the_driver_gets_what_was_parsed() -> None:
    """User, password and database are sent unescaped; a parameter that the driver does not know is a setting."""
    async with _logins() as (port, seen):
        with pytest.raises(DRIVER_ERRORS):
            await connect(
                f"postgres://%C3%A9:p%2B%40+@127.0.0.1:{port}/d%2Fb?sslmode=disable&krbsrvname=k&sslkey=/dev/null"
                "&DateStyle=a+b%20c%26&search_path=public&options=-c%20geqo%3Doff"
            )
    expected = {"user": "é", "password": "p+@+", "database": "d/b", "DateStyle": "a+b c&", "options": "-c geqo=off",
                "search_path": "pg_catalog", "application_name": "checkpointd"}  # fmt: skip
    assert expected == {name: seen[0].get(name) for name in expected}
    assert not seen[0].keys() & {"host", "port", "dbname", "sslmode", "sslkey", "krbsrvname"}


async def test_the_driver_reads_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the URL omits, the driver reads from variables and from the password file."""
    async with _logins() as (port, seen):

        async def login(url: str) -> list[str]:
            with pytest.raises(DRIVER_ERRORS):
                await connect(url)
            return [seen[-1][name] for name in ("user", "password", "database")]

        monkeypatch.setenv("PGSSLMODE", "disable")
        monkeypatch.setenv("PGPASSWORD", "of-variable")
        assert [getpass.getuser(), "of-variable", getpass.getuser()] == await login(f"postgresql://127.0.0.1:{port}")
        monkeypatch.setenv("PGUSER", "someone")
        monkeypatch.setenv("PGDATABASE", "base")
        assert ["someone", "of-variable", "base"] == await login(f"postgresql://127.0.0.1:{port}/")
        assert ["other", "of-url", "db"] == await login(f"postgresql://other:of-url@127.0.0.1:{port}/db")
        monkeypatch.delenv("PGPASSWORD")
        passwords = tmp_path / "passwords"
        passwords.write_text(f"127.0.0.1:{port}:base:someone:of-file\n")
        passwords.chmod(0o600)
        file = quote(str(passwords), safe="")
        assert ["someone", "of-file", "base"] == await login(f"postgresql://127.0.0.1:{port}?passfile={file}")
        monkeypatch.setenv("PGPASSFILE", str(passwords))
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(port))
        assert ["someone", "of-file", "base"] == await login("postgresql://")


async def test_each_host_of_a_list_is_tried(tmp_path: Path) -> None:
    """Each host of a list is tried at its own port, an IPv6 address and a socket too."""
    ports, seen = [free_port() for _ in range(3)], set()

    def server(name: object) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _login(reader, writer)
            seen.add(name)

        return serve

    async with (
        await asyncio.start_server(server(0), "127.0.0.1", ports[0]),
        await asyncio.start_server(server(1), "::1", ports[1]),
        await asyncio.start_unix_server(server(2), tmp_path / f".s.PGSQL.{ports[2]}"),
    ):
        folder = quote(str(tmp_path), safe="")
        with pytest.raises(ConnectionError, match="no host is primary"):
            await connect(f"postgres://u:p@127.0.0.1:{ports[0]},[::1]:{ports[1]},{folder}:{ports[2]}?sslmode=disable")
    assert {0, 1, 2} == seen


@pytest.mark.parametrize(
    ("url", "driver_url"),
    [
        ("postgresql://h1:1,h2/db", "postgresql://?dbname=db"),
        ("postgresql://u@[::1]:1?host=h", "postgresql://?user=u"),
        ("postgresql://:7/db", "postgresql://?dbname=db&port=7"),
        ("postgresql://", "postgresql://?"),
    ],
)
def test_the_driver_gets_no_list_of_hosts(url: str, driver_url: str) -> None:
    """The driver's URL has no hosts, and a port only for the default socket."""
    assert driver_url == dsn.parse(url).driver_url
