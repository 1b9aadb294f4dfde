"""The address of a database: a PostgreSQL URL → its hosts, and how the way to each of them is protected.

What the URL leaves open is chosen safely: the certificate is verified unless the server is this machine itself, and of
several hosts it is the primary that is meant. As with libpq, PGHOST, PGSSLMODE and their like fill in what it lacks.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args
from urllib.parse import parse_qs, unquote, urlsplit

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
ATTRIBUTES: Final = ("any", "primary", "read-write")
"""Of PostgreSQL's target_session_attrs those of servers that can be written to."""

_ENCODE: Final = "in a password / ? # @ : are written %2F %3F %23 %40 %3A"


_FILES: Final = {
    "sslrootcert": ("PGSSLROOTCERT", "root.crt"),
    "sslcrl": ("PGSSLCRL", "root.crl"),
    "sslcert": ("PGSSLCERT", "postgresql.crt"),
    "sslkey": ("PGSSLKEY", "postgresql.key"),
}
"""Parameters that name files: the variable that fills in, and the file of ~/.postgresql that does where it is there."""


class AddressError(ValueError):
    """The URL cannot be one: why, without a word of it, for it holds a password."""


class FileError(AddressError, OSError):
    """A file of certificates cannot be used now; one that is replaced while a daemon runs is soon there again."""


