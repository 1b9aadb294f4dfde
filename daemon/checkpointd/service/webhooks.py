"""The webhooks, as configured: their secrets and their senders."""

import time
from collections.abc import Mapping
from typing import Final

from checkpointd.postgres.store import Store
from checkpointd.provider.http import Session
from checkpointd.settings.model import Settings
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.hidden import hide
from checkpointd.webhooks.formats import FORMATS, selection
from checkpointd.webhooks.request import Endpoint
from checkpointd.webhooks.sender import Sender, Webhook

WEBHOOK_POOL_SIZE: Final = 1
"""The connections of all senders of a process. A connection is used for a statement only, never during a request."""

Endpoints = Mapping[str, Endpoint]
"""The endpoint of each webhook, by its name, with its secrets."""


def read_endpoints(settings: Settings) -> dict[str, Endpoint]:
    """Read the URLs and secrets of the webhooks, and hide the secrets from now on. Raises SettingsError."""
    for each in settings.webhooks:
        hide(each.secrets())
    return {each.name: Endpoint(each.read_url(), each.read_key()) for each in settings.webhooks}


def open_senders(
    settings: Settings, endpoints: Endpoints, store: Store, http: Session, health: Health
) -> list[Sender]:  # fmt: skip
    """Return a sender for each webhook."""
    senders = []
    for each in settings.webhooks:
        form = FORMATS[each.format]
        selected = selection(form, each.events, each.sources, each.jobs)
        webhook = Webhook(each.name, endpoints[each.name], selected, each.start, form.messages)
        lease_seconds, request_seconds = settings.lease_seconds, settings.request_timeout_seconds
        senders.append(
            Sender(
                store, http, webhook, health, lease_seconds=lease_seconds, request_seconds=request_seconds,
                clock=time.time,
            )
        )  # fmt: skip
    return senders
