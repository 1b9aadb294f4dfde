"""Errors of the database as one exception, DatabaseUnavailableError, whose text is one line for people.

The line has the server's own text, which names the table, the role or the file, and then the remedy.
"""

import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

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

DATA_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    OverflowError,
    UnicodeEncodeError,
)
"""Errors caused by a value: a retry with the same value would fail again."""


def why_rejected(error: Exception) -> str:
    """Return the reason of a reject that the database rejected. The text of the error may contain values."""
    return f"the database rejects it: {type(error).__name__.removesuffix('Error')}"


TRANSIENT_ERRORS: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,
)
"""Errors that do not occur again if the transaction is repeated."""

T = TypeVar("T")


async def repeated(run: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction, three times in all if TRANSIENT_ERRORS end it, and return its result."""
    for _ in range(2):
        try:
            return await run()
        except TRANSIENT_ERRORS:
            continue
    return await run()


class DatabaseUnavailableError(Exception):
    """The database is down, restarting or full, or a right is missing.

    The text is one line for people, without secrets and without values of rows. `kind` is the class of the driver's
    error.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


TIMEOUT_ERRORS: Final = frozenset({"TimeoutError", "QueryCanceledError"})
"""The kinds of errors of work that did not end in time."""


class MigrationError(Exception):
    """The schema cannot be upgraded, or it is not the one of this version. The text is the reason and the remedy."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The text is the reason and the remedy."""


class UnfitDatabaseError(ConnectionError):
    """The database answers, but must not be used. The text is the reason and the remedy."""


def require_utf8(server_encoding: str | None) -> None:
    """Raise UnfitDatabaseError unless the encoding is UTF8, or None because a pooler does not report it."""
    if server_encoding not in {"UTF8", None}:
        raise UnfitDatabaseError(
            f"the database has the encoding {server_encoding}, and only UTF8 can store every text: create another one"
            " (createdb --template=template0 --encoding=UTF8 NAME), and move what this one has with pg_dump"
        )


@contextmanager
def driver_errors_wrapped() -> Iterator[None]:
    """Raise DatabaseUnavailableError for each error of the driver that leaves the block."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise DatabaseUnavailableError(explain(error), type(error).__name__) from error


_CHECK_SERVER: Final = "check that the server runs and its address is right"
_REPLACEMENTS: Final[Mapping[type, str]] = {
    TimeoutError: f"no response in time: {_CHECK_SERVER}",
    FileNotFoundError: f"no such socket: {_CHECK_SERVER}",
    ConnectionRefusedError: f"connection refused: {_CHECK_SERVER}",
    socket.gaierror: "unknown host name: check the address of the server",
    asyncpg.TargetServerAttributeNotMatched: "the server is read-only (perhaps a standby)",
}
"""Used instead of the driver's text, which explains less."""

LOCK_TABLE_FULL: Final = "max_locks_per_transaction"
"""In the text of the error in every language. The server's own text is `out of shared memory`."""

_POOLER: Final = "if a pooler is used, set CHECKPOINTD_DATABASE_POOLER=true"
_SCHEMA: Final = "the schema is missing or old: run `checkpointd migrate`"
_ADVICE: Final[Mapping[type, str]] = {
    asyncpg.InsufficientPrivilegeError: "this role lacks a right: run `checkpointd migrate` as the owner, or grant it",
    asyncpg.ReadOnlySQLTransactionError: (
        "the server is a standby, or default_transaction_read_only is on: name the primary in the URL, or turn that off"
    ),
    asyncpg.DiskFullError: "free space on the server's disk; then all checkpoints that are still listed are stored",
    asyncpg.LockNotAvailableError: "another session holds a lock: try again when its transaction has ended",
    asyncpg.TooManyConnectionsError: "raise max_connections or the role's limit: a daemon uses up to 6 connections",
    asyncpg.InvalidAuthorizationSpecificationError: "the role, its password or pg_hba.conf is wrong",
    asyncpg.InvalidCatalogNameError: "create the database first, for example with createdb",
    asyncpg.UndefinedObjectError: "remove that parameter from the URL",
    asyncpg.UndefinedTableError: _SCHEMA,
    asyncpg.UndefinedColumnError: _SCHEMA,
    asyncpg.UndefinedFunctionError: _SCHEMA,
    asyncpg.InvalidSchemaNameError: _SCHEMA,
    asyncpg.InvalidSQLStatementNameError: _POOLER,
    asyncpg.DuplicatePreparedStatementError: _POOLER,
    ssl.SSLCertVerificationError: "set sslrootcert=FILE in the URL to the certificate of its authority",
}
"""Appended to the driver's text. The key is the class of the error or one of its base classes."""


def explain(error: Exception) -> str:
    """Return one line: what is wrong with the database, and what to do. It has no secrets and no values of rows."""
    where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    if replacement := _by_class(error, _REPLACEMENTS):
        return where + replacement
    if isinstance(error, UnfitDatabaseError):
        return where + str(error)
    without_row = re.sub(r"\nDETAIL:.*?(?=\nHINT:|\Z)", "", str(error), flags=re.DOTALL)
    text = redact_likely(" ".join(without_row.split())) or "no reason given"
    advice = _advice(error, text)
    return f"{where}{type(error).__name__}: {text}" + (f" ({advice})" if advice else "")


def _advice(error: Exception, text: str) -> str | None:
    if "rejected SSL upgrade" in text:
        return "the server, or something before it, refuses TLS: turn TLS on there, and check the host and the port"
    if "unsupported startup parameter" in text:
        return _POOLER
    if LOCK_TABLE_FULL in text:
        return "the lock table is full: end the session that holds most locks"
    if "row-level security" in text:
        return "`checkpointd check` shows how to turn it off"
    if isinstance(error, ssl.SSLCertVerificationError) and "mismatch" in text:
        return "the URL must name the host as its certificate does"
    return _by_class(error, _ADVICE)


def _by_class(error: Exception, texts: Mapping[type, str]) -> str | None:
    """Return the text for the class of the error, or else for the nearest base class that has one."""
    return next((texts[kind] for kind in type(error).__mro__ if kind in texts), None)
