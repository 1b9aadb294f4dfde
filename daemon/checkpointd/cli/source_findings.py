"""The finding about a source: what its responses to one or two requests mean, and what to do. Pure."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from checkpointd.cli.findings import Finding, State
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.settings.source import Source


class Try(NamedTuple):
    """A request to a source: for the checkpoints of a job or, if `job` is None, for the job list; and its failure."""

    job: str | None
    failure: Failure | None

    @property
    def is_inconclusive(self) -> bool:
        """True if another resource may still be available to this key."""
        failure = self.failure
        return failure is not None and failure.status in {403, 404} and failure.error_class is not ErrorClass.QUOTA


_UNREACHABLE: Final = (
    "check base_url and the firewall; if a proxy is the only way out, set the source's proxy: proxies of the "
    "environment are not used"
)
_NO_API: Final = "no API of fine-tuning jobs: check base_url"
_NOT_THE_API: Final = "not the API itself answered: check base_url, and gateways and login pages in between"
_MEANINGS: Final[Mapping[ErrorClass, tuple[State, str]]] = {
    ErrorClass.REFUSED: (
        "fail",
        "the key is wrong or revoked, or may not read fine-tuning jobs: replace it, or give it that right",
    ),
    ErrorClass.QUOTA: ("fail", "the account is out of quota: nothing is polled until it has quota again"),
    ErrorClass.UNREACHABLE: ("fail", _UNREACHABLE),
    ErrorClass.NETWORK: ("fail", _UNREACHABLE),
    ErrorClass.REDIRECT: ("fail", f"{_NO_API}; redirects are not followed"),
    ErrorClass.BAD_REQUEST: ("fail", "check base_url, `query` (such as api-version) and `headers`"),
    ErrorClass.THROTTLED: ("warn", "too many requests with this key: set or lower requests_per_minute"),
    ErrorClass.SERVER_ERROR: ("warn", "the provider has a problem: polling tries again by itself"),
    ErrorClass.FORBIDDEN: ("warn", "the key may not list jobs: polling can work, but statuses are not updated"),
    ErrorClass.MISSING: ("fail", f"{_NO_API}, or set kind to compatible for a provider without a job list"),
    ErrorClass.TIMEOUT: ("warn", "slow or unreachable: polling tries again by itself; see request_timeout_seconds"),
    ErrorClass.GATEWAY: ("fail", _NOT_THE_API),
    ErrorClass.CONTENT_TYPE: ("fail", _NOT_THE_API),
    ErrorClass.HTML: ("fail", _NOT_THE_API),
    ErrorClass.NOT_A_LIST: ("fail", _NO_API),
}

_OTHER_REFUSAL: Final = re.compile(
    r"(?i)^(?!.*(?:api.?key|scope|permission)).*(?:country|region|\bIP\b|organi[sz]ation|account|suspended|deactivated)"
)
"""Matches a refusal whose words give another reason than the key or its rights."""

_EXPLAINED: Final = frozenset({ErrorClass.BAD_REQUEST, ErrorClass.ERROR_IN_200, ErrorClass.NOT_A_LIST})
"""Classes with many causes: if the provider's own words name the cause, nothing is added to them."""


def assess_source(source: Source, tries: Sequence[Try]) -> Finding:
    """Return the finding about a source. The last request is conclusive, unless all responses were 403 or 404."""
    subject = f"source {source.name}"
    first, last = tries[0], tries[-1]
    if last.failure is None:
        if first.job is None and first.failure is not None:
            meaning = "polling works, but jobs cannot be listed, so statuses are not updated: give the key that right"
            return Finding("warn", subject, f"{first.failure.message} ({meaning})")
        return Finding("ok", subject, f"the key is accepted, and {'checkpoints' if last.job else 'jobs'} can be listed")
    chosen = min(tries, key=_informative_first) if last.is_inconclusive else last
    failure = chosen.failure or last.failure
    state, meaning = _meaning(source, chosen.job, failure, first.job or last.job)
    return Finding(state, subject, f"{failure.message} ({meaning})" if meaning else failure.message)


def _informative_first(tried: Try) -> tuple[bool, bool]:
    """Sort a refusal before a 404, and a request for checkpoints before one for the job list."""
    return tried.failure is None or tried.failure.status == HTTPStatus.NOT_FOUND, tried.job is None


def _meaning(source: Source, job: str | None, failure: Failure, tracked_job: str | None) -> tuple[State, str]:
    """Return the state and the meaning of a failed request for the checkpoints of `job`, or for the job list.

    The meaning is an empty text if the failure explains itself: nothing is said that is not certain.
    `tracked_job` is the job whose checkpoints were requested in any of the requests, or None.
    """
    if failure.error_class is ErrorClass.UNREACHABLE and "certificate verify failed" in failure.message:
        return "fail", "check base_url; if an authority of your own signed the certificate, name it in SSL_CERT_FILE"
    if failure.error_class in {ErrorClass.UNREACHABLE, ErrorClass.NETWORK} and source.proxy:
        # The message of a 407 names the setting already.
        is_explained = "proxy_credentials" in failure.message
        return "fail", "" if is_explained else "check proxy and base_url, and what the proxy permits"
    if failure.error_class is ErrorClass.REFUSED and _OTHER_REFUSAL.search(failure.message):
        return "fail", "nothing is polled until the provider accepts this key"
    if failure.error_class is ErrorClass.FORBIDDEN and job:
        advice = "" if failure.has_words else ": give it that right"
        return "fail", f"the key may not list the checkpoints of {job}{advice}"
    if failure.status == HTTPStatus.NOT_FOUND and not PRESETS[source.kind].lists_jobs:
        if tracked_job:
            found = f"neither {tracked_job} nor a job list was found"
            return "warn", f"{found}, so the key could not be tested: check base_url"
        return "warn", "no job list was found, so the key could not be tested: track a job and check again"
    if failure.has_words and failure.error_class in _EXPLAINED:
        return "fail", ""
    return _MEANINGS.get(failure.error_class, ("fail", "nothing can be polled until this answer can be read"))
