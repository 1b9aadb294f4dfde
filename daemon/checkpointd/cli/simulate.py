"""The command simulate: the simulated provider alone, or a receiver of webhooks, and how to reach it."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import CommandError, UsageError
from checkpointd.service.signals import stop_on_signals
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.receiver import receiver_secret, serve_receiver
from checkpointd.simulator.replay import read_recorded, serve_recorded
from checkpointd.simulator.server import accelerated, serve
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World


def simulate_jobs(shape: Shape, jobs: int, seed: int, speed: float, port: int) -> None:
    """Serve simulated jobs, `speed` simulated seconds per second, until a signal."""
    world = World(seed, jobs, EPOCH, shape)
    ids = [] if KINDS[shape.kind].lists_jobs else [job["id"] for job in world.jobs(EPOCH)]
    _serve(serve(world, accelerated(speed, EPOCH), port=port), shape.kind, ids, port)


def simulate_recorded(folder: Path, kind: Kind, port: int, given: Sequence[str]) -> None:
    """Serve the recorded lists of a folder until a signal; `given` are the options of the call.

    Raises UsageError for options that a recording ignores, and for a folder without recordings.
    """
    _reject_others(given, {"replay", "kind", "port"}, "--replay, which serves recorded answers")
    try:
        bodies, left_out = read_recorded(folder)
    except OSError as e:
        raise UsageError(f"--replay {folder}: {e.strerror or e}") from None
    for line in left_out:
        output.say(f"left out: {line}")
    if not bodies:
        raise UsageError(f"--replay {folder}: it contains no recorded list of checkpoints (*.json)")
    _serve(serve_recorded(bodies, kind, port=port), kind, list(bodies), port)


def simulate_receiver(seed: int, port: int, given: Sequence[str]) -> None:
    """Receive webhooks and print them until a signal; `given` are the options of the call.

    Raises UsageError for options of the simulated provider.
    """
    _reject_others(given, {"receiver", "seed", "port"}, "--receiver, which simulates no provider")
    secret = receiver_secret(seed)
    _run(
        serve_receiver(secret, lambda text: print(f"\n{text}", flush=True), port=port),
        port,
        lambda url: (
            f"# For the settings file. The secret: export SIMULATED_SECRET={secret}\n"
            f'[[webhooks]]\nname = "simulated"\nurl = "{url}"\nsecret = "SIMULATED_SECRET"'
        ),
    )


def _reject_others(given: Sequence[str], known: Collection[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"--{name.replace('_', '-')} has no effect with {what}")


def _serve(serving: AbstractAsyncContextManager[str], kind: Kind, ids: Sequence[str], port: int) -> None:
    _run(serving, port, lambda url: _how_to_reach(url, kind, ids))


def _run(serving: AbstractAsyncContextManager[str], port: int, describe: Callable[[str], str]) -> None:
    """Serve until a signal, and first print what `describe` returns for the URL."""

    async def work() -> None:
        with stop_on_signals() as stop:
            try:
                async with serving as url:
                    print(describe(url), flush=True)
                    await stop.asked.wait()
            except OSError as e:
                raise CommandError(f"port {port}: {e.strerror or e}") from None

    event_loop.run(work())


def _how_to_reach(url: str, kind: Kind, ids: Sequence[str]) -> str:
    """Return how to connect other commands to the provider: variables for kind openai, otherwise a settings file."""
    track = f"checkpointd track {' '.join(ids)}"
    if kind == "openai":
        return "\n".join([f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any", *([track] if ids else [])])
    source = f'[[sources]]\nname = "simulated"\nkind = "{kind}"\nbase_url = "{url}"\napi_key = "SIMULATED_KEY"'
    lines = ["# A file for --config. Any key is accepted: export SIMULATED_KEY=any", source]
    return "\n".join([*lines, *([f"# This provider lists no jobs. To track them: {track}"] if ids else [])])
