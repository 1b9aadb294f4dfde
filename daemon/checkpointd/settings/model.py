"""Every setting and source, with unit, bound and description. Secrets are named here, never held."""

import re
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from yarl import URL

from checkpointd.redaction import looks_like_key
from checkpointd.settings.credentials import read_secret

PREFIX: Final = "CHECKPOINTD_"
OPENAI: Final = "https://api.openai.com/v1"
SOURCE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


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
    a_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,127}", value) and not looks_like_key(value)
    if not a_file and not a_name:
        raise ValueError("the name of a credential, a variable or a file (/… or ./…) is needed, never the key itself")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(SOURCE_NAME, value):
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
    def request_interval(self) -> float | None:
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
        raise ValueError("two have one name" if looks_like_key(twice) else f"two have the name {twice}")
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
