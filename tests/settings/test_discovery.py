"""The setting `discover` of a source: true, false or filters."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from checkpointd.domain.job_filter import ALL_FILTERS
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.settings.discovery import Discovery
from checkpointd.settings.model import Settings

ADDRESS = "base_url = 'https://h.example/v1'\n"
SOURCE = '[[sources]]\nname = "a"\napi_key = "KEY"\n'
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", False),
        ("discover = true", True),
        ("discover = { model = 'gpt-4.1*' }", Discovery(model=("gpt-4.1*",))),
        (
            "discover = { suffix = ['a', 'b'], status = 'running', metadata = { team = ['x*', 'y'] } }",
            Discovery(suffix=("a", "b"), status=("running",), metadata={"team": ("x*", "y")}),
        ),
        ("discover = { created_after = 2026-11-01 }", Discovery(created_after=NOVEMBER)),
        ("discover = { created_after = '2026-11-01' }", Discovery(created_after=NOVEMBER)),
        ("discover = { created_after = 2026-11-01T02:00:00+02:00 }", Discovery(created_after=NOVEMBER)),
        ("discover.created_after = '2026-11-01T00:00:00Z'", Discovery(created_after=NOVEMBER)),
    ],
)
def test_setting(load: Callable[..., Settings], lines: str, expected: bool | Discovery) -> None:
    """A source may discover all jobs, none, or those that pass filters."""
    settings = load(SOURCE + lines)
    assert expected == settings.discovery(settings.sources[0])


def test_general_setting(load: Callable[..., Settings]) -> None:
    """The general setting applies to sources that say nothing."""
    text = SOURCE + SOURCE.replace('"a"', '"b"') + "discover = false\n"
    settings = load(text, CHECKPOINTD_DISCOVER="true")
    assert [True, False] == [settings.discovery(source) for source in settings.sources]


PATTERN = "must be a pattern such as 'gpt-4.1*', or a list of patterns"
TIME = "must be a date, or a time with its zone, such as 2026-11-01 or 2026-11-01T12:00:00Z"
NAMES = "model, suffix, status, metadata or created_after"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("'yes'", f"must be true, false or a table of filters: {NAMES}"),
        ("{}", f"must be true, false or a table of filters: {NAMES}"),
        ("{ modle = 'x' }", f"no such filter: 'modle'; the filters are {NAMES}"),
        ("{ '' = 'x' }", f"no such filter: ''; the filters are {NAMES}"),
        ("{ model = '' }", f"model: {PATTERN}"),
        ("{ model = [] }", f"model: {PATTERN}"),
        ("{ model = 5 }", f"model: {PATTERN}"),
        ("{ metadata = 'x' }", "metadata: must be a table of patterns, such as { team = 'research' }"),
        ("{ metadata = { team = 1 } }", f"metadata.team: {PATTERN}"),
        ("{ created_after = 2026-11-01T00:00:00 }", f"created_after: {TIME}"),
        ("{ created_after = 'November' }", f"created_after: {TIME}"),
        ("{ created_after = 1793491200 }", f"created_after: {TIME}"),
    ],
)
def test_wrong_settings(load_error: Callable[..., Any], value: str, expected: str) -> None:
    """A wrong filter is named, with what is expected."""
    assert f"source a: discover: {expected}" == load_error(f"{SOURCE}discover = {value}")


EXAMPLES = {
    "model": "'x'",
    "suffix": "'x'",
    "status": "'running'",
    "metadata": "{ team = 'x' }",
    "created_after": "2026-11-01",
}
LACKING = {
    ("together", "metadata"): "model, suffix, status, created_after",
    ("tinker", "suffix"): "model, metadata",
    ("tinker", "status"): "model, metadata",
    ("tinker", "created_after"): "model, metadata",
    ("foundry", "suffix"): "model, status",
    ("foundry", "metadata"): "model, status",
    ("foundry", "created_after"): "model, status",
}
"""The filters that no job of a kind can pass, and those that the message names instead."""


@pytest.mark.parametrize("kind", sorted(PRESETS.keys() - {"coreweave"}))
def test_filters_of_kinds(load: Callable[..., Settings], load_error: Callable[..., Any], kind: str) -> None:
    """A filter is refused if the job list of the kind lacks its value, and accepted otherwise."""
    assert ALL_FILTERS == set(Discovery._fields) == EXAMPLES.keys()
    source = f"{SOURCE}{ADDRESS}kind = '{kind}'\n"
    for name, value in EXAMPLES.items():
        text = f"{source}discover = {{ {name} = {value} }}"
        if names := LACKING.get((kind, name)):
            problem = f"{name}: the job list of kind {kind} lacks it, so no job would match: use only {names}"
            assert f"source a: discover: {problem}" == load_error(text)
        else:
            assert load(text).sources[0].discover


def test_a_kind_without_a_job_list(load: Callable[..., Settings], load_error: Callable[..., Any]) -> None:
    """A source without a job list can discover no jobs. The general setting does not apply to it."""
    source = f"{SOURCE}kind = 'coreweave'\n"
    expected = "source a: discover: kind coreweave has no job list: remove it, and track each job by its id"
    for value in ("true", "{ model = 'x' }"):
        assert expected == load_error(f"{source}discover = {value}")
    assert False is load(f"{source}discover = false").sources[0].discover
    assert load(source, CHECKPOINTD_DISCOVER="true").discover
