"""checkpointd.toml, CHECKPOINTD_… variables and credentials → settings, or one line that says what is wrong where.

It never shows a value, which may be a secret: the settings library's own messages show their input.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from checkpointd.postgres import dsn
from checkpointd.redaction import looks_like_key
from checkpointd.settings.credentials import SettingsError, credential
from checkpointd.settings.model import PREFIX, SOURCE_NAME, Settings, Source

CONFIG: Final = Path("/etc/checkpointd/checkpointd.toml")

_OPENAI_ENV: Final = {"base_url": "OPENAI_BASE_URL", "organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}
"""What OpenAI's own clients read, beside the key."""

_WORDS: Final = {"missing": "it is missing", "dict_type": "a table is wanted, such as {name = 'value'}"}
"""What says more than the settings library's own words."""


def load(config: Path | None = None) -> Settings:
    """Read the settings from the file (an explicit one must exist), the environment and credentials.

    Raises SettingsError.
    """
    named = config or (Path(os.environ[f"{PREFIX}CONFIG"]) if os.environ.get(f"{PREFIX}CONFIG") else None)
    path = named or CONFIG
    values = _read(path, must_exist=named is not None)
    _refuse_unknown(values, path)
    if "database_url" not in values and (url := credential("database_url")) is not None:
        values["database_url"] = url
    if by_default := values.get("sources", []) == []:
        values["sources"] = [_default_source()]
    try:
        settings = Settings(**values)
    except ValidationError as e:
        raise SettingsError(_explain(e, path, values["sources"], by_default=by_default)) from None
    if settings.database_url is not None:
        try:
            dsn.parse(settings.database_url)
        except dsn.DsnError as e:
            raise SettingsError(f"{PREFIX}DATABASE_URL: {e}") from None
    return settings


def _read(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise SettingsError(f"{path}: no such file") from None
        return {}
    except PermissionError:
        raise SettingsError(f"{path}: its reader, a service's own user perhaps, may not read it: chmod a+r") from None
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: {getattr(e, 'strerror', None) or 'no UTF-8 text'}") from None
    except (ValueError, RecursionError) as e:  # TOMLDecodeError, and what else the parser lets through
        raise SettingsError(f"{path}: {_what_is_no_toml(str(e))}") from None


def _refuse_unknown(values: Mapping[str, object], path: Path) -> None:
    """Refuse misspelt settings: the settings library overlooks such variables, and takes some keys for its own."""
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            raise SettingsError(f"{path}: {name}: no such setting{_nearest(name, known, '')}")
    known = [name for name in (*known, "config") if name != "sources"]
    for variable in os.environ:
        name = variable.upper().removeprefix(PREFIX).lower()
        if variable.upper().startswith(PREFIX) and name not in known:
            raise SettingsError(f"{variable}: no such setting{_nearest(name, known, PREFIX)}")


def _default_source() -> dict[str, str]:
    """Return the source of the variables that OpenAI's own clients read."""
    given = {field: os.environ.get(variable, "") for field, variable in _OPENAI_ENV.items()}
    return {"name": "openai", "api_key": "OPENAI_API_KEY", **{field: value for field, value in given.items() if value}}


def _explain(error: ValidationError, path: Path, sources: object, *, by_default: bool) -> str:
    """Say what is wrong with a misspelt setting, else with the first wrong one, without its value."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, loc = first["type"], first["loc"]
    name = str(loc[-1]) if loc else ""
    message = _WORDS.get(kind, first["msg"].removeprefix("Value error, "))
    if f"{PREFIX}{name}".upper() in {variable.upper() for variable in os.environ} and len(loc) == 1:
        return f"{PREFIX}{name.upper()}: {message}"
    if by_default and name in _OPENAI_ENV:
        return f"{_OPENAI_ENV[name]}: {message}"
    if kind == "extra_forbidden":
        message = f"no such setting{_nearest(name, list(Source.model_fields), '')}"
    elif kind in {"tuple_type", "model_type"}:
        loc, message = loc[:1], "each is a table of its own, under a line [[sources]]"
    place = [str(part) for part in loc if part != "[key]"]
    if len(loc) > 1 and isinstance(loc[1], int):
        place = [_called(sources, loc[1]), *([".".join(place[2:])] if place[2:] else [])]
    return ": ".join([*([str(path)] if place else []), *place, message])


def _called(sources: Any, number: int) -> str:  # noqa: ANN401  # whatever stands in the file
    """Return what a person calls a source, which may have no name, or a secret in its place."""
    name = sources[number].get("name")
    is_name = isinstance(name, str) and re.fullmatch(SOURCE_NAME, name) and not looks_like_key(name)
    return f"source {name if is_name else number + 1}"


def _nearest(name: str, known: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0].upper() if prefix else near[0]}?" if near else ""


def _what_is_no_toml(message: str) -> str:
    """Say where TOML broke, not what stood there."""
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)$", message)
    if not found:
        return "no TOML: nested too deeply, or a number too long"
    where = "its end" if found[1] == "end of document" else found[1]
    return f"no TOML at {where}: wanted are lines such as name = 1, name = 'text' and [[sources]]"
