"""Every setting and source: checkpointd.toml below CHECKPOINTD_… variables. Secrets are named here, never held.

An error here ends the program with one line that says what and where, and never shows a value that may be a secret:
the settings library's own messages show their input.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from yarl import URL

from checkpointd import address
from checkpointd.redaction import is_like_a_key

CONFIG: Final = Path("/etc/checkpointd/checkpointd.toml")
PREFIX: Final = "CHECKPOINTD_"
OPENAI: Final = "https://api.openai.com/v1"
LOADED: Final = "checkpointd_"
"""What systemd puts before the names of a folder's files: LoadCredential=checkpointd:FOLDER (systemd.exec(5))."""

_OPENAI: Final = {"base_url": "OPENAI_BASE_URL", "organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}
"""What OpenAI's own clients read, beside the key."""

_WORDS: Final = {"missing": "it is missing", "dict_type": "a table is wanted, such as {name = 'value'}"}
"""What says more than the settings library's own words."""

_TOML: Final = {
    "Invalid value": "a value is wanted: a text stands in quotes",
    "Expected '='": "a name without = and its value, or with a character that wants quotes",
    r"Expected '\]": "the name of a table without its closing ]",
    "Expected newline": "a value is followed by something else",
    r"Expected [\"']|Unterminated": "a text without its closing quote",
    "Unclosed array": "a list without its closing ], or a comma",
    "Unclosed inline": "a table without its closing }, or a comma",
    "Cannot|Duplicate": "something is given twice",
    "Illegal|Found invalid": "a character that may not stand there",
    "Invalid initial|Invalid statement": "no name = value, and no [[sources]]",
    r"Unescaped|Invalid hex|Escaped": "a \\ in a text: it is written \\\\, or the text in single quotes",
    "Invalid date": "no date: a text stands in quotes",
}
"""How the parser's messages begin, which hold some of what stands there: what is wrong, in our words."""

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


class SettingsError(Exception):
    """A setting is wrong; the text, one line, names it and says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in text))


def _base_url(value: str) -> str:
    try:
        url = URL(value)
    except ValueError:
        raise ValueError("no URL") from None
    if url.user is not None or url.password is not None:
        raise ValueError("a URL with a password in it; name the key in api_key")
    loopback = url.host in {"localhost", "::1"} or re.fullmatch(r"127\.\d+\.\d+\.\d+", url.host or "")
    if not url.host or (url.scheme != "https" and not (url.scheme == "http" and loopback)):
        raise ValueError("https:// is needed (http:// only for this machine itself)")
    if url.query_string or url.fragment:
        raise ValueError("no query here; it goes into the source's table `query`")
    return str(url).rstrip("/")


def _key_reference(value: str) -> str:
    if value == "database_url":
        raise ValueError("that credential is the database's, which no provider is to see")
    a_file = re.fullmatch(r"\.{0,2}/[^\0]*", value)
    a_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,127}", value) and not is_like_a_key(value)
    if not a_file and not a_name:
        raise ValueError("the name of a credential, a variable or a file (/… or ./…) is needed, never the key itself")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(_NAME, value):
        raise ValueError("letters, digits, dots, _ and - are wanted, at most 63, a letter or a digit first")
    return value


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError("letters, digits, _ and - are wanted in a header's name")
    return value


def _header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("one line of printable ASCII is needed")
    return value


Header = Annotated[str, AfterValidator(_header)]


class Source(BaseModel):
    """One account at one provider."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True, allow_inf_nan=False)

    name: Annotated[str, AfterValidator(_name), Field(description="how the database and the verbs call it")]
    kind: Annotated[Literal["openai", "azure", "compatible"], Field(description="how requests are made")] = "openai"
    base_url: Annotated[str, AfterValidator(_base_url), Field(description="up to, not with, /fine_tuning")] = OPENAI
    api_key: Annotated[
        str,
        AfterValidator(_key_reference),
        Field(description="a credential's name, a file or a variable: never the key itself"),
    ]
    organization: Annotated[Header | None, Field(description="sent as OpenAI-Organization")] = None
    project: Annotated[Header | None, Field(description="sent as OpenAI-Project")] = None
    headers: Annotated[
        dict[Annotated[str, AfterValidator(_header_name)], Header],
        Field(repr=False, description="further request headers, of gateways"),
    ] = {}
    query: Annotated[
        dict[str, str], Field(repr=False, description="further query parameters, such as Azure's api-version")
    ] = {}
    requests_per_minute: Annotated[
        float | None,
        Field(ge=0.01, le=1e6, description="a budget over all daemons; none: no limit but what the provider answers"),
    ] = None

    @model_validator(mode="after")
    def _azure_needs_its_own_url(self) -> Self:
        if self.kind != "openai" and self.base_url == OPENAI:
            raise ValueError(f"base_url is needed for kind {self.kind}")
        return self

    @property
    def emission(self) -> float | None:
        """Seconds between requests by its budget; None: no budget."""
        return 60 / self.requests_per_minute if self.requests_per_minute else None

    def request_headers(self, key_called: str = "") -> dict[str, str]:
        """Return the headers of a request, with the key that is read now. Raises SettingsError, which calls it so."""
        key = read_secret(self.api_key, key_called or f"the key of source {self.name}")
        auth = {"api-key": key} if self.kind == "azure" else {"Authorization": f"Bearer {key}"}
        named = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project}
        return {**self.headers, **{name: value for name, value in named.items() if value}, **auth}

    def is_job_id(self, text: str) -> bool:
        """Say whether this can be the id of a job: it becomes a part of a URL's path."""
        pattern = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}" if self.kind == "compatible" else r"ftjob-[A-Za-z0-9_-]{1,122}"
        return re.fullmatch(pattern, text) is not None


