"""The command check: test the database and each source, and report what would stop the daemon and how to fix it.

It reads from the database and sends one or two requests to each source. It changes nothing, except that the embedded
database is created, started and migrated, as by every command.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from checkpointd.cli import event_loop, tables
from checkpointd.cli.database import database
from checkpointd.cli.database_findings import (
    assess_new_jobs,
    assess_pooler,
    assess_readers,
    assess_role,
    assess_server,
    assess_sources,
    assess_tables,
    assess_unstable_jobs,
    assess_webhooks,
)
from checkpointd.cli.findings import Finding, assess_clock, assess_key, assess_settings
from checkpointd.cli.source_findings import Try, assess_source
from checkpointd.polling.setup import open_client, open_proxy
from checkpointd.postgres import migrations, overview
from checkpointd.postgres.connection import Connect
from checkpointd.postgres.errors import DatabaseUnavailableError, EmbeddedError, MigrationError
from checkpointd.postgres.store import Store, open_store
from checkpointd.postgres.webhooks import list_webhooks
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.http import Limits, Session, open_session
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.load import load
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source
from checkpointd.settings.webhook import Webhook
from checkpointd.web.address import EXPOSED, beyond_loopback, resolve


def check_all(config: Path | None, *, as_json: bool) -> None:
    """Print the findings. Exits with 1 if one would stop the daemon, with 2 if the settings are wrong."""

    async def work() -> list[Finding]:
        settings = load(config)
        findings = []
        async for finding in check(settings, database(settings)):
            findings.append(finding)
            if not as_json:
                tables.show_finding(*finding)
        return findings

    failed_code = 1
    try:
        findings = event_loop.run_interruptible(work())
    except SettingsError as e:
        if not as_json:
            raise
        findings, failed_code = [Finding("fail", "settings", str(e))], 2
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [finding._asdict() for finding in findings]}))
    if failed:
        sys.exit(failed_code)


async def check(settings: Settings, opening: AbstractAsyncContextManager[Connect]) -> AsyncIterator[Finding]:
    """Yield findings about the settings, the database that `opening` leads to, and each source.

    Raises SettingsError if `opening` does.
    """
    found, jobs = await _check_database(settings, opening)
    webhooks = [_check_webhook(webhook) for webhook in settings.webhooks]
    for finding in [*assess_settings(settings), *webhooks, *await _check_status_port(settings.http_host), *found]:
        yield finding
    async with open_session() as http:
        checks = [_check_source(settings, source, jobs.get(source.name), http) for source in settings.sources]
        for findings in await asyncio.gather(*checks):
            for finding in findings:
                yield finding


async def _check_status_port(host: str) -> list[Finding]:
    """Return a warning if the status port cannot be opened, or if other machines can reach it."""
    try:
        exposed = beyond_loopback(await resolve(host))
    except OSError as e:
        return [Finding("warn", "status port", f"{host}: {e.strerror}: correct http_host")]
    message = f"other machines can reach {', '.join(exposed)} ({EXPOSED})"
    return [Finding("warn", "status port", message)] if exposed else []


def _check_webhook(webhook: Webhook) -> Finding:
    """Return whether the URL and the secret of a webhook can be used. It gets no request."""
    subject = f"webhook {webhook.name}"
    try:
        url = webhook.read_url()
        webhook.read_key()
    except SettingsError as e:
        return Finding("fail", subject, str(e).replace(f" of webhook {webhook.name}", ""))
    if webhook.format == "slack" and url == webhook.url and url.startswith("https:"):
        message = "the settings contain its URL, which is a secret: write { credential = 'NAME' } instead"
        return Finding("warn", subject, message)
    return Finding("ok", subject, f"complete (`checkpointd webhooks --test {webhook.name}` sends a test message)")


async def _check_database(
    settings: Settings, opening: AbstractAsyncContextManager[Connect]
) -> tuple[list[Finding], dict[str, str]]:
    """Return the findings, and a tracked job of each source that has one."""
    findings: list[Finding] = []
    jobs: dict[str, str] = {}
    subject = "database"
    try:
        async with opening as connect, open_store(connect) as store:
            server, clock = await _read_server(store)
            findings += [assess_server(server), clock]
            if settings.database_pooler:
                findings.append(assess_pooler(server))
            subject = "schema"
            if settings.database_url is None:
                async with store.connection() as connection:
                    await migrations.keep_current(connection)
            subject = "role"
            missing = await overview.find_missing_rights(store)
            findings.append(assess_role(server, missing, embedded=settings.database_url is None))
            findings += assess_readers(await overview.find_open_rights(store))
            if missing:
                return findings, jobs
            subject = "tables"
            async with store.connection() as connection:
                obstacles = await migrations.find_obstacles(connection)
                findings += assess_tables(obstacles)
                if any(obstacle.is_certain for obstacle in obstacles):
                    return findings, jobs
                subject = "schema"
                await migrations.require_current(connection)
            findings.append(Finding("ok", "schema", "matches this version of checkpointd"))
            stored = await overview.list_sources(store, list(settings.source_kinds))
            jobs = await overview.pick_jobs(store)
            renamed = {row["name"]: row["outdated_name"] for row in stored if row["outdated_name"] is not None}
            jobs |= {renamed[name]: job for name, job in jobs.items() if name in renamed}
            unstable = await overview.count_unstable_jobs(store)
            findings += assess_sources(stored)
            names = {webhook.name for webhook in settings.webhooks}
            findings += assess_webhooks(await list_webhooks(store), names)
            findings += assess_unstable_jobs(unstable) + assess_new_jobs(stored, settings.max_new_jobs_per_day)
    except (EmbeddedError, MigrationError) as e:
        findings.append(Finding("fail", subject, str(e).removeprefix(f"the {subject} is ")))
    except DatabaseUnavailableError as e:
        findings.append(Finding("fail", subject, str(e)))
    return findings, jobs


async def _read_server(store: Store) -> tuple[dict[str, Any], Finding]:
    """Return what the server reports, and the finding about its clock."""
    async with store.connection():  # the time to connect must not count as a difference of the clocks
        pass
    asked_at = time.time()
    server = await overview.read_server(store)
    return server, assess_clock("database", server["now"], asked_at, time.time())


async def _check_source(settings: Settings, source: Source, job: str | None, http: Session) -> list[Finding]:
    """Test the key with one request, or with two if the first is inconclusive. `job` is a tracked job, or None."""
    subject = f"source {source.name}"
    try:
        issued = await source.issue_key(names_source=False)
        fields, proxy = source.request_fields(issued and issued.key, names_source=False), open_proxy(source)
        limits = Limits(page_size=1, request_timeout=settings.request_timeout_seconds)
        client = open_client(source, fields, proxy, http, limits)
    except SettingsError as e:
        return [Finding("fail", subject, str(e))]
    tried: list[Try] = []
    clock: list[Finding] = []
    resources = [None, job] if PRESETS[source.kind].lists_jobs else [job, None]
    for resource in resources if job else [None]:
        asked_at = time.time()
        result = await client.probe(asyncio.get_running_loop().time() + settings.request_timeout_seconds, resource)
        if result.date is not None:
            clock = [assess_clock(subject, result.date.timestamp(), asked_at, time.time())]
        tried.append(Try(resource, result.failure))
        if not tried[-1].is_inconclusive:
            break
    return [assess_source(source, tried), *assess_key(source.name, issued), *clock]
