"""Stands in for Grafana, as far as SQL goes: reads dashboards, and turns their queries into those that PostgreSQL gets.

What a macro or a variable becomes is what Grafana's PostgreSQL data source and its list of variable formats say.
Whatever it does not know is an error: a query that reaches the database holds no `$` any more.
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
"""The chosen values of each variable."""


@dataclass(frozen=True)
class Range:
    """The time range of a dashboard, and the width in which a panel groups it."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, dashboard: Mapping[str, Any], now: datetime) -> "Range":
        """Return a dashboard's own range: it ends now."""
        (number, unit) = re.fullmatch(r"now-(\d+)([hd])", dashboard["time"]["from"]).groups()  # type: ignore[union-attr]
        return cls(now - timedelta(hours=int(number) * {"h": 1, "d": 24}[unit]), now)

    @property
    def interval_ms(self) -> int:
        """About what Grafana chooses for a panel of some hundred points."""
        return max(int((self.end - self.start).total_seconds() * 1000 / 300), 1000)


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show data."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables that are queries, in the order in which they depend on one another."""
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Yield each query as it is written: dashboard, panel or variable, SQL."""
    for name, dashboard in DASHBOARDS.items():
        for variable in variables(dashboard):
            yield name, f"${variable['name']}", variable["query"]
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield name, panel["title"], target["rawSql"]


def expand(sql: str, values: Values, over: Range, searched: str = "") -> str:
    """Return the SQL that PostgreSQL gets."""

    def variable(match: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "''") + "'" for value in values[match[1]])

    def moment(at: datetime) -> str:
        return f"'{at.isoformat().replace('+00:00', 'Z')}'"

    sql = re.sub(r"\$\{(\w+):sqlstring\}", variable, sql)
    sql = sql.replace("$__searchFilter", f"{searched}%").replace("$__interval_ms", str(over.interval_ms))
    # As in Grafana, an argument ends at the first bracket.
    sql = re.sub(
        r"\$__timeFilter\(([^)]*)\)", lambda m: f"{m[1]} BETWEEN {moment(over.start)} AND {moment(over.end)}", sql
    )
    sql = sql.replace("$__timeFrom()", moment(over.start)).replace("$__timeTo()", moment(over.end))
    assert "$" not in sql, f"unknown to this test: {sql}"
    return sql