def _distinct(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError("two have one name" if is_like_a_key(twice) else f"two have the name {twice}")
    return sources


class Settings(BaseSettings):
    """What the daemon is told. Durations in seconds, decimals allowed."""

    heeds_environment: ClassVar[bool] = True
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", hide_input_in_errors=True, frozen=True, allow_inf_nan=False
    )

    database_url: Annotated[
        str | None,
        Field(
            repr=False,
            description="the embedded PostgreSQL in the state folder; may come as a credential `database_url`",
        ),
    ] = None
    database_pooler: Annotated[
        bool, Field(description="between us and PostgreSQL stands a pooler in transaction mode, such as pgbouncer")
    ] = False
    min_poll_seconds: Annotated[
        float, Field(ge=0.05, le=86400, description="the shortest gap between two polls of a job")
    ] = 15
    max_poll_seconds: Annotated[
        float,
        Field(
            ge=0.05,
            le=86400,
            description="the longest gap of a job that does not fail; equal to the shortest: a fixed interval",
        ),
    ] = 300
    settle_seconds: Annotated[
        float,
        Field(ge=0, le=31_536_000, description="how long a job is watched after its end, before polling of it stops"),
    ] = 86400
    assume_ended_seconds: Annotated[
        float,
        Field(
            ge=60,
            le=31_536_000,
            description="without news for so long, a job of unknown status counts as ended",
        ),
    ] = 259_200
    lease_seconds: Annotated[
        float, Field(ge=2, le=3600, description="how long a daemon may take for one poll before another takes over")
    ] = 60
    request_timeout_seconds: Annotated[
        float,
        Field(gt=0, le=600, description="for one request; a poll's deadline, three quarters of the lease, caps it"),
    ] = 10
    concurrency: Annotated[int, Field(ge=1, le=256, description="requests at once per source and process")] = 16
    page_size: Annotated[int, Field(ge=1, le=1000, description="items asked for per page")] = 100
    job_list_seconds: Annotated[float, Field(ge=0.05, le=86400, description="how often the list of jobs is read")] = 30
    discover: Annotated[bool, Field(description="track every job that a source lists")] = False
    drain_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="how long a stop may take: polls may end in half of it, then are cut short",
        ),
    ] = 5
    http_host: Annotated[str, Field(description="where the status port listens")] = "127.0.0.1"
    http_port: Annotated[
        int, Field(ge=0, le=65535, description="the status port; one in use is a warning, polling goes on")
    ] = 8787
    log_format: Annotated[Literal["console", "json"] | None, Field(description="console on a terminal, else json")] = (
        None
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="the least that is logged")
    ] = "info"
    sources: Annotated[
        tuple[Source, ...],
        AfterValidator(_distinct),
        Field(description="tables [[sources]] of checkpointd.toml; none: the one of OPENAI_…"),
    ] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_poll_seconds > self.max_poll_seconds:
            least, most = self.min_poll_seconds, self.max_poll_seconds
            raise ValueError(f"min_poll_seconds ({least:g}) is larger than max_poll_seconds ({most:g})")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Variables go over the file, whose values are the arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return (env_settings, init_settings) if cls.heeds_environment else (init_settings,)


