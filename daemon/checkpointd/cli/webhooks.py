"""The command webhooks: show, replay and test them."""

import json
import secrets
from datetime import UTC, datetime

from checkpointd.cli import event_loop, output, tables
from checkpointd.cli.arguments import CommandError, UsageError
from checkpointd.cli.database import open_database
from checkpointd.postgres import webhooks
from checkpointd.provider.http import open_session
from checkpointd.service.webhooks import read_endpoints
from checkpointd.settings.model import Settings
from checkpointd.settings.webhook import MOST_SEQ, Webhook
from checkpointd.webhooks.formats import FORMATS
from checkpointd.webhooks.request import post


def show_webhooks(settings: Settings, *, as_json: bool) -> None:
    """Print how far each webhook is, and what its endpoint answers."""

    async def work() -> None:
        async with open_database(settings) as store:
            rows = await webhooks.list_webhooks(store)
        if as_json:
            print(json.dumps(rows, default=output.json_default))
        else:
            tables.show_webhooks(rows)

    event_loop.run_interruptible(work())


def replay_webhook(settings: Settings, name: str, seq: int) -> None:
    """Let the daemons send again what a webhook selects from a change on."""
    if not 1 <= seq <= MOST_SEQ:
        raise UsageError(f"--replay {name[:80]} {seq}: not the number (seq) of a change")

    async def work() -> None:
        async with open_database(settings) as store:
            most_seq = await webhooks.replay(store, name, seq)
            if most_seq is None:
                names = ", ".join(row["name"] for row in await webhooks.list_webhooks(store))
                raise CommandError(f"webhook {name[:80]} does not exist (existing webhooks: {names or 'none'})")
        if seq > most_seq:
            advice = f"with {most_seq}, only new ones are sent"
            raise CommandError(f"--replay {name} {seq}: this change does not exist ({advice})")
        print(f"webhook {name}: the daemons send again from change {seq}")

    event_loop.run_interruptible(work())


def test_webhook(settings: Settings, name: str) -> None:
    """Send a test message, and print the answer. Raises CommandError unless the endpoint accepts it."""
    chosen = _choose(settings, name)
    endpoint = read_endpoints(settings.model_copy(update={"webhooks": (chosen,)}))[name]

    async def work() -> None:
        async with open_session() as http:
            now = datetime.now(UTC)
            body = FORMATS[chosen.format].test(now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
            id_ = f"msg_test_{secrets.token_hex(12)}"
            answer = await post(http, endpoint, id_, body, int(now.timestamp()), settings.request_timeout_seconds)
        if not answer.is_success:
            raise CommandError(f"webhook {name}: {answer.text}")
        print(f"webhook {name}: {answer.text}")

    event_loop.run_interruptible(work())


def _choose(settings: Settings, name: str) -> Webhook:
    for webhook in settings.webhooks:
        if webhook.name == name:
            return webhook
    names = ", ".join(webhook.name for webhook in settings.webhooks)
    raise UsageError(f"--test {name[:80]}: not configured (configured webhooks: {names or 'none'})")
