"""The webhooks, as configured: their secrets and their senders."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from checkpointd.postgres.store import Store
from checkpointd.provider.http import Session
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings
from checkpointd.settings.webhook import Webhook as WebhookSettings
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.hidden import hide
from checkpointd.telemetry.logs import log
from checkpointd.webhooks.formats import FORMATS, selection
from checkpointd.webhooks.request import Endpoint
from checkpointd.webhooks.sender import Sender, Webhook

WEBHOOK_POOL_SIZE: Final = 1
"""The connections of all senders of a process. A connection is used for a statement only, never during a request."""

Endpoints = Mapping[str, Endpoint]
"""The endpoint of each webhook, by its name, with its secrets."""


def read_endpoints(settings: Settings) -> dict[str, Endpoint]:
    """Read the URLs and secrets of the webhooks, and hide the secrets from now on. Raises SettingsError."""
    endpoints = {}
    for each in settings.webhooks:
        endpoints[each.name], secrets = _read(each)
        hide(secrets)
    return endpoints


def _read(webhook: WebhookSettings) -> tuple[Endpoint, list[str]]:
    """Return the endpoint of a webhook, and what must not be logged. Raises SettingsError."""
    return Endpoint(webhook.read_url(), webhook.read_key()), webhook.secrets()


def _renewal(webhook: WebhookSettings, endpoint: Endpoint) -> Callable[[], Awaitable[Endpoint]]:
    """Return a function that reads the URL and the secret again. If that fails, it returns the former ones.

    An endpoint that was given a new secret refuses the former one, and a refusal ends a delivery. So they are read
    before each attempt, and not only after a refusal.
    """

    async def renew() -> Endpoint:
        nonlocal endpoint
        with suppress(SettingsError):  # perhaps a file is just being replaced
            found, secrets = await asyncio.to_thread(_read, webhook)
            if found != endpoint:
                hide(secrets)
                endpoint = found
                log.info("webhook.secret_changed", webhook=webhook.name)
        return endpoint

    return renew


def open_senders(
    settings: Settings, endpoints: Endpoints, store: Store, http: Session, health: Health
) -> list[Sender]:  # fmt: skip
    """Return a sender for each webhook."""
    senders = []
    for each in settings.webhooks:
        form = FORMATS[each.format]
        selected = selection(form, each.events, each.sources, each.jobs)
        endpoint = _renewal(each, endpoints[each.name])
        webhook = Webhook(each.name, endpoint, selected, each.start, form.messages)
        lease_seconds, request_seconds = settings.lease_seconds, settings.request_timeout_seconds
        senders.append(
            Sender(
                store, http, webhook, health, lease_seconds=lease_seconds, request_seconds=request_seconds,
                clock=time.time,
            )
        )  # fmt: skip
    return senders
