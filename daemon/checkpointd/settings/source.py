"""The settings of a source, with units, bounds and descriptions.

The settings have the name of the key, and not the key. `headers` and `query` may contain secrets, so repr() omits them.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, model_validator
from yarl import URL

from checkpointd.provider.formats.presets import PRESETS, Kind
from checkpointd.redaction import secret_words, secrets_of
from checkpointd.settings.addresses import check_end, with_base_url
from checkpointd.settings.credentials import SettingsError, read_secret
from checkpointd.settings.discovery import Discovery, discovery
from checkpointd.settings.fields import Credential, key_reference, parse_address, table_name, text_or_credential
from checkpointd.settings.issued_key import IssuedKey
from checkpointd.settings.key_command import command, run_key_command

METRIC_CHARACTERS: Final = 128


def _base_url(value: str, info: ValidationInfo) -> str:
    where = "this machine, or with allow_http = true under [[sources]]"
    may_be_http = bool(info.data.get("allow_http"))
    advice = "name the key in api_key"
    url = parse_address(value, may_be_http=may_be_http, http_is_for=where, instead_of_login=advice)
    if url.query_string or url.fragment:
        raise ValueError("must not contain a query or a fragment: put parameters into the source's table `query`")
    check_end(str(url), info.data.get("kind", "compatible"))  # a wrong kind is reported before
    return str(url).rstrip("/")


def _discovery(value: object, info: ValidationInfo) -> bool | Discovery:
    return discovery(value, info.data.get("kind", "compatible"))  # a wrong kind is reported before


def _proxy(value: str) -> str:
    try:
        url = URL(value)
    except ValueError:
        raise ValueError("not a valid URL") from None
    if url.user is not None or url.password is not None:
        raise ValueError("must not contain a user or a password: name the place of both in proxy_credentials")
    if url.scheme not in {"http", "https"} or not url.host or url.path_qs != "/" or url.fragment:
        raise ValueError("must be http://host:port or https://host:port, the address of an HTTP proxy")
    return str(url.origin())


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError("the name of a header must consist of letters, digits, _ and -")
    return value


def _header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("must be one line of printable ASCII")
    return value


Header = Annotated[str, AfterValidator(_header)]


class Objective(NamedTuple):
    """By which metric the best checkpoint of a job is chosen, and the direction: `minimize` or `maximize`."""

    metric: str
    direction: str


def _objective(value: object) -> Objective:
    direction, _, metric = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if direction not in {"minimize", "maximize"} or not is_metric(metric):
        raise ValueError("must be minimize or maximize and the name of a metric, such as 'maximize train_mean_reward'")
    return Objective(metric, direction)


def is_metric(name: str) -> bool:
    """Return whether a text can be the name of a metric: 1 to 128 printable characters, without blanks around them."""
    return 0 < len(name) <= METRIC_CHARACTERS and name.isprintable() and name == name.strip()


def _header_or_credential(value: object) -> str | Credential:
    found = text_or_credential(value)
    return _header(found) if isinstance(found, str) else found


class RequestFields(NamedTuple):
    """What each request to a source carries, with all secrets in it: they are removed from every text."""

    headers: dict[str, str]
    """Including the key."""
    query: dict[str, str]
    secrets: list[str]


class Source(BaseModel):
    """An account at a provider."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True, allow_inf_nan=False)

    name: Annotated[
        str, AfterValidator(table_name), Field(description="the name of the source in the database and in commands")
    ]
    kind: Annotated[
        Kind,
        Field(description="the provider, which determines the format, the address and the header of the key"),
    ] = "openai"
    # Before base_url, whose validator reads it, as it reads the kind.
    allow_http: Annotated[
        bool, Field(description="accept http:// for another machine: the key is sent unencrypted")
    ] = False
    base_url: Annotated[
        str, AfterValidator(_base_url), Field(description="the address up to, but without, /fine_tuning")
    ]
    region: Annotated[str | None, Field(description="of kind bedrock, instead of base_url: such as us-west-2")] = None
    resource: Annotated[
        str | None, Field(description="of kind azure, instead of base_url: its name, or the URL of a project")
    ] = None
    api_key: Annotated[
        Annotated[str, AfterValidator(key_reference)] | None,
        Field(description="the credential, file or variable that contains the key, never the key itself"),
    ] = None
    api_key_command: Annotated[
        Annotated[Any, PlainValidator(command)] | None,
        Field(repr=False, description="instead of api_key: a program and its arguments that print a short-lived key"),
    ] = None
    organization: Annotated[Header | None, Field(description="sent as the header OpenAI-Organization")] = None
    project: Annotated[Header | None, Field(description="sent as the header OpenAI-Project")] = None
    headers: Annotated[
        dict[Annotated[str, AfterValidator(_header_name)], Annotated[Any, PlainValidator(_header_or_credential)]],
        Field(repr=False, description="further request headers, for gateways; a secret one names a credential"),
    ] = {}
    query: Annotated[
        dict[str, Annotated[Any, PlainValidator(text_or_credential)]],
        Field(repr=False, description="further query parameters, such as Azure's api-version; or credentials"),
    ] = {}
    proxy: Annotated[
        Annotated[str, AfterValidator(_proxy)] | None,
        Field(description="the HTTP proxy of this source; proxies of the environment are not used"),
    ] = None
    proxy_credentials: Annotated[
        Annotated[str, AfterValidator(key_reference)] | None,
        Field(description="the credential, file or variable that contains user:password for the proxy"),
    ] = None
    requests_per_minute: Annotated[
        float | None,
        Field(
            ge=0.01,
            le=1e6,
            description="the rate limit, shared by all daemons; without it, only the provider's own limits apply",
        ),
    ] = None

    discover: Annotated[
        Annotated[bool | Discovery, PlainValidator(_discovery)] | None,
        Field(description="track every job that this source lists, or none, or those that pass these filters"),
    ] = None
    objective: Annotated[
        Annotated[Any, PlainValidator(_objective)] | None,
        Field(description="by what the best checkpoint of a job is chosen, such as 'maximize train_mean_reward'"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _has_an_address(cls, values: Any) -> Any:  # noqa: ANN401  # as given, before any check
        return with_base_url(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if self.api_key is None and self.api_key_command is None:
            raise ValueError("api_key: required, but missing (or give an api_key_command)")
        if self.api_key is not None and self.api_key_command is not None:
            raise ValueError("api_key and api_key_command exclude each other: remove one of them")
        return self

    @model_validator(mode="after")
    def _has_a_proxy_for_its_credentials(self) -> Self:
        if self.proxy_credentials and not self.proxy:
            raise ValueError("proxy_credentials need a proxy: name it in proxy")
        return self

    @property
    def unencrypted_host(self) -> str | None:
        """The host that gets the key unencrypted because of `allow_http`, or None."""
        url = URL(self.base_url)
        return url.host if self.allow_http and url.scheme == "http" else None

    @property
    def request_interval(self) -> float | None:
        """Seconds between requests, or None without a rate limit."""
        return 60 / self.requests_per_minute if self.requests_per_minute else None

    @property
    def plain_secrets(self) -> list[str]:
        """The names of the headers and parameters whose values look like secrets and are in the settings themselves."""
        given = {**self.headers, **self.query}
        return [name for name, value in given.items() if isinstance(value, str) and secrets_of({name: value})]

    async def issue_key(self, *, names_source: bool = True) -> IssuedKey | None:
        """Run `api_key_command` and return the key that it prints, or None without a command.

        Raises SettingsError, whose text starts with the setting and, with `names_source`, the name of the source.
        """
        if self.api_key_command is None:
            return None
        label = f"api_key_command of source {self.name}" if names_source else "api_key_command"
        return await run_key_command(self.api_key_command, label)

    def request_fields(self, issued_key: str | None = None, *, names_source: bool = True) -> RequestFields:
        """Return what a request carries. The key and the other credentials are read at each call.

        With `api_key_command` the key is `issued_key`; without that, a request must not be sent.
        Raises SettingsError, whose text starts with the secret and, with `names_source`, the name of the source.
        """

        def label(what: str) -> str:
            return f"the {what} of source {self.name}" if names_source else f"its {what}"

        credentials: list[str] = []

        def read(values: Mapping[str, str | Credential], what: str) -> dict[str, str]:
            found = {}
            for name, value in values.items():
                if isinstance(value, Credential):
                    found[name] = read_secret(value.name, label(f"{what} {name}"), is_key=False)
                    credentials.extend([found[name], *secret_words(found[name])])
                else:
                    found[name] = value
            return found

        key = issued_key if self.api_key is None else read_secret(self.api_key, label("key"))
        preset = PRESETS[self.kind]
        name = preset.key_header if self.api_key else preset.issued_key_header or preset.key_header
        key_header = {} if key is None else {name: f"Bearer {key}" if name == "Authorization" else key}
        named = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project}
        own = read(self.headers, "header")
        headers = {
            **{name: value for name, value in preset.headers.items() if name.lower() not in map(str.lower, own)},
            **own,
            **{name: value for name, value in named.items() if value},
            **key_header,
        }
        query = {**preset.query, **read(self.query, "query parameter")}
        return RequestFields(headers, query, [*secrets_of(query, headers), *credentials])

    def read_proxy_credentials(self) -> str | None:
        """Return `user:password` for the proxy, or None without credentials. Raises SettingsError."""
        if self.proxy_credentials is None:
            return None
        label = f"proxy_credentials of source {self.name}"
        credentials = read_secret(self.proxy_credentials, label)
        if ":" not in credentials:
            raise SettingsError(f"{label}: {self.proxy_credentials} does not contain user:password")
        return credentials
