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
from checkpointd.postgres.dsn_parameters import PARAMETERS
from checkpointd.postgres.embedded import binary
from checkpointd.postgres.errors import DRIVER_ERRORS
from support.documents import Document
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
    "postgresql:///?ssl=true": {"sslmode": "require"},
    "postgresql:///?sslmode=verify-full&ssl=true": {"sslmode": "require"},
    "postgresql:///?connect_timeout=%2010%20": {"connect_timeout": " 10 "},
    "postgresql://h/?hostaddr=10.0.0.1": {"host": "h", "hostaddr": "10.0.0.1"},
    "postgresql://u:p@/db?host=/cloudsql/p:r:i":
        {"user": "u", "password": "p", "host": "/cloudsql/p:r:i", "dbname": "db"},
    "postgresql://u:p@%2Fcloudsql%2Fp%3Ar%3Ai/db":
        {"user": "u", "password": "p", "host": "/cloudsql/p:r:i", "dbname": "db"},
    "postgresql://u:p@ep-a-1-pooler.eu.aws.neon.tech/db?sslmode=require&channel_binding=require":
        {"user": "u", "password": "p", "host": "ep-a-1-pooler.eu.aws.neon.tech", "dbname": "db", "sslmode": "require",
         "channel_binding": "require"},
    "postgresql://u:p@ep.neon.tech/db?sslmode=require&options=endpoint%3Dep-a-1":
        {"user": "u", "password": "p", "host": "ep.neon.tech", "dbname": "db", "sslmode": "require",
         "options": "endpoint=ep-a-1"},
    "postgresql://u:p@ep.neon.tech/db?options=project%3Dep-a-1":
        {"user": "u", "password": "p", "host": "ep.neon.tech", "dbname": "db", "options": "project=ep-a-1"},
    "postgresql://postgres.abcdef:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres":
        {"user": "postgres.abcdef", "password": "p", "host": "aws-0-eu-central-1.pooler.supabase.com", "port": "6543",
         "dbname": "postgres"},
    "postgres://u%40tenant:p@x.postgres.database.azure.com:5432/db?sslmode=require":
        {"user": "u@tenant", "password": "p", "host": "x.postgres.database.azure.com", "port": "5432", "dbname": "db",
         "sslmode": "require"},
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
    "postgresql:///?nosuch=a": "unknown parameter: nosuch: remove it; .* options=-c%20nosuch%3D",
    "postgresql:///?DateStyle=ISO": "unknown parameter: DateStyle: .* options=-c%20DateStyle%3D",
    "postgresql:///?applicaton_name=a": "did you mean application_name",
    "postgresql:///?SSLMODE=require": "did you mean sslmode",
    "postgresql:///?ssl=false": "use sslmode",
    "postgresql:///?pgbouncer=true": "CHECKPOINTD_DATABASE_POOLER=true",
    "postgresql:///?schema=public": "unknown parameter: schema: remove it",
    "postgresql:///?password=a&canary=b": "unknown parameter after the",
    "postgresql:///?can%20ary=b": "unknown parameter after the",
    "postgresql:///?connect_timeout=soon": "its connect_timeout must be a whole number",
    "postgresql:///?connect_timeout=1.5": "its connect_timeout must be a whole number",
    "postgresql:///?channel_binding=always": "its channel_binding must be one of",
    "postgresql://h?channel_binding=require&sslmode=disable": "channel_binding=require needs TLS",
    "postgresql://h?sslnegotiation=indirect": "its sslnegotiation must be one of",
    "postgresql:///?sslnegotiation=direct": "sslnegotiation=direct needs",
    "postgresql://localhost?sslnegotiation=direct": "sslnegotiation=direct needs",
    "postgresql://h?sslnegotiation=direct&sslmode=prefer": "sslnegotiation=direct needs",
    "postgresql://h?ssl_min_protocol_version=SSLv3": "its ssl_min_protocol_version must be",
    "postgresql://h?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2": "must not be newer",
    "postgresql://h?hostaddr=h": "a hostaddr",
    "postgresql://h1,h2?hostaddr=10.0.0.1": "as many hostaddr",
    "postgresql:///?hostaddr=10.0.0.1,": "a host",
    "postgresql:///?host=%40abstract": "a host",
    "postgresql:///?service=s": "its service is not supported",
    "postgresql:///?servicefile=/f": "its servicefile is not supported",
    "postgresql:///?require_auth=scram-sha-256": "its require_auth is not supported",
    "postgresql:///?requirepeer=postgres": "its requirepeer is not supported",
    "postgresql:///?gssencmode=require": "its gssencmode must be",
    "postgresql:///?sslcertmode=disable": "its sslcertmode must be allow",
    "postgresql:///?sslcrldir=/d": "its sslcrldir is not supported",
    "postgresql:///?sslsni=0": "its sslsni must be 1",
    "postgresql:///?replication=database": "its replication must be off",
    "postgresql:///?min_protocol_version=3.2": "its min_protocol_version must be 3.0",
    "postgresql:///?oauth_client_secret=canary": "its oauth_client_secret is not supported",
    "postgresql:///?scram_client_key=canary": "its scram_client_key is not supported",
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


HARMLESS = (
    "client_encoding=latin1&keepalives=0&keepalives_idle=60&keepalives_interval=5&keepalives_count=2&tcp_user_timeout=9"
    "&sslcompression=1&gsslib=gssapi&gssencmode=prefer&replication=off&sslsni=1&channel_binding=prefer"
    "&fallback_application_name=f&connect_timeout=-1"
)
"""Parameters of libpq that change nothing, and those with a value that does not."""


class _Option(ctypes.Structure):
    """PQconninfoOption of libpq-fe.h."""

    _fields_ = [  # as ctypes requires
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    ]


