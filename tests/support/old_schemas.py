"""The schemas of earlier versions: for each catalogue that a database can have, the files that made it.

tests/data/old_schemas.json.xz has each text once, and lists of texts: it is a fraction of the size of dumps. The files
run on each PostgreSQL, which dumps do not. A release records its own schema: make old-schema NAME=0.2.0
"""

import json
import lzma
import sys
from hashlib import sha256
from typing import NamedTuple

import asyncpg

from checkpointd.postgres import queries
from checkpointd.postgres.migrations import VIEWS, VIEWS_VERSION
from support.paths import DATA

ARCHIVE = DATA / "old_schemas.json.xz"


class OldSchema(NamedTuple):
    """What one version applies to an empty database."""

    name: str
    """The version or, between versions, the commit."""
    files: list[tuple[str, str]]
    """The migrations and then the views, each with the name under which it is recorded in the database."""
    roles: str | None
    """What creates the roles, or None if the version has none."""

    async def create(self, connection: asyncpg.Connection) -> None:
        """Apply the files to an empty database, as the version does."""
        await connection.execute(queries.CREATE_SCHEMA)
        await connection.execute(queries.CREATE_SCHEMA_MIGRATIONS)
        for name, text in self.files:
            await connection.execute(text)
            await connection.execute(queries.SAVE_SCHEMA_MIGRATION, name, sha256(text.encode()).hexdigest())
        if self.roles:
            await connection.execute(self.roles)


def read() -> list[OldSchema]:
    """Return the recorded schemas, the oldest one first."""
    archive = json.loads(lzma.decompress(ARCHIVE.read_bytes()))
    texts = archive["texts"]
    return [
        OldSchema(name, [(file, texts[n]) for file, n in files], None if roles is None else texts[roles])
        for name, files, roles in archive["schemas"]
    ]


def write(schemas: list[OldSchema]) -> None:
    """Replace the recorded schemas."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    rows = [
        (name, [(file, number(text)) for file, text in files], roles and number(roles))
        for name, files, roles in schemas
    ]
    archive = json.dumps({"texts": list(numbers), "schemas": rows})
    ARCHIVE.write_bytes(lzma.compress(archive.encode(), preset=9 | lzma.PRESET_EXTREME))


def present(name: str) -> OldSchema:
    """Return the schema of this checkout."""
    sql = queries.folder()

    def texts(folder: str) -> list[tuple[str, str]]:
        files = [file for file in (sql / folder).iterdir() if file.name.endswith(".sql")]
        return sorted((file.name, file.read_text(encoding="utf-8")) for file in files)

    views = "".join(text for _, text in texts("views"))
    files = [*texts("migrations"), (f"{VIEWS} {VIEWS_VERSION}", views)]
    return OldSchema(name, files, (sql / "roles.sql").read_text(encoding="utf-8"))


if __name__ == "__main__":
    write([*(schema for schema in read() if schema.name != sys.argv[1]), present(sys.argv[1])])
