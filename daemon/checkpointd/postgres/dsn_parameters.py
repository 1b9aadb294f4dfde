"""The parameters of a database URL: those of libpq 18 (PostgreSQL's documentation, "Parameter Key Words").

Each is used, ignored because the result is the same without it, or refused because ignoring it would weaken the
protection of the connection or change what the URL means. The table in sql/OPERATING.md has the same treatments.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple


class DsnError(ValueError):
    """The URL is invalid. The message repeats no value of the URL, because the URL may contain a password."""


class DsnFileError(DsnError, OSError):
    """A certificate file cannot be used now: perhaps it is being replaced. As an OSError it is retried."""


class Parameter(NamedTuple):
    """How one parameter is treated."""

    treatment: Literal["used", "ignored", "refused"]
    variable: str | None = None
    """The variable that supplies it if the URL omits it. None if no variable does, or if it is ignored."""
    accepted: str = r"(?s:.*)"
    """A pattern of the accepted values. Those of a refused parameter mean the same as no value."""
    otherwise: str = ""
    """What is wrong with another value, after the name of the parameter."""


def _used(variable: str | None = None, accepted: str = r"(?s:.*)", otherwise: str = "") -> Parameter:
    return Parameter("used", variable, accepted, otherwise)


def _refused(variable: str | None, accepted: str, otherwise: str) -> Parameter:
    return Parameter("refused", variable, accepted, otherwise)


_IGNORED: Final = Parameter("ignored")
_NEVER: Final = "(?!)"
_TLS_VERSION: Final = r"(?i:TLSv1(\.[123])?)", "must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"
_SSLMODE: Final = (
    "disable|allow|prefer|require|verify-ca|verify-full",
    "must be one of disable, allow, prefer, require, verify-ca, verify-full; verify-full is the safe one",
)
_ATTRIBUTE: Final = "any|primary|read-write", "must be one of any, primary, read-write: checkpointd writes"
_SERVICE: Final = "is not supported, because a service file may name another host: write the host into the URL"
_METHOD: Final = "is not supported: checkpointd logs in with a password, a client certificate or Kerberos"

PARAMETERS: Final[Mapping[str, Parameter]] = {
    "host": _used("PGHOST"),
    "hostaddr": _used("PGHOSTADDR"),
    "port": _used("PGPORT"),
    "dbname": _used("PGDATABASE"),
    "user": _used("PGUSER"),
    "password": _used("PGPASSWORD"),
    "passfile": _used("PGPASSFILE"),
    "channel_binding": _used(
        "PGCHANNELBINDING", "disable|prefer|require", "must be one of disable, prefer, require"
    ),
    "connect_timeout": _used("PGCONNECT_TIMEOUT", r"\s*[-+]?[0-9]{1,9}\s*", "must be a whole number of seconds"),
    "options": _used("PGOPTIONS"),
    "application_name": _used("PGAPPNAME"),
    "fallback_application_name": _used(),
    "sslmode": _used("PGSSLMODE", *_SSLMODE),
    "sslnegotiation": _used("PGSSLNEGOTIATION", "postgres|direct", "must be one of postgres, direct"),
    "sslcert": _used("PGSSLCERT"),
    "sslkey": _used("PGSSLKEY"),
    "sslpassword": _used(),
    "sslrootcert": _used("PGSSLROOTCERT"),
    "sslcrl": _used("PGSSLCRL"),
    "ssl_min_protocol_version": _used("PGSSLMINPROTOCOLVERSION", *_TLS_VERSION),
    "ssl_max_protocol_version": _used("PGSSLMAXPROTOCOLVERSION", *_TLS_VERSION),
    "krbsrvname": _used("PGKRBSRVNAME"),
    "target_session_attrs": _used("PGTARGETSESSIONATTRS", *_ATTRIBUTE),
    "client_encoding": _IGNORED,
    "keepalives": _IGNORED,
    "keepalives_idle": _IGNORED,
    "keepalives_interval": _IGNORED,
    "keepalives_count": _IGNORED,
    "tcp_user_timeout": _IGNORED,
    "sslcompression": _IGNORED,
    "sslkeylogfile": _IGNORED,
    "gsslib": _IGNORED,
    "gssdelegation": _IGNORED,
    "load_balance_hosts": _IGNORED,
    "max_protocol_version": _IGNORED,
    "min_protocol_version": _refused("PGMINPROTOCOLVERSION", r"3\.0", "must be 3.0, the version that is spoken"),
    "sslcrldir": _refused("PGSSLCRLDIR", _NEVER, "is not supported: put the lists into one file and name it by sslcrl"),
    "sslcertmode": _refused("PGSSLCERTMODE", "allow", "must be allow: a client certificate is sent if the server asks"),
    "sslsni": _refused("PGSSLSNI", "1", "must be 1: the name of the server is always sent"),
    "requirepeer": _refused("PGREQUIREPEER", _NEVER, "is not supported: protect the folder of the socket instead"),
    "require_auth": _refused("PGREQUIREAUTH", _NEVER, "is not supported: verify the server by sslmode=verify-full"),
    "gssencmode": _refused("PGGSSENCMODE", "disable|prefer", "must be disable or prefer: only TLS encrypts"),
    "replication": _refused(None, "(?i:0|off|false|no)", "must be off: checkpointd runs SQL"),
    "service": _refused(None, _NEVER, _SERVICE),
    "servicefile": _refused(None, _NEVER, _SERVICE),
    "scram_client_key": _refused(None, _NEVER, _METHOD),
    "scram_server_key": _refused(None, _NEVER, _METHOD),
    "oauth_issuer": _refused(None, _NEVER, _METHOD),
    "oauth_client_id": _refused(None, _NEVER, _METHOD),
    "oauth_client_secret": _refused(None, _NEVER, _METHOD),
    "oauth_scope": _refused(None, _NEVER, _METHOD),
}  # fmt: skip
"""All parameters that a URL may have."""

_OF_OTHERS: Final = {
    "ssl": "use sslmode instead",
    "pgbouncer": "remove it, and set CHECKPOINTD_DATABASE_POOLER=true",
    "connection_limit": "remove it: a daemon uses up to 6 connections",
    "schema": "remove it: the schemas are fine_tuning and checkpointd",
    "database": "use dbname instead",
}
"""Parameters that other programs read in such a URL, and what to do."""


def read(options: Mapping[str, str], name: str) -> str | None:
    """Return the value of a parameter, from the options or else from its variable. An empty one counts as none."""
    variable = PARAMETERS[name].variable
    return options.get(name) or (os.environ.get(variable) if variable else None) or None


def check_names(names: Iterable[str]) -> None:
    """Raise DsnError if a parameter is unknown. The names are in the order of the URL."""
    after_password = False
    for name in names:
        if name not in PARAMETERS:
            if after_password or not re.fullmatch("[A-Za-z_]{1,40}", name):  # perhaps a part of a password
                raise DsnError("it has an unknown parameter after the ?; in a value, write & = as %26 %3D")
            raise DsnError(f"it has an unknown parameter: {name}: {_advice(name)}")
        after_password = after_password or name in {"password", "sslpassword"}


def _advice(name: str) -> str:
    if known := _OF_OTHERS.get(name.lower()):
        return known
    if nearest := difflib.get_close_matches(name.lower(), PARAMETERS, n=1):
        return f"did you mean {nearest[0]}?"
    return f"remove it; if it is a setting of the server, write options=-c%20{name}%3D and its value"


def check_values(options: Mapping[str, str]) -> None:
    """Raise DsnError if a value, of the options or of a variable, is not accepted."""
    for name, parameter in PARAMETERS.items():
        value = read(options, name)
        if value is not None and not re.fullmatch(parameter.accepted, value):
            raise DsnError(f"{f'its {name}' if options.get(name) else parameter.variable} {parameter.otherwise}")
