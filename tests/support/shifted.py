"""Another clock of the database, for the sessions of a test."""

import asyncpg

from checkpointd.postgres.connection import connect

SHIFTED_CLOCK = """
    create schema shifted;
    create table shifted.by (shift interval);
    insert into shifted.by values ('0');
    create function shifted.clock_timestamp() returns timestamptz
      return pg_catalog.clock_timestamp() + (select shift from shifted.by);
    create function shifted.now() returns timestamptz return pg_catalog.now() + (select shift from shifted.by);
"""
"""Functions that replace the database's clock for a session that has `shifted` first in its search path."""

SHIFT_DEFAULTS = """
    do $$
    declare
      found record;
    begin
      for found in
        select attrelid::regclass as owner, attname as name
        from pg_attrdef
        join pg_attribute on attrelid = adrelid and attnum = adnum
        where pg_get_expr(adbin, adrelid) = 'clock_timestamp()'
      loop
        execute format('alter table %s alter %I set default shifted.clock_timestamp()', found.owner, found.name);
      end loop;
    end $$"""
"""Lets the defaults of columns use the shifted clock, too, whatever the session."""


async def connect_shifted(url: str) -> asyncpg.Connection:
    """Connect as the daemon does, with the functions of SHIFTED_CLOCK."""
    connection = await connect(url)
    await connection.execute("set search_path = shifted, pg_catalog")
    return connection
