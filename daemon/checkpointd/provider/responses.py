"""What a response with an error status means: the class of the failure, and the seconds to wait. Pure.

The rules follow what providers document and what their own clients do.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from checkpointd.domain.failure import LONGEST_PAUSE, ErrorClass, Failure
from checkpointd.provider.words import Words

_STATUSES: Final = frozenset(HTTPStatus)

_QUOTA_CODES: Final = re.compile(
    r"""(?x) insufficient(?:quota|credits?|balance|funds) | creditbalance(?:exhausted|toolow) | outofcredits?
    | (?:organization|project|account|team|user)(?:spend|usage)limitexceeded | (?:spend|budget)(?:limit)?exceeded
    | billing(?:hardlimitreached|notactive) | paymentrequired | exceededbudget | arrearage | 402"""
)
"""Matches a code, without its punctuation, that says that nothing is left to spend."""

_QUOTA_WORDS: Final = re.compile(
    r"""(?ix) \b insufficient\ (?:credits?|balance|funds|quota) | \b (?:out\ of|no\ remaining|not\ enough)\ credits?
    | \b credit\ balance\ is\ too\ low | \b check\ your\ plan\ and\ billing | \b budget\ has\ been\ exceeded
    | \b billing\ (?:hard\ )?limit | \b spend(?:ing)?\ limit\ (?:was\ |has\ been\ )?(?:reached|exceeded)
    | \b exceeded\ your\ (?:monthly|current)\ [\w\ ]{0,20} (?:credits|quota|budget|spend)
    | \b out\ of\ call\ volume\ quota"""
)
"""Matches words that say so. They are not used for a 429: providers use the same words for limits of a minute."""


def failure_of(status: int, reason: str, headers: Mapping[str, str], words: Words, *, paging: bool) -> Failure:
    """Return what a response with a status that is not a success means; `paging` is true if a cursor was sent.

    `reason` is the text beside the status. The message of the failure has the words of the provider, which may contain
    secrets.
    """
    if words.text:
        said = f"a web page: {words.text}" if words.kind == "html" else words.text
    elif described := re.search(r'error_description="([^"]{1,500})"', headers.get("WWW-Authenticate", "")):
        said = described[1]  # OAuth (RFC 6750), whose errors need no body
    else:
        phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
        said = reason if reason and reason.lower() != phrase.lower() else phrase
        content_type = headers.get("Content-Type", "")
        said += f" ({content_type})" if content_type and not is_json(content_type) else ""
    no_retry = headers.get("x-should-retry", "").lower() == "false"
    error_class = _classify(status, words, paging=paging)
    message = " ".join(part for part in (f"HTTP {status}", said) if part)
    return Failure(error_class, message, retry_after(headers), no_retry, status, has_words=bool(words.text))


def says_quota(words: Words, *, by_code_alone: bool = False) -> bool:
    """Return whether an error says that the account has nothing left to spend: by its code, or by clear words."""
    if any(_QUOTA_CODES.fullmatch(re.sub(r"[\W_]", "", code)) for code in words.codes):
        return True
    return not by_code_alone and _QUOTA_WORDS.search(words.text) is not None


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type header names JSON: application/json, or a subtype of +json (RFC 6839)."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def http_date(header: str) -> datetime | None:
    """Return the time of an HTTP date, or None if the text is not one."""
    try:
        found = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    # HTTP dates are in UTC, and some formats do not include the zone.
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _classify(status: int, words: Words, *, paging: bool) -> ErrorClass:
    if status == HTTPStatus.PAYMENT_REQUIRED or (status in {400, 403} and says_quota(words)):
        return ErrorClass.QUOTA
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ErrorClass.QUOTA if says_quota(words, by_code_alone=True) else ErrorClass.THROTTLED
    if status == HTTPStatus.UNAUTHORIZED:
        return ErrorClass.REFUSED
    if status in {400, 404, 422} and paging:  # the job exists, because its previous page was read: the cursor is lost
        return ErrorClass.CURSOR_LOST
    if status in {408, 409, 425} or status >= 500:
        return ErrorClass.SERVER_ERROR
    if status in {204, 205}:
        return ErrorClass.EMPTY_BODY
    if 400 <= status < 500 and (words.kind != "json" or not words.text):
        return ErrorClass.GATEWAY  # not in the form of an API
    if status == HTTPStatus.FORBIDDEN:
        return ErrorClass.REFUSED if _concerns_key(words) else ErrorClass.FORBIDDEN
    if status == HTTPStatus.NOT_FOUND:
        return ErrorClass.MISSING
    return ErrorClass.REDIRECT if 300 <= status < 400 else ErrorClass.BAD_REQUEST


def _concerns_key(words: Words) -> bool:
    """Return whether a 403 concerns the key, and therefore all jobs of the source, and not only one job."""
    if any(code.startswith(("unsupported_country", "insufficient_permissions")) for code in words.codes):
        return True
    return "scope" in words.text  # the key lacks a permission


def retry_after(headers: Mapping[str, str], longest: float = LONGEST_PAUSE) -> float | None:
    """Return the seconds to wait from the headers, at most `longest`, or None.

    They are in milliseconds, in seconds, or a date, which is compared with the Date header of the same response.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (value := headers.get(name)) is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            now, then = http_date(headers.get("Date", "")), http_date(value)
            if now is None or then is None:
                continue
            seconds = (then - now).total_seconds()
        if math.isfinite(seconds) and seconds > 0:
            return min(seconds, longest)
    return None
