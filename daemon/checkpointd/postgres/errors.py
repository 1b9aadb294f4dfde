"""What is wrong with the database, in one line, with how to mend it. Pure.

The server's own words stay: they name the table, the role or the file; ours follow them.
"""

import re
import socket
import ssl
from collections.abc import Mapping
from typing import Final

import asyncpg

from checkpointd.redaction import blot_likely

_INSTEAD: Final[Mapping[type, str]] = {
    TimeoutError: "no answer in time: is it up, and is its address right?",
    FileNotFoundError: "there is no such socket: is it up, and is its address right?",
    ConnectionRefusedError: "nothing listens there: is it up, and is its address right?",
    socket.gaierror: "its name is unknown: is its address right?",
    asyncpg.TargetServerAttributeNotMatched: "it is read-only, a standby perhaps",
}
"""What says more than the driver's own words."""

_POOLER: Final = "a pooler stands between: set CHECKPOINTD_DATABASE_POOLER=true"
_SCHEMA: Final = "the schema is missing or old: run `checkpointd migrate`"
_MEND: Final[Mapping[type, str]] = {
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
    """Say in one line, fit for everybody, what is wrong with the database and what to do: no secret, no row of it."""
    at = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    kinds = type(error).__mro__
    if instead := next((_INSTEAD[kind] for kind in kinds if kind in _INSTEAD), None):
        return at + instead
    said = re.sub(r"\nDETAIL:.*?(?=\nHINT:|\Z)", "", str(error), flags=re.DOTALL)
    words = blot_likely(" ".join(said.split())) or "no reason given"
    mend = next((_MEND[kind] for kind in kinds if kind in _MEND), None)
    if "rejected SSL upgrade" in words:
        mend = "it has no TLS: switch that on there, or say sslmode=disable in the URL"
    elif "unsupported startup parameter" in words:
        mend = _POOLER
    elif isinstance(error, ssl.SSLCertVerificationError) and "mismatch" in words:
        mend = "the URL has to name the host as its certificate does"
    return f"{at}{type(error).__name__}: {words}" + (f" ({mend})" if mend else "")
