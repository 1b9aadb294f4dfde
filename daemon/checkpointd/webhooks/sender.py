"""Send the feed of changes to one webhook: lease its row, read, send, move the cursor.

Each webhook has a task of its own, so that a slow endpoint delays no other. No connection to the database is held while
a message is sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from checkpointd.domain.delivery import Answer, Outcome, is_given_up, next_gap
from checkpointd.domain.feed import ChangeGroup
from checkpointd.postgres import webhooks
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store, finish_or_undo
from checkpointd.postgres.webhooks import Selection, WebhookLease
from checkpointd.provider.http import Session
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log
from checkpointd.webhooks.message import Message
from checkpointd.webhooks.request import Endpoint, post

TICK_SECONDS: Final = 1.0
"""The seconds between two looks for changes."""

POST_SHARE: Final = 0.5
"""The share of a lease that one request may take. The rest is for the database, and for the start of the request."""


class Webhook(NamedTuple):
    """A webhook at run time."""

    name: str
    endpoint: Callable[[], Awaitable[Endpoint]]
    """Returns the endpoint with its present secrets. It is called before each attempt."""
    selection: Selection
    start: int | None
    """The number of the first change for a new webhook, or None for what is stored from now on."""
    messages: Callable[[str, Sequence[ChangeGroup]], list[Message]]
    """Returns the messages about groups of changes, in the webhook's format."""


class Sender:
    """Sends to one webhook. A lease on its row keeps other daemons from sending at the same time."""

    def __init__(
        self, store: Store, http: Session, webhook: Webhook, health: Health, *, lease_seconds: float,
        request_seconds: float, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """`clock` returns the time in Unix seconds, for the headers."""
        self._store = store
        self._http = http
        self._webhook = webhook
        self._health = health
        self._lease_seconds = lease_seconds
        self._request_seconds = min(request_seconds, POST_SHARE * lease_seconds)
        self._clock = clock

    async def tick(self) -> None:
        """Send what waits, until nothing does or an attempt fails. Failures are logged, not raised."""
        try:
            with self._health.unit(f"webhook {self._webhook.name}"):
                while await self._send_some():
                    pass
        except DatabaseUnavailableError:
            return

    async def _send_some(self) -> bool:
        """Lease the webhook and send what one reading finds. Returns whether more may wait."""
        name, selection = self._webhook.name, self._webhook.selection
        claimed_at = asyncio.get_running_loop().time()
        lease = await webhooks.claim(
            self._store, name, self._webhook.start, self._lease_seconds, past_minutes=selection.past_minutes
        )
        if lease is None:
            return False
        try:
            return await self._send(lease, claimed_at)
        except asyncio.CancelledError:
            await webhooks.release(self._store, name, lease)
            raise
        except DatabaseUnavailableError:
            raise
        except Exception:  # noqa: BLE001  # an error of checkpointd itself must end this delivery only, not the daemon
            log.exception("webhook.crashed", webhook=name)
            await self._delay(lease, Answer(None, "an error of checkpointd itself: see its log"))
            return False

    async def _send(self, lease: WebhookLease, renewed_at: float) -> bool:
        name = self._webhook.name
        loop = asyncio.get_running_loop()
        groups, read_to = await webhooks.read_feed(self._store, lease.cursor, self._webhook.selection)
        for message in self._webhook.messages(name, groups):
            endpoint = await self._webhook.endpoint()
            if loop.time() > renewed_at + (1 - POST_SHARE) * self._lease_seconds:
                break  # a request could outlast the lease: this process was suspended, or the database was slow
            answer = await self._post(endpoint, message)
            if answer.may_change and not is_given_up(lease.failures, lease.failing_seconds, message.age):
                await self._delay(lease, answer)
                return False
            renewed_at = loop.time()
            if not await self._advance(lease, message.seq, self._lease_seconds, answer.outcome, answer):
                return False
            self._report(lease, message, answer)
            if not answer.may_change:
                lease = lease._replace(failures=0, failing_seconds=0.0)
        else:
            await self._advance(lease, read_to, None)
            return read_to > lease.cursor
        await webhooks.release(self._store, name, lease)
        return True

    async def _post(self, endpoint: Endpoint, message: Message) -> Answer:
        seconds = int(self._clock())
        return await post(self._http, endpoint, message.id, message.body, seconds, self._request_seconds)

    async def _advance(
        self, lease: WebhookLease, cursor: int, lease_seconds: float | None, outcome: Outcome | None = None,
        answer: Answer | None = None,
    ) -> bool:  # fmt: skip
        """Move the cursor, also if cancelled: otherwise what was delivered would be repeated. Returns False if lost."""
        work = webhooks.advance(self._store, self._webhook.name, lease, cursor, lease_seconds, outcome, answer)
        if not (is_held := await finish_or_undo(work)):
            log.warning("webhook.dropped", webhook=self._webhook.name, reason="its lease was lost")
        return is_held

    async def _delay(self, lease: WebhookLease, answer: Answer) -> None:
        gap = next_gap(lease.failures, answer)
        await finish_or_undo(webhooks.delay(self._store, self._webhook.name, lease, gap, answer))
        if lease.failures == 0:
            log.warning("webhook.failing", webhook=self._webhook.name, answer=answer.text)

    def _report(self, lease: WebhookLease, message: Message, answer: Answer) -> None:
        name, outcome = self._webhook.name, answer.outcome
        if outcome is not Outcome.DELIVERED:
            log.warning("webhook.undelivered", webhook=name, seq=message.seq, outcome=outcome, answer=answer.text)
        elif lease.failures:
            log.info("webhook.recovered", webhook=name)
