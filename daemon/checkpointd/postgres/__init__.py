"""The database: connections, queries, migrations. The only package that uses SQL and asyncpg."""
