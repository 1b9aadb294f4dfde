"""Read the settings from checkpointd.toml, CHECKPOINTD_… variables and credentials.

An error is one line with the place and the problem, but without the value, because it may be a secret. The messages of
the settings library are not used, because they contain their input.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from checkpointd.postgres import dsn
from checkpointd.redaction import looks_like_key
from checkpointd.settings.credentials import SettingsError, credential, flaw, reason
from checkpointd.settings.environment import PREFIX, variable, variables
from checkpointd.settings.fields import NAME
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source
from checkpointd.settings.webhook import Webhook

CONFIG: Final = Path("/etc/checkpointd/checkpointd.toml")

_OPENAI_ENV: Final = {"base_url": "OPENAI_BASE_URL", "organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}
"""The variables that OpenAI's own clients read, besides the key."""

_TABLE_KEYS: Final = {
    "sources": list(Source.model_fields),
    "webhooks": [f.alias or n for n, f in Webhook.model_fields.items()],
}
"""The keys of each kind of tables."""

_MESSAGES: Final = {
    "missing": "required, but missing",
    "dict_type": "must be a table, such as {name = 'value'}",
}
"""Messages for those errors of the settings library whose own messages are less clear."""


def load(config: Path | None = None) -> Settings:
    """Read the settings from the file, the environment and the credentials. Raises SettingsError.

    The file is `config`, or else the one of CHECKPOINTD_CONFIG, and must exist. Without both it is CONFIG, which may be
    missing.
    """
    given = {setting: found.name for setting, found in variables().items()}
    named = config or (Path(path) if (path := variable(f"{PREFIX}CONFIG")) else None)
    file = named or CONFIG
    values = _read(file, must_exist=named is not None)
    _reject_unknown(values, file, given)
    url_from = f"{file}: database_url"
    if "database_url" not in values and (url := credential("database_url")) is not None:
        values["database_url"] = url
        url_from = "the credential database_url"
    if is_default := values.get("sources", []) == []:
        values["sources"] = [_default_source()]
    try:
        settings = Settings.from_file(config, values)
    except ValidationError as e:
        raise SettingsError(_explain(e, file, values, given, is_default=is_default)) from None
    if settings.database_url is not None:
        _check_url(settings.database_url, given.get("database_url", url_from))
    return settings


def _check_url(url: str, label: str) -> None:
    if problem := flaw(url):
        raise SettingsError(f"{label}: its value {problem}")
    try:
        dsn.parse(url)
    except dsn.DsnError as e:
        raise SettingsError(f"{label}: {e}") from None


def _read(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if must_exist:
            raise SettingsError(f"{path}: no such file") from None
        return {}
    except PermissionError:
        advice = "the user that runs checkpointd must be able to read it (chmod a+r)"
        raise SettingsError(f"{path}: permission denied: {advice}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: {reason(e)}") from None
    except (ValueError, RecursionError) as e:  # some errors of the parser are not a TOMLDecodeError
        raise SettingsError(f"{path}: {_explain_toml(str(e))}") from None


def _reject_unknown(values: Mapping[str, object], path: Path, given: Mapping[str, str]) -> None:
    """Reject misspelt settings: the settings library ignores such variables, and uses some keys for its own options."""
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            raise SettingsError(f"{path}: {name}: {_no_such_setting(name, known)}")
    known = [name for name in (*known, "config") if name not in _TABLE_KEYS]
    for name, variable_name in given.items():
        if name not in known:
            raise SettingsError(f"{variable_name}: {_no_such_setting(name, known, is_variable=True)}")


def _no_such_setting(name: str, known: Sequence[str], *, is_variable: bool = False) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not nearest:
        return "no such setting"
    return f"no such setting; did you mean {PREFIX + nearest[0].upper() if is_variable else nearest[0]}?"


def _default_source() -> dict[str, str]:
    """Return the source that is configured by the variables of OpenAI's own clients."""
    given = {field: value for field, name in _OPENAI_ENV.items() if (value := variable(name))}
    return {"name": "openai", "api_key": "OPENAI_API_KEY", **given}


def _explain(
    error: ValidationError, path: Path, values: Mapping[str, object], given: Mapping[str, str], *, is_default: bool
) -> str:  # fmt: skip
    """Return the place and the message of a misspelt setting, or else of the first wrong one, without its value."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, loc = first["type"], first["loc"]
    name = str(loc[-1]) if loc else ""
    message = _MESSAGES.get(kind, re.sub("^Input should be ", "must be ", first["msg"].removeprefix("Value error, ")))
    if len(loc) == 1 and name in given:
        return f"{PREFIX}{name.upper()}: {message}"
    if is_default and name in _OPENAI_ENV:
        return f"{_OPENAI_ENV[name]}: {message}"
    if kind == "extra_forbidden":
        message = _no_such_setting(name, _TABLE_KEYS[str(loc[0])])
    elif kind in {"tuple_type", "model_type"} and len(loc) <= 2:
        loc = loc[:1]
        message = f"write each {str(loc[0]).removesuffix('s')} as a table of its own, under a line [[{loc[0]}]]"
    place = [str(part) for part in loc if part != "[key]"]
    if len(loc) > 1 and isinstance(loc[1], int):
        label = _table_label(str(loc[0]), values[str(loc[0])], loc[1])
        place = [label, *([".".join(place[2:])] if place[2:] else [])]
    return ": ".join([*([str(path)] if place else []), *place, message])


def _table_label(kind: str, tables: Any, index: int) -> str:  # noqa: ANN401  # the content of the file
    """Return the name of a table for a message, or its number if the name is missing, wrong or looks like a secret."""
    name = tables[index].get("name")
    is_name = isinstance(name, str) and re.fullmatch(NAME, name) and not looks_like_key(name)
    return f"{kind.removesuffix('s')} {name if is_name else index + 1}"


def _explain_toml(message: str) -> str:
    """Return where a file is not TOML, without the text at that place."""
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)$", message)
    if not found:
        return "not valid TOML: nested too deeply, or a number with too many digits"
    where = "the end of the file" if found[1] == "end of document" else found[1]
    return f"not valid TOML at {where}: write lines such as name = 1, name = 'text' and [[sources]]"
