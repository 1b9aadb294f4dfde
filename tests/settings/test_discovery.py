"""The setting `discover` of a source: true, false or filters."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from checkpointd.settings.discovery import Discovery
from checkpointd.settings.model import Settings

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
