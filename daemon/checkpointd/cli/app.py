"""The commands with their options and help. A command imports its module when it is called, to load nothing else."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import checkpointd
from checkpointd.simulator.shapes import Kind, Order, Publication, Retention, Shape

if TYPE_CHECKING:
    from checkpointd.settings.model import Settings

app = typer.Typer(
    help="Copies the checkpoints of fine-tuning jobs into PostgreSQL, and keeps the copy complete.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[
    Path | None, typer.Option("--config", help="The settings file (default: /etc/checkpointd/checkpointd.toml).")
]
Jobs = Annotated[
    list[str],
    typer.Argument(metavar="JOB", help="Ids of fine-tuning jobs; - reads them from standard input, one per line."),
]
SourceName = Annotated[
    str | None, typer.Option("--source", help="The source, if several are configured or have a job with this id.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(config: Path | None) -> "Settings":
    """Read the settings. Their library takes as long to load as all else that `jobs` needs."""
    from checkpointd.settings.load import load as read

    return read(config)


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
    """Run the daemon. It logs to standard error, and stops on SIGTERM or Ctrl-C."""
    from checkpointd.cli.run import run_daemon

    run_daemon(load(config))


@app.command()
def sync(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="Ids of jobs, instead of all; - reads them from standard input."),
    ] = None,
    source: SourceName = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Poll all tracked jobs, or the given ones, once and now. They need not be due."""
    from checkpointd.cli.sync import sync_once

    sync_once(load(config), jobs or [], source, as_json=as_json)


@app.command()
def track(jobs: Jobs, source: SourceName = None, config: Config = None) -> None:
    """Start polling jobs. Sends no request: the daemon or sync polls them."""
    from checkpointd.cli.jobs import track_jobs

    track_jobs(load(config), jobs, source)


@app.command()
def untrack(jobs: Jobs, source: SourceName = None, config: Config = None) -> None:
    """Stop polling jobs. Their stored data stays."""
    from checkpointd.cli.jobs import untrack_jobs

    untrack_jobs(load(config), jobs, source)


