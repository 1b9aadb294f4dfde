"""What a superuser runs calls no function or operator that the owner of the database has put into schema public."""

import re
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres import migrations, queries
from support.documents import documents
from support.logins import as_role, run_roles
from support.verbs import checkpointd, environment

PLANT = """
    create function public.planted() returns void language plpgsql as $$ begin raise exception 'planted'; end $$;
    create function public.step(bigint) returns bigint language plpgsql as $$ begin perform public.planted(); end $$;
    create aggregate public.count(*) (sfunc = public.step, stype = bigint);
    do $plant$
    declare
      planted record;
      body constant text := 'begin perform public.planted(); end';
    begin
      -- Each function that the files name, with the same arguments: it is found first in the path of this database. And
      -- `format`, which takes arguments of all types, for certain types: those are found first in every path.
      for planted in
        select quote_ident(proname) as name, pg_get_function_identity_arguments(oid) as arguments,
          pg_get_function_result(oid) as result
        from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and proname = any ('{WORDS}')
        union all
        select 'format', 'text, ' || types, 'text'
        from unnest('{text,name,oid,regclass,regprocedure,"text,text","text,name"}'::text[]) as given (types)
      loop
        begin
          execute format('create function public.%s(%s) returns %s language plpgsql as %L',
            planted.name, planted.arguments, planted.result, body);
        exception when others then null;  -- PostgreSQL permits it only in C, or for superusers
        end;
      end loop;
      for planted in
        select oprname as name, oprleft::regtype as a, oprright::regtype as b
        from pg_operator
        where oprnamespace = 'pg_catalog'::regnamespace
          and oprname = any ('{=,<>,<,>,<=,>=,~,!~,||,+,-}') and oprleft <> 0
          and array[oprleft, oprright]
            <@ '{text,name,oid,"char",boolean,smallint,integer,bigint,timestamptz,interval}'::regtype[]::oid[]
        union all
        select name, 'oid', type::regtype
        from unnest('{=,<>}'::text[]) as names (name)
        cross join unnest('{regrole,regnamespace,regclass}'::text[]) as types (type)
      loop
        execute format('create or replace function public.of_operator(%s, %s) returns boolean language plpgsql as %L',
          planted.a, planted.b, body);
        execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.of_operator)',
          planted.name, planted.a, planted.b);
      end loop;
    end $plant$;
    alter database app set search_path = public, pg_catalog"""


async def _plant(url: str) -> None:
    """Plant functions and operators as the owner of the database, without any further right."""
    files = [*(queries.folder() / "migrations").iterdir(), *(queries.folder() / "views").iterdir()]
    text = "".join(file.read_text() for file in [*files, migrations.roles_file()])
    text += "".join(statement for name, statement in vars(queries).items() if name.isupper())
    owner = await asyncpg.connect(url)
    await owner.execute(PLANT.replace("WORDS", ",".join(sorted(set(re.findall(r"\b[a-z_]+(?=\()", text))))))
    await owner.close()
    for attack in (
        "select now()",
        "select format('%I', 'x'::name)",
        "select 1 where 'a'::text = 'b'",
        "select count(*)",
    ):
        victim = await asyncpg.connect(url)
        with pytest.raises(asyncpg.RaiseError, match="planted"):
            await victim.fetch(attack)
        await victim.close()


@pytest.mark.slow
async def test_a_superuser_runs_nothing_of_the_owner(bare: str, tmp_path: Path, binaries: Path) -> None:
    """roles.sql, run by psql, and `migrate` do their work without calling what the owner planted, also by a pooler."""
    admin = await asyncpg.connect(bare.format("postgres"))
    await admin.execute("create role app login")
    await admin.execute("create database app owner app")
    owner, superuser = as_role(bare.format("app"), "app"), bare.format("app")
    assert 0 == (await checkpointd("migrate", env=environment(tmp_path, owner))).code
    await _plant(owner)
    await run_roles(binaries, superuser)
    forget_views = "delete from checkpointd.schema_migrations where name like 'views %'"
    for pooler in ("false", "true"):
        env = environment(tmp_path, superuser, CHECKPOINTD_DATABASE_POOLER=pooler)
        assert (0, "the schema is up to date\n", "") == await checkpointd("migrate", env=env)
        sql = await asyncpg.connect(superuser, server_settings={"search_path": "pg_catalog"})
        await sql.execute(forget_views)
        await sql.close()
        assert (0, f"applied views {migrations.VIEWS_VERSION}\n", "") == await checkpointd("migrate", env=env)
    await admin.execute("drop database app")
    await admin.execute("create database app owner app")
    await _plant(owner)
    ended = await checkpointd("migrate", env=env)
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.startswith("applied 0001")
    await admin.close()


def test_documented_statements_call_nothing() -> None:
    """The SQL that an administrator is asked to run creates, changes, grants and revokes: it evaluates nothing."""
    of_readers = {"README.md", "sql/README.md"}
    blocks = [block for document in documents() if document.name not in of_readers for block in document.blocks("sql")]
    statements = [line for block in blocks for line in block.splitlines()]
    administration = r"(create (role|database)|alter role|grant|revoke) [^()]*;"
    assert len(statements) > 5
    for statement in statements:
        assert re.fullmatch(administration, statement), statement
