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
from typing import Final, Literal, NamedTuple, get_args
from urllib.parse import quote, unquote_to_bytes, urlencode

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
SESSION_ATTRIBUTES: Final = ("any", "primary", "read-write")
"""The values of PostgreSQL's target_session_attrs that allow a server which accepts writes."""

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

_FILES: Final = {
    "sslrootcert": ("PGSSLROOTCERT", "root.crt"),
    "sslcrl": ("PGSSLCRL", "root.crl"),
    "sslcert": ("PGSSLCERT", "postgresql.crt"),
    "sslkey": ("PGSSLKEY", "postgresql.key"),
}
"""Options that name a file. If the URL omits one, the variable is used, and otherwise the file in ~/.postgresql."""


class DsnError(ValueError):
    """The URL is invalid. The message repeats nothing of the URL, because the URL may contain a password."""


class DsnFileError(DsnError, OSError):
    """A certificate file cannot be used now: perhaps it is being replaced. As an OSError it is retried."""


class Host(NamedTuple):
    """One server: a name, an IP address, or the folder of its Unix socket (begins with /); and its port or None.

    None stands for the port in PGPORT, or else for 5432.
    """

    name: str
    port: int | None

    def __str__(self) -> str:
        """Return the host and the port as they are written in a URL, but without escapes."""
        name = f"[{self.name}]" if ":" in self.name else self.name
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
    """One of SESSION_ATTRIBUTES: the condition that a host must meet."""
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
        passed = self.options.keys() - ({"host", "port"} if self.hosts else ())
        return "postgresql://?" + urlencode({name: self.options[name] for name in sorted(passed)}, quote_via=quote)

    @property
    def unverified_host(self) -> str | None:
        """The first remote host whose certificate is not fully verified because sslmode is set to less, or None."""
        chosen = self.sslmode not in {None, "verify-full"}
        return next((host.name for host in self.hosts if chosen and not host.is_local), None)

    def tls(self, host: Host) -> ssl.SSLContext | SslMode | None:
        """Return asyncpg's argument `ssl` for a host. Raises OSError if a certificate file is missing."""
        if self.sslmode != "verify-full" and (self.sslmode or host.is_local):
            return self.sslmode
        if self._file("sslrootcert") not in {None, "system"}:
            return "verify-full"
        # asyncpg's own verify-full requires a root certificate file. Without one, the system's certificates are used.
        context = ssl.create_default_context()
        if revoked := self._file("sslcrl"):
            context.load_verify_locations(revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        self._load_client_certificate(context)
        return context

    def check_files(self) -> None:
        """Raise DsnError if a certificate file that the URL or a variable names cannot be used.

        asyncpg raises the same error for a missing certificate file and for a missing socket.
        """
        if self.sslmode == "disable" or (self.hosts and all(host.name.startswith("/") for host in self.hosts)):
            return
        named = {option: self._named_file(option) for option in _FILES}
        paths = {option: path for option, path in named.items() if path and (option, path) != ("sslrootcert", "system")}
        for option, path in paths.items():
            try:
                with open(path, "rb"):  # noqa: PTH123  # Path.open() raises more kinds of errors
                    pass
            except (OSError, ValueError):
                origin = f"its {option}" if option in self.options else _FILES[option][0]
                raise DsnFileError(f"{origin} must name a file that this user can read") from None
        if named["sslrootcert"] == "system" and self.sslmode in {"require", "verify-ca"}:
            raise DsnError("sslrootcert=system requires sslmode=verify-full")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for option in paths.keys() & {"sslrootcert", "sslcrl"}:
            try:
                context.load_verify_locations(paths[option])
            except OSError:
                raise DsnFileError(f"the file of {option} must be in PEM format") from None
        try:
            if "sslcert" in paths:
                self._load_client_certificate(context)
        except OSError:
            message = "the files of sslcert and sslkey must be a certificate and its key in PEM format"
            raise DsnFileError(f"{message}; sslpassword must be the key's password, if it has one") from None

    def _load_client_certificate(self, context: ssl.SSLContext) -> None:
        """Load this client's certificate, if there is one. Without a password, OpenSSL would prompt for one."""
        if certificate := self._file("sslcert"):
            context.load_cert_chain(certificate, self._file("sslkey"), self.options.get("sslpassword", ""))

    def _named_file(self, option: str) -> str | None:
        return self.options.get(option) or os.environ.get(_FILES[option][0]) or None

    def _file(self, option: str) -> str | None:
        default = os.path.expanduser(f"~/.postgresql/{_FILES[option][1]}")  # noqa: PTH111  # Path.expanduser() raises
        return self._named_file(option) or (default if os.path.exists(default) else None)  # noqa: PTH110  # as above


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
    hosts = _hosts(options)
    if "service" in options or (not hosts and os.environ.get("PGSERVICE")):
        raise DsnError("service files, which may name another host, are not supported: write the host into the URL")
    wanted = options.get("sslmode") or os.environ.get("PGSSLMODE")
    sslmode: SslMode | None = next((mode for mode in get_args(SslMode) if mode == wanted), None)
    if wanted and not sslmode:
        raise DsnError(f"its sslmode must be one of {', '.join(get_args(SslMode))}; verify-full is the safe one")
    attribute = options.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
    attribute = attribute or ("primary" if len(hosts) > 1 else "any")
    if attribute not in SESSION_ATTRIBUTES:
        raise DsnError(f"its target_session_attrs must be one of {', '.join(SESSION_ATTRIBUTES)}: checkpointd writes")
    if not (options.get("user") or os.environ.get("PGUSER")):
        _require_user_name()
    passwords = main.get("password"), parameters.get("password"), parameters.get("sslpassword")
    dsn = Dsn(hosts, sslmode, attribute, options, tuple(word for word in passwords if word))
    dsn.check_files()
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
        parameters[_unescape(match[1])] = _unescape(match[2])
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
    names = (options.get("host") or os.environ.get("PGHOST") or "").split(",")
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
    return tuple(Host(name, int(port) if port else None) for name, port in zip(names, ports, strict=True))


def _is_host(name: str) -> bool:
    """Return whether the name is a socket's folder, an IPv6 address or a name that can be looked up.

    getaddrinfo() raises UnicodeError for a name with a label that is empty or longer than 63 bytes.
    """
    try:
        return name.startswith("/") or bool(ipaddress.ip_address(name) if ":" in name else name.encode("idna"))
    except ValueError:
        return False
