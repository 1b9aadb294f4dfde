"""The formats of messages, and how much of the feed is read at once for each. Pure."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from checkpointd.domain.feed import ChangeGroup, pattern_to_regex
from checkpointd.postgres.webhooks import Selection
from checkpointd.webhooks.message import Message, standard_messages, standard_test
from checkpointd.webhooks.slack import slack_messages, slack_test


class Format(NamedTuple):
    """A format of messages."""

    messages: Callable[[str, Sequence[ChangeGroup]], list[Message]]
    """Returns the messages about groups of changes, for the webhook of this name."""
    test: Callable[[str], bytes]
    """Returns the body of a test message that is sent at a time, given as text."""
    most_groups: int
    """How many groups of changes are read at once. In the format slack it is also the most that become one message."""
    most_details: int
    """Of how many changes of a group, the last ones, the details are read."""
    past_minutes: bool
    """Whether changes wait until their minute is over."""


FORMATS: Final = {
    "standard": Format(standard_messages, standard_test, most_groups=100, most_details=10, past_minutes=False),
    "slack": Format(slack_messages, slack_test, most_groups=1000, most_details=1, past_minutes=True),
}


def selection(of_format: Format, kinds: Sequence[str], sources: Sequence[str], jobs: Sequence[str]) -> Selection:
    """Return which changes a webhook of a format gets; `sources` and `jobs` are patterns."""
    source_regexes, job_regexes = ([pattern_to_regex(pattern) for pattern in each] for each in (sources, jobs))
    groups, details = of_format.most_groups, of_format.most_details
    return Selection(kinds, source_regexes, job_regexes, groups, details, of_format.past_minutes)
