"""All settings of the daemon, with units, bounds and descriptions. source.py and webhook.py have those of tables.

`database_url` may contain a password, so repr() omits it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, PrivateAttr, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from checkpointd.redaction import looks_like_key
from checkpointd.settings.discovery import Discovery
from checkpointd.settings.environment import variables
from checkpointd.settings.source import Objective, Source
from checkpointd.settings.webhook import Webhook

Table = TypeVar("Table", Source, Webhook)


def _host(value: str) -> str:
    try:
        is_host = re.fullmatch(r"[\w.:%-]+", value) is not None and value.encode("idna") != b""
    except UnicodeError:  # a label is empty or too long
        is_host = False
    if not is_host:
        raise ValueError("must be an IP address without brackets, or a host name; 0.0.0.0 means all addresses")
    return value


def _distinct(tables: tuple[Table, ...]) -> tuple[Table, ...]:
    names = [table.name for table in tables]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        kind = f"{type(tables[0]).__name__.lower()}s"
        shared = "the same name" if looks_like_key(repeated) else f"the name {repeated}"
        raise ValueError(f"two {kind} have {shared}: rename one of them")
    return tables


class Settings(BaseSettings):
    """The settings of the daemon. Durations are in seconds; decimals are allowed."""

    reads_environment: ClassVar[bool] = True
    model_config = SettingsConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True, allow_inf_nan=False)

    database_url: Annotated[
        str | None,
        Field(
            repr=False,
            description="the database; without it, an embedded PostgreSQL. It can be a credential named database_url",
        ),
    ] = None
    database_pooler: Annotated[
        bool,
        Field(description="a pooler in transaction mode, such as pgbouncer, is between checkpointd and PostgreSQL"),
    ] = False
    min_poll_seconds: Annotated[
        float, Field(ge=0.05, le=86400, description="the shortest time between two polls of a job")
    ] = 15
    max_poll_seconds: Annotated[
        float,
        Field(
            ge=0.05,
            le=86400,
            description="the longest time between two polls of a job that does not fail. "
            "Equal to the shortest, it makes a fixed interval",
        ),
    ] = 300
    settle_seconds: Annotated[
        float,
        Field(ge=0, le=31_536_000, description="how long an ended job is still polled before equal listings seal it"),
    ] = 86400
    assume_ended_seconds: Annotated[
        float,
        Field(
            ge=60,
            le=31_536_000,
            description="a job of unknown status counts as ended when nothing new was seen for this long",
        ),
    ] = 259_200
    lease_seconds: Annotated[
        float,
        Field(
            ge=2,
            le=3600,
            description="how long a daemon may take for one poll before another daemon can take the job over",
        ),
    ] = 60
    request_timeout_seconds: Annotated[
        float,
        Field(
            gt=0, le=600, description="the timeout of one request; a poll as a whole has three quarters of its lease"
        ),
    ] = 10
    concurrency: Annotated[
        int, Field(ge=1, le=256, description="the most requests at the same time, for each source and process")
    ] = 16
    page_size: Annotated[int, Field(ge=1, le=1000, description="the number of items requested per page")] = 100
    job_list_seconds: Annotated[
        float, Field(ge=0.05, le=86400, description="the time between two readings of a source's job list")
    ] = 30
    events_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86400,
            description="the time between two readings of the events of a running job, which have the metrics of each "
            "training step; 0 reads none",
        ),
    ] = 300
    discover: Annotated[
        bool, Field(description="track every job that a source lists, unless the source says otherwise")
    ] = False
    max_new_jobs_per_day: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="the most new jobs per day and source that discovery tracks; unused ones add up for ten days",
        ),
    ] = 10_000
    drain_seconds: Annotated[
        float,
        Field(
            ge=0, le=600, description="how long a stop may take. Polls may run on for half of it and are then cancelled"
        ),
    ] = 5
    http_host: Annotated[
        str, AfterValidator(_host), Field(description="the address on which the status port listens")
    ] = "127.0.0.1"
    http_port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="the number of the status port; 0 selects a free one. "
            "If it is in use, the daemon logs a warning and polls without it",
        ),
    ] = 8787
    log_format: Annotated[
        Literal["console", "json"] | None, Field(description="the default is console on a terminal, otherwise json")
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="the lowest level that is logged")
    ] = "info"
    sources: Annotated[
        tuple[Source, ...],
        AfterValidator(_distinct),
        Field(description="the tables [[sources]] of the file; without any, one source from the variables OPENAI_…"),
    ] = ()
    webhooks: Annotated[
        tuple[Webhook, ...],
        AfterValidator(_distinct),
        Field(description="the tables [[webhooks]] of the file: endpoints to which changes are sent"),
    ] = ()

    _config: Path | None = PrivateAttr(default=None)

    @classmethod
    def from_file(cls, config: Path | None, values: Mapping[str, Any]) -> Self:
        """Return the settings with the values of the file `config`, or of the usual one if it is None."""
        settings = cls(**values)
        settings._config = config
        return settings

    @property
    def config(self) -> Path | None:
        """The file that was named for these settings. With it they can be loaded again."""
        return self._config

    @property
    def source_kinds(self) -> dict[str, str]:
        """The kind of each source, by its name."""
        return {source.name: source.kind for source in self.sources}

    def objectives(self, keys: Mapping[str, int]) -> dict[int, Objective | None]:
        """Return the objective of each source, by the key of its row. `keys` are by name."""
        return {keys[source.name]: source.objective for source in self.sources}

    def discovery(self, source: Source) -> bool | Discovery:
        """Return which of the jobs that a source lists are tracked: all, none, or those that pass filters."""
        return self.discover if source.discover is None else source.discover

    @model_validator(mode="after")
    def _gaps_are_ordered(self) -> Self:
        if self.min_poll_seconds > self.max_poll_seconds:
            least, most = self.min_poll_seconds, self.max_poll_seconds
            raise ValueError(f"min_poll_seconds ({least:g}) must not be larger than max_poll_seconds ({most:g})")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let variables override the values of the file, which are the arguments of the class."""
        del env_settings, dotenv_settings, file_secret_settings
        if not cls.reads_environment:
            return (init_settings,)
        given = {name: found.value for name, found in variables().items() if name in cls.model_fields}
        return InitSettingsSource(settings_cls, given), init_settings


class FixedSettings(Settings):
    """Settings that ignore the environment, for the demo."""

    reads_environment: ClassVar[bool] = False