class Host(NamedTuple):
    """One server: a name, a number, or (with a /) the folder of its socket; None: PostgreSQL's default port."""

    name: str
    port: int | None

    def __str__(self) -> str:
        """Return it as a person writes it."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}" if self.port else name

    @property
    def is_local(self) -> bool:
        """Say whether it is this machine itself."""
        try:
            return self.name.startswith("/") or self.name == "localhost" or ipaddress.ip_address(self.name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is. Made by parse()."""

    url: str = field(repr=False)
    hosts: tuple[Host, ...]
    """Empty: this machine's own, at its usual socket."""
    sslmode: SslMode | None
    """None: nobody chose one."""
    attribute: str
    """One of ATTRIBUTES: what a host must be."""
    _query: Mapping[str, str] = field(repr=False)

    @property
    def unverified(self) -> str | None:
        """The remote host, if there is one, whose certificate is not verified in full, because somebody chose so."""
        chosen = self.sslmode not in {None, "verify-full"}
        return next((host.name for host in self.hosts if chosen and not host.is_local), None)

    @property
    def secrets(self) -> list[str]:
        """The passwords in it."""
        before_the_host = unquote(urlsplit(self.url).password or "")
        return [word for word in (before_the_host, self._query.get("password"), self._query.get("sslpassword")) if word]

    def tls(self, host: Host) -> ssl.SSLContext | SslMode | None:
        """Return how the way to a host is protected, as asyncpg takes it. Raises OSError where a file is missing."""
        if self.sslmode != "verify-full" and (self.sslmode or host.is_local):
            return self.sslmode
        if self._file("sslrootcert") not in {None, "system"}:
            return "verify-full"
        # Without a file of its own asyncpg gives up; the system's certificates are what a browser would trust.
        context = ssl.create_default_context()
        if revoked := self._file("sslcrl"):
            context.load_verify_locations(revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        self._certify(context)
        return context

    def check_files(self) -> None:
        """Raise AddressError unless the files that the URL or a variable names are what they should be.

        To PostgreSQL's driver a file that is missing is a socket that is missing, and no more.
        """
        if self.sslmode == "disable" or (self.hosts and all(host.name.startswith("/") for host in self.hosts)):
            return
        named = {name: self._given(name) for name in _FILES}
        given = {name: path for name, path in named.items() if path and (name, path) != ("sslrootcert", "system")}
        for name, path in given.items():
            try:
                with open(path, "rb"):  # noqa: PTH123  # Path's raises more
                    pass
            except (OSError, ValueError):
                whose = f"its {name}" if self._query.get(name) else _FILES[name][0]
                raise FileError(f"{whose} names no file that this user can read") from None
        if named["sslrootcert"] == "system" and self.sslmode in {"require", "verify-ca"}:
            raise AddressError("sslrootcert=system goes with sslmode=verify-full alone")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name in given.keys() & {"sslrootcert", "sslcrl"}:
            try:
                context.load_verify_locations(given[name])
            except OSError:
                raise FileError(f"the file of {name} is none in PEM format") from None
        try:
            if "sslcert" in given:
                self._certify(context)
        except OSError:
            message = "the files of sslcert and sslkey are no certificate with its key in PEM format"
            raise FileError(f"{message}, or sslpassword is wrong") from None

    def _certify(self, context: ssl.SSLContext) -> None:
        """Let us show the certificate that is there for us."""
        if certificate := self._file("sslcert"):
            context.load_cert_chain(certificate, self._file("sslkey"), self._query.get("sslpassword", ""))

    def _given(self, parameter: str) -> str | None:
        return self._query.get(parameter) or os.environ.get(_FILES[parameter][0]) or None

    def _file(self, parameter: str) -> str | None:
        usual = os.path.expanduser(f"~/.postgresql/{_FILES[parameter][1]}")  # noqa: PTH111  # Path's raises
        return self._given(parameter) or (usual if os.path.exists(usual) else None)  # noqa: PTH110  # Path's raises


def parse(url: str) -> Address:
    """Read a URL. Raises AddressError."""
    if not re.match(r"postgres(ql)?://", url):
        raise AddressError("it does not begin with postgresql://")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise AddressError(f"no URL; {_ENCODE}") from None
    if ("@" in parts.path and "@" not in parts.netloc) or parts.fragment or parts.netloc.count("@") > 1:
        raise AddressError(f"something stands in it that does not belong there; {_ENCODE}")
    try:
        query = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    except ValueError:
        raise AddressError(f"what stands behind its ? is no list of name=value; {_ENCODE}") from None
    hosts = _hosts(unquote(parts.netloc.rpartition("@")[2]), query)
    if "service" in query or (not hosts and os.environ.get("PGSERVICE")):
        raise AddressError("service files are not read: write the host into it")  # who knows what host they name
    given = query.get("sslmode") or os.environ.get("PGSSLMODE")
    sslmode: SslMode | None = next((mode for mode in get_args(SslMode) if mode == given), None)
    if given and not sslmode:
        raise AddressError("its sslmode is none of PostgreSQL's; verify-full is the safe one")
    attribute = query.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
    attribute = attribute or ("primary" if len(hosts) > 1 else "any")
    if attribute not in ATTRIBUTES:
        raise AddressError(f"its target_session_attrs is none of {', '.join(ATTRIBUTES)}: checkpointd has to write")
    found = Address(url, hosts, sslmode, attribute, query)
    found.check_files()
    return found


def _hosts(authority: str, query: Mapping[str, str]) -> tuple[Host, ...]:
    """Return the hosts of a URL's authority, else of its parameters or the environment."""
    given = authority or query.get("host") or os.environ.get("PGHOST") or ""
    none = AddressError(f"a host or a port in it is none; {_ENCODE}")
    apart = (query.get("port") or os.environ.get("PGPORT") or "").split(",")
    if not all(map(_is_port, apart)):
        raise none
    if not given:
        return ()
    matches = [re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d*))?", host) for host in given.split(",")]
    named = [(match[1].strip("[]"), match[2]) for match in matches if match and match[1]]
    # Ports may stand apart, one for all or one for each.
    ports = apart * len(named) if len(apart) == 1 else apart
    if len(named) < len(matches) or len(ports) != len(named):
        raise none
    hosts = [(name, port or other) for (name, port), other in zip(named, ports, strict=True)]
    if not all(_is_name(name) and _is_port(port or "") for name, port in hosts):
        raise none
    return tuple(Host(name, int(port) if port else None) for name, port in hosts)


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and 0 < int(text) < 65536)


def _is_name(text: str) -> bool:
    """Say whether the resolver will take it: it raises what nobody expects for a label that is empty or too long."""
    try:
        return "\0" not in text and (text.startswith("/") or bool(text.encode("idna")))
    except UnicodeError:
        return False
