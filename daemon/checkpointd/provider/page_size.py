"""Read from the words of an error that the page size is too large, and which one is accepted. Pure.

Providers have different maxima, which few of them document. The words must be about the parameter `limit` or a page
size, because an error can state the limits of other things: of requests, of spending, of the length of a name.
"""

import re
from typing import Final

from checkpointd.provider.words import Statement, Words

_NOT_ABOUT_PAGES: Final = frozenset({401, 402, 403, 404, 407, 429})
"""Statuses whose words are about other limits."""

_LIMIT_PARAMETERS: Final = frozenset({"limit", "pagesize", "perpage", "maxresults", "pagelimit"})

_NAMED: Final = re.compile(
    r"""(?ix) (?<![\w-]) (?:
      page[ _-]?size | per_page | max_?results | pages?\ limit | (?:items|results|records|entries|objects)\ per\ page
    | ["'`] limit ["'`] | query(?:string)? [./] limit \b
    | limit ["'`]? \s* (?: [:<=≤(] | \d | must | should | may | can | has\ to | exceeds | value | param | field | too
      | is\ (?:too|greater|larger|above|over|out) )
    | (?:param(?:eter)? | field | argument | value\ (?:for|of)) \s+ limit \b
    | max(?:imum)? \s+ limit \b (?! \s+ (?:of|for|on) \s+ \D)
    )"""
)
"""Matches a page size where it is named in a sentence, and not only the word limit."""

_OTHER: Final = re.compile(
    r"""(?ix) \b (?:rate | quota | spend(?:ing)? | usage | credit | token | request | budget | billing | character
      | length | time | concurrency | concurrent | job | account | plan | tier | context | memory | file | upload | body
      | daily | monthly | hourly | hard | soft) s? [ _-] limit
    | \d\ * (?:(?:fine | (?:fine)?tun\w+ | training | active | concurrent | running) [ -]){0,4}
      (?:character|byte|token|request|job|second|minute|hour|day|[kKmM]i?B\b | per\ (?:second|minute|hour|day))"""
)
"""Matches a limit of something else."""

_LOWER: Final = re.compile(
    r"""(?ix) (?: (?:must|should|has\ to|needs\ to) \s+ be \s+ (?:(?:greater|larger|more|higher) \s+ than | >) (?:=|
      \ or\ equal\ to)? | at\ least | >= | ≥ | min(?:imum)? (?:\ \w+){0,3}? | not \s+ (?:be \s+)? (?:less|smaller|lower|
      fewer) \s+ than) [\s:=]* -?\d+"""
)
"""Matches a lower bound."""

_BOUNDS: Final = (
    (re.compile(r"(?i)\b\d+\s*(?:and|to|,|-|\u2013|\.\.\.?)\s*(\d+)"), 0),
    (re.compile(r"(?i)(?:\b(?:less|lower|smaller|fewer) than|\bbelow|\bunder|<)\s*(\d+)"), 1),
    (
        re.compile(
            r"""(?ix) (?: or\ equal\ to | \b at\ most | \b up\ to | \b (?:greater|larger|more|higher|bigger) \ than
            | \b exceeds? | \b max(?:imum)? | \b capped\ at | \b limited\ to | \b above | \b over | <= | ≤)
            \D{0,40}? (\d+)"""
        ),
        0,
    ),
)
"""Patterns of an upper bound, the most certain first, and how much less than the number is accepted."""

_TOO_LARGE: Final = re.compile(
    r"(?i)too (?:large|big|high|many|long)|exceed|\bmax|\babove\b|\bover\b|(?:greater|larger|more|less) than|"
    r"out of (?:range|bounds)"
)


def smaller_page_size(words: Words, requested: int, status: int | None) -> int | None:
    """Return the page size that is accepted instead of `requested`, or None if the words do not say it is too large.

    It is half of `requested` if the words state no number. `status` is None for an error that was sent with status 200.
    """
    if status in _NOT_ABOUT_PAGES:
        return None
    for statement in words.statements:
        if (found := _smaller(statement, requested)) is not None:
            return found
    return None


def _smaller(statement: Statement, requested: int) -> int | None:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", statement.text)
    place = re.sub(r"[\W_]", "", re.sub(r"^.*\.(?!size$)", "", statement.place)).lower()
    if place not in _LIMIT_PARAMETERS and (not _NAMED.search(text) or _OTHER.search(text)):
        return None
    text = _LOWER.sub("", text)
    bounds = [int(found[1][:9]) - excess for pattern, excess in _BOUNDS for found in pattern.finditer(text)]
    if statement.at_most is not None:
        bounds = [statement.at_most]
    if bounds:
        return next((bound for bound in bounds if 1 <= bound < requested), None)
    return requested // 2 if requested > 1 and _TOO_LARGE.search(text) else None
