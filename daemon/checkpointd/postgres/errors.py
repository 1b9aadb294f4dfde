"""What is wrong with the database, in one line that also says what to do; and the one exception for it.

The server's own text stays, because it names the table, the role or the file. Our advice follows it.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import asyncpg

from checkpointd.redaction import redact_likely

DRIVER_ERRORS: Final = (
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip
"""What a call of the driver may raise if the database cannot do its part."""


class DatabaseUnavailableError(Exception):
    """The database cannot do its part: it is down, restarting or full, or a right is missing.

    The text is one line for people, without secrets and without values of rows. `kind` is the class of the driver's
    error.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class MigrationError(Exception):
    """The schema cannot be brought up to date. The text says why and what to do."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The text says why and what to do."""


@contextmanager
def driver_errors_wrapped() -> Iterator[None]:
    """Raise DatabaseUnavailableError for each error of the driver that leaves the block."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise DatabaseUnavailableError(explain(error), type(error).__name__) from error


_REPLACEMENTS: Final[Mapping[type, str]] = {
    TimeoutError: "no answer in time: is it up, and is its address right?",
    FileNotFoundError: "there is no such socket: is it up, and is its address right?",
    ConnectionRefusedError: "nothing listens there: is it up, and is its address right?",
    socket.gaierror: "its name is unknown: is its address right?",
    asyncpg.TargetServerAttributeNotMatched: "it is read-only, a standby perhaps",
}
"""Used instead of the driver's text, which explains less."""

_POOLER: Final = "a pooler stands between: set CHECKPOINTD_DATABASE_POOLER=true"
_SCHEMA: Final = "the schema is missing or old: run `checkpointd migrate`"
_ADVICE: Final[Mapping[type, str]] = {
    asyncpg.InsufficientPrivilegeError: "this role lacks a right: run `checkpointd migrate` as the owner, or grant it",
    asyncpg.ReadOnlySQLTransactionError: "the server is read-only, a standby perhaps: the URL has to name the primary",
    asyncpg.DiskFullError: "make room on the server's disk: what is still listed then is stored then",
    asyncpg.TooManyConnectionsError: "raise max_connections or the role's limit: a daemon takes up to 6",
    asyncpg.InvalidAuthorizationSpecificationError: "the role, its password or pg_hba.conf is wrong",
    asyncpg.InvalidCatalogNameError: "create the database first: createdb",
    asyncpg.UndefinedObjectError: "take that parameter out of the URL",
    asyncpg.UndefinedTableError: _SCHEMA,
    asyncpg.InvalidSchemaNameError: _SCHEMA,
    asyncpg.InvalidSQLStatementNameError: _POOLER,
    asyncpg.DuplicatePreparedStatementError: _POOLER,
    ssl.SSLCertVerificationError: "the authority that signed it: sslrootcert=FILE in the URL",
}


def explain(error: Exception) -> str:
    """Return one line that says what is wrong with the database and what to do, without secrets and values of rows."""
    at = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    kinds = type(error).__mro__
    if instead := next((_REPLACEMENTS[kind] for kind in kinds if kind in _REPLACEMENTS), None):
        return at + instead
    said = re.sub(r"\nDETAIL:.*?(?=\nHINT:|\Z)", "", str(error), flags=re.DOTALL)
    words = redact_likely(" ".join(said.split())) or "no reason given"
    mend = next((_ADVICE[kind] for kind in kinds if kind in _ADVICE), None)
    if "rejected SSL upgrade" in words:
        mend = "it has no TLS: switch that on there, or say sslmode=disable in the URL"
    elif "unsupported startup parameter" in words:
        mend = _POOLER
    elif isinstance(error, ssl.SSLCertVerificationError) and "mismatch" in words:
        mend = "the URL has to name the host as its certificate does"
    return f"{at}{type(error).__name__}: {words}" + (f" ({mend})" if mend else "")