def _load_libpq(path: str) -> ctypes.CDLL | None:
    try:
        libpq = ctypes.CDLL(path)
    except OSError:
        return None
    libpq.PQconninfoParse.restype = ctypes.POINTER(_Option)
    libpq.PQconndefaults.restype = ctypes.POINTER(_Option)
    libpq.PQconninfoFree.restype = None
    return libpq


LIBPQ = _load_libpq("libpq.so.5")
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


def _parameters_of(libpq: ctypes.CDLL) -> dict[str, str | None]:
    """Return the parameters of a libpq, each with the variable that supplies it."""
    options = takewhile(lambda option: option.keyword, libpq.PQconndefaults())
    return {option.keyword.decode(): option.envvar.decode() if option.envvar else None for option in options}


@pytest.mark.parametrize("path", ["libpq.so.5", str(binary("psql").parents[1] / "lib" / "libpq.so.5")])
def test_every_parameter_of_libpq_is_known(path: str) -> None:
    """Each parameter of the installed libpq, and of that of PostgreSQL 18, is used, ignored or refused."""
    libpq = _load_libpq(path)
    if libpq is None:
        pytest.skip(f"no {path}")
    found = _parameters_of(libpq)
    assert len(found) > 35
    assert set() == found.keys() - PARAMETERS.keys()
    variables = {name: parameter.variable for name, parameter in PARAMETERS.items() if parameter.variable}
    assert {} == {name: variable for name, variable in variables.items() if found.get(name, variable) != variable}
    if "oauth_issuer" in found:
        assert {"servicefile"} == PARAMETERS.keys() - found.keys()  # of PostgreSQL 19


def test_the_table_of_parameters() -> None:
    """The table in the documents has each parameter, with its treatment."""
    rows = Document("sql/OPERATING.md").rows("Database URLs", "parameter")
    listed = {name: row[1] for row in rows for name in re.findall("`(.+?)`", row[0])}
    assert {name: parameter.treatment for name, parameter in PARAMETERS.items()} == listed


def test_harmless_parameters_are_ignored() -> None:
    """A parameter that changes nothing is accepted and not sent to the server."""
    found = dsn.parse(f"postgresql://u@h/db?{HARMLESS}")
    assert ("postgresql://?dbname=db&user=u", {"application_name": "f"}) == (found.driver_url, found.server_settings)


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("0", None), ("-1", None), ("1", 1), ("10", 10)])
def test_the_limit_of_connecting(text: str, seconds: int | None) -> None:
    """The limit is connect_timeout in seconds; zero and less set none."""
    assert seconds == dsn.parse(f"postgresql:///?connect_timeout={text}").connect_seconds


REFUSED_VARIABLES = {
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "postgres",
    "PGGSSENCMODE": "require",
    "PGSSLCRLDIR": "/d",
    "PGCONNECT_TIMEOUT": "soon",
    "PGSSLNEGOTIATION": "direct",
}


@pytest.mark.parametrize("variable", REFUSED_VARIABLES)
def test_variables_are_refused_as_parameters(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a parameter of the URL may not demand, its variable may not demand, either."""
    monkeypatch.setenv(variable, REFUSED_VARIABLES[variable])
    with pytest.raises(DsnError, match=f"{variable} |sslnegotiation"):
        dsn.parse("postgresql:///db")


@pytest.mark.parametrize("url", [*INVALID, *AMBIGUOUS])
def test_a_message_has_no_value(url: str) -> None:
    """No message repeats a value, which may be a part of a password."""
    with pytest.raises(DsnError) as caught:
        dsn.parse(url)
    assert "canary" not in str(caught.value)


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
ADDRESSES = st.ip_addresses().map(str)
HOSTS = st.builds(Host, NAMES | FOLDERS | ADDRESSES, st.none() | st.integers(1, 65535), st.none())
FREE = ("application_name", "fallback_application_name", "krbsrvname", "options", "passfile")


@settings(deadline=None)
@given(
    main=st.fixed_dictionaries({}, optional={"user": TEXT, "password": TEXT, "dbname": TEXT}),
    hosts=st.lists(HOSTS, max_size=4),
    parameters=st.dictionaries(st.sampled_from(FREE), TEXT),
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
        ("postgresql://h/db?hostaddr=10.0.0.1", (Host("h", None, "10.0.0.1"),)),
        ("postgresql://h1,h2/db?hostaddr=,::1", (Host("h1", None), Host("h2", None, "::1"))),
        (
            "postgresql:///db?hostaddr=10.0.0.1,10.0.0.2",
            (Host("10.0.0.1", None, "10.0.0.1"), Host("10.0.0.2", None, "10.0.0.2")),
        ),
        ("postgresql:///db?host=/cloudsql/p:r:i", (Host("/cloudsql/p:r:i", None),)),
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
    """User, password, database and settings are sent unescaped. The daemon's own settings override `options`."""
    async with _logins() as (port, seen):
        with pytest.raises(DRIVER_ERRORS):
            await connect(
                f"postgres://%C3%A9:p%2B%40+@127.0.0.1:{port}/d%2Fb?sslmode=disable&krbsrvname=k&sslkey=/dev/null"
                f"&options=-c%20geqo%3Doff&application_name=a+b%20c%26&{HARMLESS}"
            )
    expected = {"user": "é", "password": "p+@+", "database": "d/b", "options": "-c geqo=off",
                "search_path": "pg_catalog", "application_name": "a+b c&", "client_encoding": "'utf-8'"}  # fmt: skip
    assert expected == {name: seen[0].get(name) for name in expected}
    assert not seen[0].keys() - {"client_encoding"} & PARAMETERS.keys() - expected.keys()


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
