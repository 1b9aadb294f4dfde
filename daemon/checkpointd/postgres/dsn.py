"""The database's URL: the hosts that it names, and how the connection to each of them is protected.

The grammar is libpq's (PostgreSQL's documentation, "Connection URIs"; conninfo_uri_parse() in fe-connect.c). It allows
several hosts, which RFC 3986 and urllib do not. As with libpq, variables such as PGHOST and PGSSLMODE supply what the
URL omits. Two defaults are safer than libpq's: the certificate of a remote host is verified, and of several hosts only
the primary is accepted.
"""

import getpass
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, cast
from urllib.parse import quote, unquote_to_bytes, urlencode

from checkpointd.postgres import certificates
from checkpointd.postgres.dsn_parameters import DsnError as DsnError  # noqa: PLC0414  # exported
from checkpointd.postgres.dsn_parameters import DsnFileError as DsnFileError  # noqa: PLC0414  # exported
from checkpointd.postgres.dsn_parameters import check_names, check_values, read

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

_HOST: Final = r"(\[[^][/?@,]+\]|[^][:/?@,]*)(?::([^/?@,]*))?"
"""A name, or an IPv6 address in brackets; then perhaps a port. Either may be empty."""

_URL: Final = re.compile(
    rf"""postgres(?:ql)?://
    (?: (?P<user>[^:/?@]*) (?: :(?P<password>[^/?@]*) )? @
      | (?! [^/]*@ | [^?]*@ ) )     # no other @: it could end a password that has an unescaped / or ?
    (?P<hosts> {_HOST} (?: ,{_HOST} )* )
    (?: /(?P<dbname>[^?]*) )?
    (?: \?(?P<parameters>.*) )?""",
    re.VERBOSE | re.DOTALL,
)

_ESCAPE: Final = "in a user name or password, write % / ? # @ : as %25 %2F %3F %23 %40 %3A"

