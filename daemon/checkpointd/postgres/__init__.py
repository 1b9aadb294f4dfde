"""The only package that uses SQL and asyncpg."""
