"""Which jobs the filters of discovery let pass, and the reason that is given for the others."""

import itertools
import json
import re
import time
from typing import Any

import pytest

from checkpointd.domain.job import JobRecord, read_jobs
from checkpointd.domain.job_filter import ALL_JOBS, JobFilter
from support.provider import job

CREATED = job()["created_at"]


def _record(**fields: Any) -> JobRecord:
    (record,) = read_jobs([json.dumps(job(**fields)).replace('"long"', "9" * 5000).encode()]).records
    return record


@pytest.mark.parametrize(
    ("job_filter", "fields", "expected"),
    [
        (ALL_JOBS, {"model": None, "status": None, "created_at": None}, None),
        (JobFilter(model=["gpt-4.1*", "gpt-4o-mini-*"]), {}, None),
        (JobFilter(model=["gpt-4o"]), {}, "model gpt-4o-mini-2024-07-18"),
        (JobFilter(model=["gpt-4?-mini*"]), {}, None),
        (JobFilter(model=["GPT*"]), {}, "model gpt-4o-mini-2024-07-18"),
        (JobFilter(model=["gpt.4*"]), {}, "model gpt-4o-mini-2024-07-18"),
        (JobFilter(model=["*"]), {"model": None}, "no model"),
        (JobFilter(status=["RUNNING", "queued"]), {"status": "Running"}, None),
        (JobFilter(status=["running"]), {"status": "failed"}, "status failed"),
        (JobFilter(status=["*"]), {"status": None}, "status unknown"),
        (JobFilter(suffix=["team-*"]), {"user_provided_suffix": "team-a"}, None),
        (JobFilter(suffix=["team-*"]), {"user_provided_suffix": None, "suffix": "team-a"}, None),
        (JobFilter(suffix=["team-*"]), {"user_provided_suffix": "x"}, "suffix x"),
        (JobFilter(suffix=["*"]), {"user_provided_suffix": ""}, "no suffix"),
        (JobFilter(suffix=["team-*"]), {"suffix": "team-a", "seed": "long"}, None),
        (JobFilter(metadata={"team": ["a", "b"]}), {"metadata": {"team": "b", "other": 1}}, None),
        (JobFilter(metadata={"team": ["a"]}), {"metadata": {"team": "b"}}, "metadata team = b"),
        (JobFilter(metadata={"team": ["*"]}), {"metadata": {"team": 5}}, "no text as metadata team"),
        (JobFilter(metadata={"team": ["*"]}), {"metadata": ["team"]}, "no text as metadata team"),
        (JobFilter(metadata={"team": ["*"]}), {"metadata": None}, "no text as metadata team"),
        (JobFilter(metadata={"a": ["1"], "b": ["2"]}), {"metadata": {"a": "1"}}, "no text as metadata b"),
        (JobFilter(created_after=CREATED), {}, None),
        (JobFilter(created_after=CREATED + 0.5), {}, "created too early"),
        (JobFilter(created_after=0), {"created_at": None}, "no time of creation"),
        (JobFilter(model=["gpt*"], status=["queued"]), {}, "status running"),
    ],
)
def test_mismatch(job_filter: JobFilter, fields: dict[str, Any], expected: str | None) -> None:
    """All filters must match, and of several patterns one. A value that is missing or no text matches nothing."""
    assert expected == job_filter.mismatch(_record(**fields))


TEXTS = ["", "a", "b", "aa", "ab", "ba", "aab", "aba", "abab", "abba", "a\nb", "aabb", "babab"]
PATTERNS = ["".join(signs) for length in range(1, 5) for signs in itertools.product("ab?*", repeat=length)]


def test_patterns() -> None:
    """A pattern matches what the same regular expression with backtracking matches."""
    for pattern in PATTERNS:
        regex = pattern.replace("?", ".").replace("*", ".*")
        for text in filter(None, TEXTS):
            passes = JobFilter(model=[pattern]).mismatch(_record(model=text)) is None
            assert passes == bool(re.fullmatch(regex, text, re.DOTALL)), (pattern, text)


def test_long_values() -> None:
    """The time of a pattern with many * does not grow with their number, and only the beginning of a value counts."""
    started = time.process_time()
    assert JobFilter(model=["*a*a*a*b"]).mismatch(_record(model="a" * 800)) is not None
    assert JobFilter(model=["*a*b"]).mismatch(_record(model="a" + "b" * 900 + "c" * 20_000)) is not None
    assert JobFilter(model=["*a*"]).mismatch(_record(model="b" * 1000 + "a")) is not None
    assert time.process_time() - started < 5
