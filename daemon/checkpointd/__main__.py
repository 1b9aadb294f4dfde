"""The verbs: what a person types. Alone prints and sets exit codes: 0 done, 1 failed, 2 wrong usage or settings."""

import asyncio
import json
import logging
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import checkpointd
from checkpointd.cli import event_loop as process
from checkpointd.cli import output as terminal
from checkpointd.cli.arguments import UsageError, choose_source, find_jobs, read_ids
from checkpointd.cli.database import CommandError, database, database_errors, ready
from checkpointd.postgres import dsn, migrations
from checkpointd.postgres.embedded import EmbeddedError
from checkpointd.postgres.store import Store, open_store
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.load import load
from checkpointd.settings.model import Settings
from checkpointd.simulator.shapes import Kind, Order, Publication, Retention, Shape
from checkpointd.words import plural

if TYPE_CHECKING:
    from checkpointd.cli.sync import Summary

SHOWN_FAILURES = 20

app = typer.Typer(
    help="Keeps a PostgreSQL copy of the checkpoints of fine-tuning jobs, and keeps it true.",
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

Config = Annotated[
    Path | None, typer.Option("--config", help="The settings file (default: /etc/checkpointd/checkpointd.toml).")
]
Jobs = Annotated[
    list[str],
    typer.Argument(metavar="JOB…", help="Ids of fine-tuning jobs; - reads them from standard input, one a line."),
]
SourceName = Annotated[str | None, typer.Option("--source", help="The source, where an id does not tell it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_WrongCallError: Any = typer.BadParameter.__bases__[0]
"""What typer raises for a call that is wrong; it has no public name."""


def main() -> NoReturn:
    """Run a verb, and end the process, whose threads may hang in a name lookup: nobody waits for those."""
    terminal.replace_closed_streams()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the keys
    try:
        _call()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as e:
            code = code or 1
            if not isinstance(e, BrokenPipeError):
                terminal.say(str(e), wrong=True)
    os._exit(code)


def _call() -> NoReturn:
    """Run a verb. Ends by SystemExit."""
    try:
        code = app(standalone_mode=False)
    except _WrongCallError as e:
        # What checks the values brings words of its own, and no full stop.
        message = e.format_message().replace("Value error, ", "", 1).rstrip(".")
        _fail(f"{message}. Try checkpointd --help.", 2)
    except (SettingsError, UsageError) as e:
        _fail(str(e), 2)
    except (CommandError, EmbeddedError, migrations.MigrationError) as e:
        _fail(str(e), 1)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read the output has gone
        os._exit(1)
    except OSError as e:
        _fail(str(e), 1)
    if code == 130:  # typer's word for Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    terminal.say(message, wrong=True)
    sys.exit(code)


def _version(wanted: bool) -> None:  # noqa: FBT001  # typer's convention
    if wanted:
        print(checkpointd.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(config: Config = None) -> None:
    """Run the daemon."""
    import faulthandler

    from checkpointd.service import daemon
    from checkpointd.telemetry import logs as observe

    faulthandler.enable()  # systemd's watchdog ends a daemon that hangs by SIGABRT: this tells where it hung
    chosen = load(config)
    keyed = _keys(chosen)
    _configure_log(chosen, keyed, chosen.log_level)
    where = None if chosen.database_url is None else dsn.parse(chosen.database_url)
    if where and where.unverified_host:
        observe.log.warning("database.unverified", host=where.unverified_host, wanted="sslmode=verify-full")

    async def work() -> None:
        with daemon.stop_on_signals() as stop:
            async with database(chosen, lasting=True) as connect_:
                await daemon.run(chosen, connect_, keyed, migrate=chosen.database_url is None, stop=stop)
            if stop.crashed:
                raise CommandError("ended by a fault of its own: see daemon.crashed in the log")

    process.run(work())


@app.command()
def sync(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB…]", help="Only these jobs; - reads them from standard input.")
    ] = None,
    source: SourceName = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Poll all tracked jobs (or the named) once, now, whether due or not."""
    from checkpointd.cli.sync import sync_jobs

    chosen = load(config)
    if source is not None:
        choose_source(chosen, source)
    ids = None if not jobs else read_ids(jobs, chosen.sources)
    keyed = _keys(chosen)
    _configure_log(chosen, keyed, "error")

    async def work() -> "Summary":
        with terminal.progress("sync") as progress:
            async with ready(chosen) as store:
                wanted = None if ids is None else await find_jobs(store, ids, source)
                return await sync_jobs(chosen, store, keyed, wanted, source, progress)

    done = process.run_interruptible(work())
    _report(done, [of.name for of in chosen.sources], as_json=as_json)
    if done.failures:
        sys.exit(1)


def _report(done: "Summary", sources: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(done.as_dict()))
        return
    print(f"{done.jobs} {plural('job', done.jobs)}: {done.new} new {plural('checkpoint', done.new)}, "
          f"{done.changed} changed, {done.rejected} rejected {plural('item', done.rejected)}, "
          f"{len(done.failures)} failed")  # fmt: skip
    several = len({*sources, *(failure.source for failure in done.failures)}) > 1  # and each may have a job of one id
    for failure in done.failures[:SHOWN_FAILURES]:
        job = f"{failure.job} ({failure.source})" if several else failure.job
        print(terminal.cell(f"{job}: {failure.error_class}: {failure.error}"), file=sys.stderr)
    if (more := len(done.failures) - SHOWN_FAILURES) > 0:
        print(f"… and {more} more: checkpointd status", file=sys.stderr)


@app.command()
def track(jobs: Jobs, source: SourceName = None, config: Config = None) -> None:
    """Choose jobs to poll. Makes no request."""
    chosen = load(config)
    named = choose_source(chosen, source)
    ids = read_ids(jobs, [named])

    async def work() -> None:
        async with ready(chosen) as store:
            keys = await store.register_sources({named.name: named.kind})
            new = await store.track(keys[named.name], ids)
            print(f"{len(ids)} tracked, {new} of them not until now")

    process.run_interruptible(work())


@app.command()
def untrack(jobs: Jobs, source: SourceName = None, config: Config = None) -> None:
    """Stop polling jobs; what is stored of them stays."""
    process.run_interruptible(_change(load(config), jobs, source, Store.untrack, "untracked"))


@app.command()
def resync(jobs: Jobs, source: SourceName = None, config: Config = None) -> None:
    """Have jobs compared in full at once, and reopened if sealed."""
    process.run_interruptible(_change(load(config), jobs, source, Store.resync, "due for a full comparison"))


async def _change(chosen: Settings, jobs: Sequence[str], source: str | None, verb: Any, done: str) -> None:  # noqa: ANN401
    ids = read_ids(jobs, chosen.sources)
    async with ready(chosen) as store:
        found = await find_jobs(store, ids, source)
        print(f"{await verb(store, found)} {done}")


@app.command("jobs")
def list_jobs(as_json: AsJson = False, config: Config = None) -> None:
    """Show what is tracked, or was."""
    chosen = load(config)

    async def work() -> None:
        async with ready(chosen) as store:
            rows = await store.list_jobs()
        if as_json:
            print(json.dumps(rows, default=terminal.plain))
        else:
            terminal.show_jobs(rows)

    process.run_interruptible(work())


@app.command()
def status(as_json: AsJson = False, config: Config = None) -> None:
    """Show how fresh each tracked job is, and what is wrong."""
    chosen = load(config)

    async def work() -> None:
        async with ready(chosen) as store:
            sources, jobs = await store.list_sources(), await store.list_freshness()
        if as_json:
            print(json.dumps({"sources": sources, "jobs": jobs}, default=terminal.plain))
        else:
            terminal.show_status(sources, jobs)

    process.run_interruptible(work())


@app.command("migrate")
def migrate_(config: Config = None) -> None:
    """Create or upgrade the schema and the roles. Two at once are safe."""
    chosen = load(config)

    async def work() -> None:
        async with database(chosen) as connect_, open_store(connect_) as store:
            with database_errors():
                async with store.connection() as connection:
                    done = await migrations.migrate(connection)
        print(f"applied {', '.join(done.files)}" if done.files else "the schema is up to date")
        if done.roles_left is not None:
            why = f"this role may not change them ({done.roles_left})"
            file = migrations.roles_file()
            terminal.say(
                f"the roles were left as they are, {why}: to have them, let an administrator run {file} with psql"
            )

    process.run_interruptible(work())


@app.command("check")
def check_(as_json: AsJson = False, config: Config = None) -> None:
    """Say whether the daemon would work here: database, role, schema, keys, clocks; and how to mend what is wrong."""
    from checkpointd.cli import check

    async def work() -> "list[check.Finding]":
        chosen = load(config)
        findings = []
        async for finding in check.check(chosen, database(chosen)):
            findings.append(finding)
            if not as_json:
                terminal.show_finding(*finding)
        return findings

    wrong = None
    try:
        findings = process.run_interruptible(work())
    except SettingsError as e:
        if not as_json:
            raise
        wrong = check.Finding("fail", "settings", str(e))
        findings = [wrong]
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [finding._asdict() for finding in findings]}))
    if failed:
        sys.exit(2 if wrong else 1)


@app.command("demo")
def demo_(
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, help="End by itself after so many seconds.")
    ] = None,
) -> None:
    """Show it at work: a private PostgreSQL, a simulated provider and the daemon. Needs nothing else."""
    from rich.console import Console

    from checkpointd.cli import demo
    from checkpointd.service import daemon
    from checkpointd.telemetry import logs as observe

    observe.configure("console", "error")

    async def work() -> None:
        with daemon.stop_on_signals() as stop:
            await demo.run(Console(), seconds, stop)

    process.run(work())


@app.command()
def simulate(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(min=1, max=10_000, help="How many jobs.")] = 20,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 1,
    speed: Annotated[float, typer.Option(min=0.01, max=100_000, help="Simulated seconds a second.")] = 60,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8788,
    kind: Annotated[Kind, typer.Option(help="Whose API it is; a compatible provider lists no jobs.")] = "openai",
    publish: Annotated[
        Publication, typer.Option(help="When checkpoints are listed: at once, some late, or all at the job's end.")
    ] = "late",
    order: Annotated[
        Order, typer.Option(help="How checkpoints are listed: descending is newest first.")
    ] = "descending",
    retain: Annotated[
        Retention, typer.Option(help="Which are listed: those of the last three epochs, or all.")
    ] = "last-three",
    per_epoch: Annotated[int, typer.Option(min=1, max=100, help="Checkpoints an epoch.")] = 1,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Serve the recorded lists DIR/*.json as they are, instead of made-up jobs."),
    ] = None,
) -> None:
    """Run the simulated provider alone, on 127.0.0.1; what it prints first says how to reach it."""
    from checkpointd.cli import demo
    from checkpointd.service import daemon
    from checkpointd.simulator.replay import serve_recorded
    from checkpointd.simulator.server import accelerated, serve
    from checkpointd.simulator.world import World

    if replay is None:
        shape = Shape(kind, publish, order, retain, per_epoch)
        world = World(seed, jobs, demo.EPOCH, shape)
        ids = [job["id"] for job in world.jobs(demo.EPOCH)] if kind == "compatible" else []
        serving = serve(world, accelerated(speed, demo.EPOCH), port=port)
    else:
        _refuse_beside_replay(context)
        bodies = _recorded(replay)
        ids = list(bodies)
        serving = serve_recorded(bodies, kind, port=port)

    async def work() -> None:
        with daemon.stop_on_signals() as stop:
            try:
                async with serving as url:
                    print(_how_to_reach(url, kind, ids), flush=True)
                    await stop.asked.wait()
            except OSError as e:
                raise CommandError(f"port {port}: {e.strerror or e}") from None

    process.run(work())


def _refuse_beside_replay(context: typer.Context) -> None:
    """Refuse what a replay would overlook: a recording has its own jobs, order and times."""
    for name in context.params:
        given = context.get_parameter_source(name)
        if name not in {"replay", "kind", "port"} and given is not None and given.name == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} means nothing to --replay: it serves what was recorded")


def _recorded(folder: Path) -> dict[str, bytes]:
    """Return the recorded lists by job; say what of the folder is left out."""
    from checkpointd.simulator.replay import read_recorded

    try:
        bodies, left_out = read_recorded(folder)
    except OSError as e:
        raise UsageError(f"--replay {folder}: {e.strerror or e}") from None
    for line in left_out:
        terminal.say(f"left out: {line}")
    if not bodies:
        raise UsageError(f"--replay {folder}: no recorded list of checkpoints (*.json) in it")
    return bodies


def _how_to_reach(url: str, kind: Kind, ids: Sequence[str]) -> str:
    """Return what points the other verbs at a provider: variables for OpenAI's kind, else a settings file."""
    track = f"checkpointd track {' '.join(ids)}"
    if kind == "openai":
        return "\n".join([f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any", *([track] if ids else [])])
    source = f'[[sources]]\nname = "simulated"\nkind = "{kind}"\nbase_url = "{url}"\napi_key = "SIMULATED_KEY"'
    lines = ["# A file for --config; any key will do: export SIMULATED_KEY=any", source]
    return "\n".join([*lines, *([f"# It lists no jobs: {track}"] if ids else [])])


def _keys(chosen: Settings) -> dict[str, dict[str, str]]:
    """Read every source's key."""
    return {source.name: source.request_headers() for source in chosen.sources}


def _configure_log(chosen: Settings, keyed: Mapping[str, Mapping[str, str]], level: str) -> None:
    """Set up the log, which tells neither what the sources' requests hold nor the database's password."""
    from checkpointd.redaction import secrets_of
    from checkpointd.telemetry import logs as observe

    secrets = [s for source in chosen.sources for s in secrets_of(source.query, keyed[source.name])]
    if chosen.database_url is not None:
        secrets += dsn.parse(chosen.database_url).secrets
    observe.configure(chosen.log_format, level, secrets)


if __name__ == "__main__":
    main()