class FixedSettings(Settings):
    """Settings that no environment changes: the demo's."""

    heeds_environment: ClassVar[bool] = False


def load(config: Path | None = None) -> Settings:
    """Read the settings from the file (an explicit one must exist), the environment and credentials.

    Raises SettingsError.
    """
    named = config or (Path(os.environ[f"{PREFIX}CONFIG"]) if os.environ.get(f"{PREFIX}CONFIG") else None)
    path = named or CONFIG
    values = _read(path, must_exist=named is not None)
    _refuse_unknown(values, path)
    if "database_url" not in values and (url := _credential("database_url")) is not None:
        values["database_url"] = url
    if by_default := values.get("sources", []) == []:
        values["sources"] = [_default_source()]
    try:
        settings = Settings(**values)
    except ValidationError as e:
        raise SettingsError(_explain(e, path, values["sources"], by_default=by_default)) from None
    if settings.database_url is not None:
        try:
            address.parse(settings.database_url)
        except address.AddressError as e:
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
    given = {field: os.environ.get(variable, "") for field, variable in _OPENAI.items()}
    return {"name": "openai", "api_key": "OPENAI_API_KEY", **{field: value for field, value in given.items() if value}}


def read_secret(name: str, what: str) -> str:
    """Read the secret that `name` names: a credential, a file (with a /) or a variable. Raises SettingsError."""
    if "/" in name:
        try:
            secret: str | None = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise SettingsError(f"{what}: {name}: {getattr(e, 'strerror', None) or 'no UTF-8 text'}") from None
    else:
        secret = _credential(name) or os.environ.get(name, "").strip()
    if not secret:
        raise SettingsError(f"{what}: there is no credential, file or variable {name}, or it is empty")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SettingsError(f"{what}: {name} holds something that cannot be a key: one word is wanted")
    return secret


def _credential(name: str) -> str | None:
    """Return the text of a credential, loaded by itself or else with a folder; None: there is none, or it is empty."""
    if not (folder := os.environ.get("CREDENTIALS_DIRECTORY")):
        return None
    for file in (name, LOADED + name):
        try:
            if text := Path(folder, file).read_text(encoding="utf-8").strip():
                return text
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as e:  # not to be taken for one that was not given
            raise SettingsError(f"the credential {name}: {getattr(e, 'strerror', None) or 'no UTF-8 text'}") from None
    return None


def _explain(error: ValidationError, path: Path, sources: object, *, by_default: bool) -> str:
    """Say what is wrong with a misspelt setting, else with the first wrong one, without its value."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, loc = first["type"], first["loc"]
    name = str(loc[-1]) if loc else ""
    message = _WORDS.get(kind, first["msg"].removeprefix("Value error, "))
    if f"{PREFIX}{name}".upper() in {variable.upper() for variable in os.environ} and len(loc) == 1:
        return f"{PREFIX}{name.upper()}: {message}"
    if by_default and name in _OPENAI:
        return f"{_OPENAI[name]}: {message}"
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
    is_name = isinstance(name, str) and re.fullmatch(_NAME, name) and not is_like_a_key(name)
    return f"source {name if is_name else number + 1}"


def _nearest(name: str, known: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0].upper() if prefix else near[0]}?" if near else ""


def _what_is_no_toml(message: str) -> str:
    """Say where TOML broke and why, not what stood there."""
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)$", message)
    if not found:
        return "no TOML: nested too deeply, or a number too long"
    where = "its end" if found[1] == "end of document" else found[1]
    why = next((f": {why}" for begins, why in _TOML.items() if re.match(begins, message)), "")
    return f"no TOML at {where}{why}"


def state_folder() -> Path:
    """Return where the embedded PostgreSQL lives: systemd's StateDirectory, or the user's state folder."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state") / "checkpointd"
    except RuntimeError:
        raise SettingsError(
            "no home folder for the embedded PostgreSQL: set HOME, or CHECKPOINTD_DATABASE_URL"
        ) from None
