"""The command run."""

import faulthandler

from checkpointd.cli import event_loop
from checkpointd.cli.arguments import CommandError
from checkpointd.cli.database import database
from checkpointd.cli.log import configure_log, read_fields
from checkpointd.postgres import dsn
from checkpointd.service import allocator, daemon
from checkpointd.service.signals import stop_on_signals
from checkpointd.service.webhooks import read_endpoints
from checkpointd.settings.model import Settings
from checkpointd.telemetry.log_thread import written_by_thread
from checkpointd.telemetry.logs import log


def run_daemon(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises CommandError after an error of checkpointd itself."""
    allocator.use_one_arena()
    faulthandler.enable()  # systemd's watchdog sends SIGABRT to a daemon that hangs: then this shows where it hangs
    fields_by_source = read_fields(settings)
    endpoints = read_endpoints(settings)
    configure_log(settings, fields_by_source, settings.log_level)
    address = None if settings.database_url is None else dsn.parse(settings.database_url)

    async def work() -> None:
        if address and address.unverified_host:
            log.warning("database.unverified", host=address.unverified_host, wanted="sslmode=verify-full")
        for source in settings.sources:
            if source.unencrypted_host:
                log.warning("source.unencrypted", source=source.name, host=source.unencrypted_host, wanted="https")
            if source.proxy:
                log.warning("source.proxy", source=source.name, proxy=source.proxy)
        with stop_on_signals() as stop:
            async with database(settings, announce_psql=True) as connect:
                migrate = settings.database_url is None
                await daemon.run(settings, connect, fields_by_source, endpoints, migrate=migrate, stop=stop)
            if stop.crashed:
                raise CommandError("stopped by an error of checkpointd itself: see daemon.crashed in the log")

    with written_by_thread():
        event_loop.run(work())
