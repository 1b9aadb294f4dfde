"""The Grafana dashboards, read with the types that Grafana publishes for them: those of grafana-foundation-sdk.

Its classes keep what they know and drop everything else, without an error, and check no value. So a name that is
unknown to Grafana is missing when a dashboard is written again, and the values are compared with the annotations.
"""

import copy
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, DataTransformerConfig, Panel
from pydantic import ConfigDict, TypeAdapter, ValidationError

from support import grafana
from support.grafana import DASHBOARDS

ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)

register_default_plugins()


def _mistakes(dashboard: dict[str, Any]) -> list[str]:
    """Return what Grafana's types do not know or permit in a dashboard: the path of each name and value."""
    dashboard = _without_queries_of_annotations(_with_overrides_as_defaults(dashboard))
    read = Dashboard.from_json(dashboard)
    for panel in read.panels or []:
        if isinstance(panel, Panel) and panel.transformations:  # which the class of a panel leaves as they are
            panel.transformations = [DataTransformerConfig.from_json(each) for each in panel.transformations]
    written = json.loads(json.dumps(read, cls=JSONEncoder))
    return [*_dropped(dashboard, written, "dashboard"), *_of_other_types(read, "dashboard")]


def _with_overrides_as_defaults(dashboard: dict[str, Any]) -> dict[str, Any]:
    """Return the dashboard with a further panel for each override, which has its properties as defaults.

    Only there they have types: an override is a list of any names with any values.
    """
    further = []
    for panel in grafana.panels(dashboard):
        for override in panel["fieldConfig"]["overrides"]:
            defaults: dict[str, Any] = {}
            for each in override["properties"]:
                group, _, name = each["id"].rpartition(".")
                (defaults.setdefault(group, {}) if group else defaults)[name] = each["value"]
            further.append({"type": panel["type"], "fieldConfig": {"defaults": defaults, "overrides": []}})
    return {**dashboard, "panels": [*dashboard["panels"], *further]}


def _without_queries_of_annotations(dashboard: dict[str, Any]) -> dict[str, Any]:
    """Return the dashboard without the queries of its annotations: only those of Grafana's own database have types."""
    found = [{k: v for k, v in each.items() if k != "target"} for each in grafana.annotations(dashboard)]
    return {**dashboard, "annotations": {"list": found}}


def _dropped(given: Any, written: Any, path: str) -> Iterator[str]:
    """Yield the names and values that are not written again. What is written in addition are defaults."""
    if isinstance(given, dict) and isinstance(written, dict):
        for name, value in given.items():
            if name in written:
                yield from _dropped(value, written[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is unknown"
    elif isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        for n, (one, other) in enumerate(zip(given, written, strict=True)):
            yield from _dropped(one, other, f"{path}.{n}")
    elif given != written:
        yield f"{path} becomes {written!r}"


def _of_other_types(value: Any, path: str) -> Iterator[str]:
    """Yield the values whose type is not that of the annotation, or which its enum does not have."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _of_other_types(inner, f"{path}.{name}")
    elif type(value).__module__.startswith("grafana_foundation_sdk.models."):
        for name, annotation in typing.get_type_hints(type(value)).items():
            inner = getattr(value, name)
            if not _has_type(inner, annotation):
                yield f"{path}.{name} is {inner!r}"
            yield from _of_other_types(inner, f"{path}.{name}")


def _has_type(value: Any, annotation: Any) -> bool:
    """Return whether a value has a type. A text is a member of an enum if it equals one."""
    try:
        return bool(value == TypeAdapter(annotation, config=ANY_CLASS).validate_python(value))
    except ValidationError:
        return False


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_has_published_types(name: str) -> None:
    """Grafana's types know every name in a dashboard, and permit every value."""
    assert [] == _mistakes(DASHBOARDS[name])


@pytest.mark.parametrize(
    ("path", "value", "mistake"),
    [
        ("refrsh", "1m", "dashboard.refrsh is unknown"),
        ("templating.list.1.multy", True, "dashboard.templating.list.1.multy is unknown"),
        ("panels.1.option", {}, "dashboard.panels.1.option is unknown"),
        ("panels.1.options.xfield", "step", "dashboard.panels.1.options.xfield is unknown"),
        ("panels.1.options.legend.placement", "below", "dashboard.panels.1.options.legend.placement is 'below'"),
        ("panels.1.gridPos.w", "12", "dashboard.panels.1.grid_pos.w is '12'"),
        ("panels.1.fieldConfig.defaults.custom.lineWith", 1, "custom.lineWith is unknown"),
        ("panels.1.fieldConfig.defaults.custom.drawStyle", "lines", "custom.draw_style is 'lines'"),
        ("panels.1.fieldConfig.overrides.0.matchers", {}, "overrides.0.matchers is unknown"),
        ("panels.8.fieldConfig.overrides.0.properties.0.id", "custom.lineStile", "custom.lineStile is unknown"),
        ("panels.8.fieldConfig.overrides.0.properties.0.value.fill", "dashes", "line_style.fill is 'dashes'"),
        ("panels.1.transformations.0.identifier", "x", "transformations.0.identifier is unknown"),
        ("panels.5.options.cellHeight", "small", "dashboard.panels.5.options.cell_height is 'small'"),
        ("templating.list.1.refresh", 7, "dashboard.templating.list_val.1.refresh is 7"),
    ],
)
def test_mistakes_are_found(path: str, value: Any, mistake: str) -> None:
    """A misspelt name, a value of another type, and one that an enum does not have are found."""
    dashboard = inner = copy.deepcopy(DASHBOARDS["training-curves.json"])
    *way, last = path.split(".")
    for name in way:
        inner = inner[int(name) if isinstance(inner, list) else name]
    inner[last] = value
    (found,) = _mistakes(dashboard)
    assert found.endswith(mistake)