_OF_DRIVER: Final = {
    *("user", "password", "dbname", "port", "passfile", "krbsrvname"),
    *("sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
}
"""Parameters that asyncpg reads in its URL. It would send any other one to the server as a setting."""


class Host(NamedTuple):
    """One server: a name, an IP address, or the folder of its Unix socket (begins with /); and its port or None.

    None stands for the port in PGPORT, or else for 5432.
    """

    name: str
    port: int | None
    address: str | None = None
    """The IP address from hostaddr, or None to look the name up. The certificate is that of the name."""

    def __str__(self) -> str:
        """Return the host and the port as they are written in a URL, but without escapes."""
        name = f"[{self.name}]" if ":" in self.name and not self.name.startswith("/") else self.name
        return f"{name}:{self.port}" if self.port else name

    @property
    def is_local(self) -> bool:
        """True if the name alone shows that the host is this machine."""
        try:
            return self.name.startswith("/") or self.name == "localhost" or ipaddress.ip_address(self.name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Dsn:
    """A parsed URL, completed from the environment. Returned by parse()."""

    hosts: tuple[Host, ...]
    """Empty if no host is named. The default socket of this machine is then used."""
    sslmode: SslMode | None
    """None if neither the URL nor PGSSLMODE sets it."""
    target_session_attrs: str
    """The condition that a host must meet: one that allows a server which accepts writes."""
    options: Mapping[str, str] = field(repr=False)
    """All options that the URL sets, by libpq's names (user, dbname, …), without empty values."""
    secrets: tuple[str, ...] = field(repr=False)
    """The passwords in the URL."""

    @property
    def driver_url(self) -> str:
        """A URL without hosts for asyncpg.connect(), which takes the host as an argument.

        asyncpg parses its URL with urllib, which rejects lists of hosts in brackets since the fix of CVE-2025-0938.
        Options such as sslcert can be given to asyncpg in a URL only.
        """
        passed = {name: value for name, value in self.options.items() if name in _OF_DRIVER}
        if self.hosts:
            passed.pop("port", None)
        for name in ("ssl_min_protocol_version", "ssl_max_protocol_version"):
            if version := read(self.options, name):
                passed[name] = certificates.tls_version(version).name
        return "postgresql://?" + urlencode(sorted(passed.items()), quote_via=quote)

    @property
    def connect_seconds(self) -> int | None:
        """The limit of connect_timeout, or None if it sets none. As with libpq, zero and less set none."""
        seconds = int(read(self.options, "connect_timeout") or 0)
        return seconds if seconds > 0 else None

    @property
    def server_settings(self) -> dict[str, str]:
        """The settings of the session that the URL or a variable sets: application_name and options."""
        name = read(self.options, "application_name") or read(self.options, "fallback_application_name")
        given = {"application_name": name, "options": read(self.options, "options")}
        return {setting: value for setting, value in given.items() if value}

    @property
    def unverified_host(self) -> str | None:
        """The first remote host whose certificate is not fully verified because sslmode is set to less, or None."""
        return next((host.name for host in self.hosts if not host.is_local and not self._verifies(host)), None)

    def tls(self, host: Host) -> ssl.SSLContext | SslMode | None:
        """Return asyncpg's argument `ssl` for a host. Raises OSError if a certificate file is missing."""
        if not self._verifies(host):
            return self.sslmode
        if certificates.has_authorities(self.options):
            return "verify-full"
        return certificates.verifying_context(self.options)

    def _verifies(self, host: Host) -> bool:
        """Return whether the certificate of the host and the name in it are verified.

        channel_binding=require makes libpq prove that no third party is in between, which asyncpg cannot do. To verify
        the certificate proves the same.
        """
        if self.sslmode == "verify-full" or host.is_local:
            return self.sslmode == "verify-full"
        return self.sslmode is None or read(self.options, "channel_binding") == "require"

    def check_tls(self) -> None:
        """Raise DsnError if parameters of TLS contradict each other, or a certificate file cannot be used."""
        if self.sslmode == "disable" and read(self.options, "channel_binding") == "require":
            raise DsnError("channel_binding=require needs TLS, which sslmode=disable turns off")
        optional = {None, "disable", "allow", "prefer"}
        if read(self.options, "sslnegotiation") == "direct" and (
            self.sslmode in optional and not all(map(self._verifies, self.hosts or [Host("localhost", None)]))
        ):
            raise DsnError("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
        oldest, newest = (read(self.options, f"ssl_{end}_protocol_version") for end in ("min", "max"))
        if oldest and newest and certificates.tls_version(oldest) > certificates.tls_version(newest):
            raise DsnError("its ssl_min_protocol_version must not be newer than its ssl_max_protocol_version")
        if self.sslmode == "disable" or (self.hosts and all(host.name.startswith("/") for host in self.hosts)):
            return
        certificates.check_files(self.options, self.sslmode)


def parse(url: str) -> Dsn:
    """Parse a URL, complete it from the environment and check its certificate files. Raises DsnError.

    An accepted URL has the same meaning as in libpq. Some URLs that libpq accepts are rejected: those in which an
    unescaped character probably splits a password, so that a part of the password would be shown as a host name.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise DsnError("it must begin with postgresql://")
    match = _URL.fullmatch(url.rstrip())  # a file may end with a newline, which recent versions of libpq ignore too
    if not match or "#" in url:  # most other parsers end the URL at a #
        raise DsnError(f"it is not a valid PostgreSQL URL; {_ESCAPE}")
    main, parameters = _main_options(match), _parameters(match["parameters"] or "")
    options = {name: value for name, value in (main | parameters).items() if value}
    check_values(options)
    hosts = _hosts(options)
    if not hosts and os.environ.get("PGSERVICE"):
        raise DsnError("service files, which may name another host, are not supported: write the host into the URL")
    sslmode = cast("SslMode | None", read(options, "sslmode"))
    attribute = read(options, "target_session_attrs") or ("primary" if len(hosts) > 1 else "any")
    if not (options.get("user") or os.environ.get("PGUSER")):
        _require_user_name()
    passwords = main.get("password"), parameters.get("password"), parameters.get("sslpassword")
    dsn = Dsn(hosts, sslmode, attribute, options, tuple(word for word in passwords if word))
    dsn.check_tls()
    return dsn


def _require_user_name() -> None:
    """Raise DsnError if this process has no user name, which is the default for the user of the database."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        raise DsnError(
            f"it has no user, and the user id {os.getuid()} of this process has no name: "
            "add a user to the URL (postgresql://USER@…)"
        ) from None


def _main_options(match: re.Match[str]) -> dict[str, str]:
    """Return the part before the ? as libpq's options: `[::1]:1,h` becomes host `::1,h` and port `1,`."""
    elements = [re.findall(_HOST, element)[0] for element in match["hosts"].split(",")]
    raw = {
        "user": match["user"],
        "password": match["password"],
        "host": ",".join(name.strip("[]") for name, _ in elements),
        "port": ",".join(port for _, port in elements),
        "dbname": match["dbname"],
    }
    return {name: _unescape(value) for name, value in raw.items() if value}


def _parameters(text: str) -> dict[str, str]:
    """Return the parameters after the ?. If a name occurs twice, the last value counts."""
    parameters = {}
    for parameter in text.removesuffix("&").split("&") if text else ():
        match = re.fullmatch("([^=]+)=([^=]*)", parameter)
        if not match:
            raise DsnError("after the ? it must have name=value, joined by &; in a value, write & = as %26 %3D")
        name, value = _unescape(match[1]), _unescape(match[2])
        if (name, value) == ("ssl", "true"):  # as in URLs for JDBC
            name, value = "sslmode", "require"
        parameters[name] = value
    check_names(parameters)
    return parameters


def _unescape(text: str) -> str:
    """Decode %XX as UTF-8. Unlike in a web form, + is a plus sign."""
    try:
        value = unquote_to_bytes(text).decode()
    except UnicodeError:
        raise DsnError("it must be UTF-8, including bytes written as %XX") from None
    if "\0" in value or re.search("%(?![0-9A-Fa-f]{2})", text):
        raise DsnError("a % in it must be followed by two hexadecimal digits, not 00; write % itself as %25")
    return value


def _hosts(options: Mapping[str, str]) -> tuple[Host, ...]:
    """Return the hosts that the options or the environment name.

    A single empty host means the default socket. In a list, an empty host is an error. libpq would use the default
    socket for it, but then a database on this machine could be used by mistake instead of a host that was forgotten.
    """
    addresses = (read(options, "hostaddr") or "").split(",")
    names = (read(options, "host") or "").split(",")
    names = addresses if names == [""] else names
    if not all(not address or _is_address(address) for address in addresses):
        raise DsnError("a hostaddr in it or in PGHOSTADDR must be an IP address")
    if addresses != [""] and len(addresses) != len(names):
        raise DsnError("it must name as many hostaddr as hosts; PGHOSTADDR is used for what it omits")
    given = options.get("port", "")
    ports = (given if given.strip(",") else os.environ.get("PGPORT") or "").split(",")
    if not all(not port or (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536) for port in ports):
        raise DsnError(f"a port in it or in PGPORT must be a number from 1 to 65535; {_ESCAPE}")
    if len(ports) not in {1, len(names)}:
        raise DsnError("it must name one port, or as many ports as hosts; PGHOST and PGPORT are used for what it omits")
    if names == [""]:
        return ()
    if not all(map(_is_host, names)):
        raise DsnError(f"a host in it or in PGHOST is empty or invalid; {_ESCAPE}")
    ports = ports * len(names) if len(ports) == 1 else ports
    addresses = addresses if addresses != [""] else addresses * len(names)
    return tuple(
        Host(name, int(port) if port else None, address or None)
        for name, port, address in zip(names, ports, addresses, strict=True)
    )


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_host(name: str) -> bool:
    """Return whether the name is a socket's folder, an IPv6 address or a name that can be looked up.

    getaddrinfo() raises UnicodeError for a name with a label that is empty or longer than 63 bytes.
    """
    if name.startswith("/") or ":" in name:
        return name.startswith("/") or _is_address(name)
    try:
        return bool(name.encode("idna")) and not name.startswith("@")  # libpq: an abstract socket, unknown to asyncpg
    except ValueError:
        return False