@app.command()
def discover(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Track nothing.")] = False,
    source: SourceName = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Read the job lists once and now, track the new jobs that the settings choose, and say why no others."""
    from checkpointd.cli.discover import discover_jobs

    discover_jobs(load(config), source, dry_run=dry_run, as_json=as_json)


@app.command()
def resync(jobs: Jobs, source: SourceName = None, config: Config = None) -> None:
    """Make jobs due, and compare their next listing in full. Sealed jobs are reopened."""
    from checkpointd.cli.jobs import resync_jobs

    resync_jobs(load(config), jobs, source)


@app.command()
def resume(source: SourceName = None, config: Config = None) -> None:
    """End the pause of a source, or of all, so that the daemons send requests to it at once."""
    from checkpointd.cli import sources

    sources.resume_sources(load(config), source)


@app.command()
def rename(
    old_name: Annotated[str, typer.Argument(metavar="OLD", help="The present name of the source.")],
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")],
    config: Config = None,
) -> None:
    """Give a source another name in the database. It keeps its jobs and history."""
    from checkpointd.cli import sources

    sources.rename_source(load(config), old_name, new_name)


@app.command()
def objective(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a fine-tuning job.")],
    metric: Annotated[str | None, typer.Argument(metavar="[METRIC]", help="The name of a metric.")] = None,
    maximize: Annotated[bool, typer.Option("--maximize", help="More of the metric is better.")] = False,
    minimize: Annotated[bool, typer.Option("--minimize", help="Less of the metric is better.")] = False,
    default: Annotated[
        bool, typer.Option("--default", help="Use the objective of the source, or the default.")
    ] = False,
    source: SourceName = None,
    config: Config = None,
) -> None:
    """Set by which metric the best checkpoint of a job is chosen, and show that checkpoint."""
    from checkpointd.cli.jobs import set_objective

    set_objective(load(config), job, metric, maximize=maximize, minimize=minimize, default=default, source=source)


@app.command()
def archive(source: SourceName = None, as_json: AsJson = False, config: Config = None) -> None:
    """Fetch everything that the providers still have about all jobs, and say what is not complete."""
    from checkpointd.cli.archive import archive_jobs

    archive_jobs(load(config), source, as_json=as_json)


@app.command("jobs")
def list_jobs(as_json: AsJson = False, config: Config = None) -> None:
    """Show the jobs that are or were tracked."""
    from checkpointd.cli.jobs import show_jobs

    show_jobs(load(config), as_json=as_json)


@app.command()
def status(as_json: AsJson = False, config: Config = None) -> None:
    """Show the sources, and how fresh each tracked job is."""
    from checkpointd.cli.jobs import show_status

    show_status(load(config), as_json=as_json)


@app.command()
def webhooks(
    replay: Annotated[
        tuple[str, int] | None,
        typer.Option("--replay", metavar="NAME SEQ", help="Let the daemons send again from a change on (its seq)."),
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="NAME", help="Send a test message, and print the answer.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show how far each webhook is, and what its endpoint answers."""
    from checkpointd.cli import webhooks as module

    if replay is not None and test is not None:
        raise typer.BadParameter("give --replay or --test, not both")
    if replay is not None:
        module.replay_webhook(load(config), *replay)
    elif test is not None:
        module.test_webhook(load(config), test)
    else:
        module.show_webhooks(load(config), as_json=as_json)


@app.command()
def migrate(config: Config = None) -> None:
    """Create or upgrade the schema and the roles. It is safe to run several at the same time."""
    from checkpointd.cli.database import migrate_schema

    migrate_schema(load(config))


@app.command()
def check(as_json: AsJson = False, config: Config = None) -> None:
    """Find what would stop the daemon, and how to fix it.

    Checks the settings, the database with its role and schema, the key of each source, and the clocks.
    """
    from checkpointd.cli.check import check_all

    check_all(config, as_json=as_json)


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="End after this many seconds.")] = None,
) -> None:
    """Show checkpointd at work, with nothing to set up.

    Starts a private PostgreSQL, a simulated provider and the daemon, and shows checkpoints as they arrive.
    """
    from checkpointd.cli.demo import show_demo

    show_demo(seconds)


@app.command()
def simulate(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(min=1, max=10_000, help="Number of jobs.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 1,
    speed: Annotated[float, typer.Option(min=0.01, max=100_000, help="Simulated seconds per second.")] = 60,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 selects a free one.")] = 8788,
    kind: Annotated[Kind, typer.Option(help="The kind of provider; compatible and coreweave list no jobs.")] = "openai",
    publish: Annotated[
        Publication, typer.Option(help="When checkpoints are listed: at once, some late, or all at the job's end.")
    ] = "late",
    order: Annotated[Order, typer.Option(help="The order of checkpoints: descending is newest first.")] = "descending",
    retain: Annotated[
        Retention, typer.Option(help="Which checkpoints are listed: those of the last three epochs, or all.")
    ] = "last-three",
    per_epoch: Annotated[int, typer.Option(min=1, max=100, help="Checkpoints per epoch.")] = 1,
    bare_checkpoints: Annotated[
        bool, typer.Option("--bare-checkpoints", help="Checkpoints have no metrics: only events have them.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Serve the recorded lists DIR/*.json unchanged, instead of simulated jobs."),
    ] = None,
    receiver: Annotated[
        bool, typer.Option("--receiver", help="Receive webhooks and print them, instead of simulating a provider.")
    ] = False,
) -> None:
    """Run the simulated provider alone, or a receiver of webhooks, on 127.0.0.1.

    First it prints the settings that connect other commands to it.
    """
    from checkpointd.cli import simulate as module

    origins = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, origin in origins.items() if origin is not None and origin.name == "COMMANDLINE"]
    if receiver:
        module.simulate_receiver(seed, port, given)
    elif replay is None:
        shape = Shape(kind, publish, order, retain, per_epoch, bare_checkpoints=bare_checkpoints)
        module.simulate_jobs(shape, jobs, seed, speed, port)
    else:
        module.simulate_recorded(replay, kind, port, given)
