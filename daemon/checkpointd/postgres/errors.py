"""Errors of the database as one exception, DatabaseUnavailableError, whose text is one line for people.

The line has the server's own text, because it names the table, the role or the file, and then our advice.
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
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a call of the driver raises if the database is unavailable or rejects the statement."""


class DatabaseUnavailableError(Exception):
    """The database is down, restarting or full, or a right is missing.

    The text is one line for people, without secrets and without values of rows. `kind` is the class of the driver's
    error.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class MigrationError(Exception):
    """The schema cannot be upgraded, or it is not the one of this version. The text says why and what to do."""


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
    asyncpg.TargetServerAttributeNotMatched: "it is read-only (perhaps a standby)",
}
"""Used instead of the driver's text, which explains less. `it` is the server, whose address precedes the text."""

_POOLER: Final = "if a pooler is used, set CHECKPOINTD_DATABASE_POOLER=true"
_SCHEMA: Final = "the schema is missing or old: run `checkpointd migrate`"
_ADVICE: Final[Mapping[type, str]] = {
    asyncpg.InsufficientPrivilegeError: "this role lacks a right: run `checkpointd migrate` as the owner, or grant it",
    asyncpg.ReadOnlySQLTransactionError: "the server is read-only, perhaps a standby: the URL must name the primary",
    asyncpg.DiskFullError: "free space on the server's disk; what is still listed then will be stored",
    asyncpg.TooManyConnectionsError: "raise max_connections or the role's limit: a daemon uses up to 6",
    asyncpg.InvalidAuthorizationSpecificationError: "the role, its password or pg_hba.conf is wrong",
    asyncpg.InvalidCatalogNameError: "create the database first, for example with createdb",
    asyncpg.UndefinedObjectError: "remove that parameter from the URL",
    asyncpg.UndefinedTableError: _SCHEMA,
    asyncpg.InvalidSchemaNameError: _SCHEMA,
    asyncpg.InvalidSQLStatementNameError: _POOLER,
    asyncpg.DuplicatePreparedStatementError: _POOLER,
    ssl.SSLCertVerificationError: "name the certificate of its authority: sslrootcert=FILE in the URL",
}
"""Appended to the driver's text, by the class of the error or of one of its bases."""


def explain(error: Exception) -> str:
    """Return one line: what is wrong with the database, and what to do. It has no secrets and no values of rows."""
    where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    if replacement := _by_class(error, _REPLACEMENTS):
        return where + replacement
    without_row = re.sub(r"\nDETAIL:.*?(?=\nHINT:|\Z)", "", str(error), flags=re.DOTALL)
    text = redact_likely(" ".join(without_row.split())) or "no reason given"
    advice = _advice(error, text)
    return f"{where}{type(error).__name__}: {text}" + (f" ({advice})" if advice else "")


def _advice(error: Exception, text: str) -> str | None:
    if "rejected SSL upgrade" in text:
        return "the server has no TLS: turn it on there, or set sslmode=disable in the URL"
    if "unsupported startup parameter" in text:
        return _POOLER
    if isinstance(error, ssl.SSLCertVerificationError) and "mismatch" in text:
        return "the URL must name the host as its certificate does"
    return _by_class(error, _ADVICE)


def _by_class(error: Exception, texts: Mapping[type, str]) -> str | None:
    """Return the text of the error's class, else that of the nearest of its bases."""
    return next((texts[kind] for kind in type(error).__mro__ if kind in texts), None)
