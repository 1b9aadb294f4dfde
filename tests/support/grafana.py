"""Reads the Grafana dashboards, and expands their queries as Grafana does before it sends them to PostgreSQL.

The expansion follows the documentation of Grafana's PostgreSQL data source and of its variable formats. A macro that
is not implemented here is an error: no `$` may remain in an expanded query.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from support.paths import TOP

FOLDER = TOP / "config" / "grafana"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}

Values = Mapping[str, Sequence[str]]
"""The selected values of each variable."""


@dataclass(frozen=True)
class Range:
    """The time range of a dashboard."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, dashboard: Mapping[str, Any], now: datetime) -> "Range":
        """Return the default range of a dashboard, which ends at `now`."""
        (number, unit) = re.fullmatch(r"now-(\d+)([hd])", dashboard["time"]["from"]).groups()  # type: ignore[union-attr]
        return cls(now - timedelta(hours=int(number) * {"h": 1, "d": 24}[unit]), now)

    @property
    def interval_ms(self) -> int:
        """The width of one point, about as Grafana chooses it for a panel of 300 points."""
        return max(int((self.end - self.start).total_seconds() * 1000 / 300), 1000)


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show data."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables that are queries. Each depends only on earlier ones."""
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]


def annotations(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what marks times in the panels."""
    return list(dashboard["annotations"]["list"])


def queries() -> Iterator[tuple[str, str, str]]:
    """Yield each query: the dashboard, the title of its panel, variable (with its `$`) or annotation, and the SQL."""
    for name, dashboard in DASHBOARDS.items():
        for variable in variables(dashboard):
            yield name, f"${variable['name']}", variable["query"]
        for annotation in annotations(dashboard):
            yield name, annotation["name"], annotation["target"]["rawSql"]
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield name, panel["title"], target["rawSql"]


def expand(sql: str, values: Values, time_range: Range, search: str = "") -> str:
    """Return the SQL that PostgreSQL receives. `search` is what was typed into the field of a variable."""

    def variable(match: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "''") + "'" for value in values[match[1]])

    def literal(at: datetime) -> str:
        return f"'{at.isoformat().replace('+00:00', 'Z')}'"

    start, end = literal(time_range.start), literal(time_range.end)
    sql = re.sub(r"\$\{(\w+):sqlstring\}", variable, sql)
    sql = sql.replace("$__searchFilter", f"{search}%").replace("$__interval_ms", str(time_range.interval_ms))
    # As in Grafana, the argument of a macro ends at the first bracket.
    sql = re.sub(r"\$__timeFilter\(([^)]*)\)", lambda match: f"{match[1]} BETWEEN {start} AND {end}", sql)
    sql = sql.replace("$__timeFrom()", start).replace("$__timeTo()", end)
    assert "$" not in sql, f"not implemented here: {sql}"
    return sql
