"""The base URL of a source: the given one, or that of its kind with a region or a resource. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

from checkpointd.provider.formats.presets import PRESETS

PLACES: Final = ("region", "resource")
"""The settings that can be a part of a base URL."""

_OPENAI_PATH: Final = re.compile(r"(?<!/)(?<!/projects)/openai(?:/v1)?$")
"""Matches the end of the URL of a resource that is the path of its API. A project can have the name openai, too."""


def with_base_url(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a source, with the base URL of its kind if they have none. Raises ValueError.

    A resource can also be a URL, such as that of a project of Microsoft Foundry, also with /openai/v1 at its end.
    """
    kind = values.get("kind", "openai")
    if not isinstance(kind, str) or kind not in PRESETS:
        return values  # another rule rejects it
    base_url = PRESETS[kind].base_url
    wanted = next((place for place in PLACES if base_url and f"{{{place}}}" in base_url), None)
    for place in PLACES:
        if values.get(place) and place != wanted:
            raise ValueError(f"{place} does not apply to kind {kind}")
    given_url = values.get("base_url")
    if kind != "openai" and isinstance(given_url, str) and given_url.rstrip("/") == PRESETS["openai"].base_url:
        given_url = None
    if given_url is not None:
        if wanted and values.get(wanted):
            raise ValueError(f"{wanted} has no effect beside base_url: remove one of them")
        return values
    if base_url is None:
        raise ValueError(f"base_url is required for kind {kind}")
    if wanted is None:
        return {**values, "base_url": base_url}
    given = values.get(wanted)
    if not given:
        raise ValueError(f"base_url is required for kind {kind}, or {wanted}")
    return {**values, "base_url": _filled(base_url, kind, wanted, given)}


def check_end(url: str, kind: str, label: str = "") -> None:
    """Raise ValueError, whose text starts with `label`, if a URL ends with what each request to a list adds to it.

    That is the path of a list of this kind, or the beginning of that path.
    """
    given = url.partition("://")[2].rstrip("/").split("/")[1:]
    paths = [found.path.split("/")[1:] for found in PRESETS[kind].format.lists]
    added = [path[:length] for path in paths for length in range(1, len(path) + 1)]
    for parts in sorted(added, key=len, reverse=True):
        end = given[-len(parts) :]
        if len(end) == len(parts) and all(part in {"{}", found} for part, found in zip(parts, end, strict=True)):
            path = "/".join(["", *parts]).replace("{}", "ID")
            raise ValueError(f"{label}must end before the path of a list: remove {path} from its end")


def _filled(base_url: str, kind: str, place: str, given: object) -> str:
    if place == "resource" and isinstance(given, str) and given.startswith("https://"):
        check_end(given, kind, "resource ")
        return f"{_OPENAI_PATH.sub('', given.rstrip('/'))}/openai/v1"
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", given):
        more = ", or the URL of a project (https://…)" if place == "resource" else ""
        raise ValueError(f"{place} must consist of letters, digits and -{more}")
    return base_url.format(**{place: given})
