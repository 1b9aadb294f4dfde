"""The settings of a webhook. They have the name of the secret, and not the secret.

The URL of a webhook can be a secret itself, as Slack's are, so repr() omits it.
"""

import base64
import binascii
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator
from yarl import URL

from checkpointd.settings.credentials import SettingsError, read_secret
from checkpointd.settings.fields import Credential, key_reference, parse_address, table_name, text_or_credential

CHANGE_KINDS: Final = (
    "new", "changed", "regressed", "missing", "expired", "returned", "status", "fired", "resolved",
)  # fmt: skip
"""Kinds of changes. `fired` and `resolved` are those of every finding."""

FINDING_KINDS: Final = (
    "overfitting", "diverging", "stalled", "finished", "failed", "suspected_gap", "stale", "source_paused",
    "source_refused", "unreadable", "leaving", "shutting_down",
)  # fmt: skip
"""Kinds of findings. Each stands for the changes `fired` and `resolved` of such findings."""

MOST_SEQ: Final = 2**63 - 1
"""The largest number of a change."""

KEY_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = range(24, 65)
"""How many bytes a key may have, by the specification of Standard Webhooks."""


def _url(value: object) -> str | Credential:
    found = text_or_credential(value)
    return _address(found) if isinstance(found, str) else found


def _address(value: str) -> str:
    advice = "name the place of a secret URL, as { credential = 'NAME' }"
    return str(parse_address(value, may_be_http=False, http_is_for="this machine", instead_of_login=advice))


def _pattern(value: str) -> str:
    if not 0 < len(value) <= 128 or not value.isprintable():
        raise ValueError("each pattern must have 1 to 128 printable characters")
    return value


def _kind(value: str) -> str:
    if value not in {*CHANGE_KINDS, *FINDING_KINDS}:
        raise ValueError(f"each must be one of {', '.join((*CHANGE_KINDS, *FINDING_KINDS))}")
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]


class Webhook(BaseModel):
    """An endpoint to which changes are sent."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    name: Annotated[str, AfterValidator(table_name), Field(description="the name of the webhook in the database")]
    url: Annotated[
        Annotated[Any, PlainValidator(_url)],
        Field(repr=False, description="the address of the endpoint; a secret one names a credential"),
    ]
    secret: Annotated[
        Annotated[str, AfterValidator(key_reference)] | None,
        Field(description="the credential, file or variable that contains the secret, which begins with whsec_"),
    ] = None
    format: Annotated[
        Literal["standard", "slack"], Field(description="slack for Slack's incoming webhooks and compatible receivers")
    ] = "standard"
    events: Annotated[
        tuple[Annotated[str, AfterValidator(_kind)], ...],
        Field(min_length=1, description="the kinds of changes, or of findings, that are sent"),
    ] = ("fired", "resolved")
    sources: Annotated[
        tuple[Pattern, ...], Field(min_length=1, description="patterns; the name of the source must match one")
    ] = ("*",)
    jobs: Annotated[
        tuple[Pattern, ...], Field(min_length=1, description="patterns; the id of the job must match one")
    ] = ("*",)
    from_: Annotated[
        Literal["now"] | Annotated[int, Field(ge=1, le=MOST_SEQ)],
        Field(alias="from", description="where a new webhook begins: now, or the number (seq) of a change"),
    ] = "now"

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        if self.format == "standard" and self.secret is None:
            raise ValueError("secret is required for the format standard")
        return self

    @property
    def start(self) -> int | None:
        """The number of the first change for a new webhook, or None for what is stored from now on."""
        return None if self.from_ == "now" else self.from_

    def read_url(self) -> str:
        """Return the URL, which is read if it is a credential. Raises SettingsError."""
        if not isinstance(self.url, Credential):
            return str(self.url)
        label = f"the url of webhook {self.name}"
        try:
            return _address(read_secret(self.url.name, label))
        except ValueError as e:
            raise SettingsError(f"{label}: the value of {self.url.name} {e}") from None

    def read_key(self) -> bytes | None:
        """Return the key that signs the messages, or None without a secret. Raises SettingsError."""
        if self.secret is None:
            return None
        label = f"the secret of webhook {self.name}"
        secret = read_secret(self.secret, label)
        text = secret.removeprefix(KEY_PREFIX)
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True) if text != secret else b""
        except binascii.Error:
            key = b""
        if len(key) not in _KEY_BYTES:
            form = f"{KEY_PREFIX} and the base64 of 24 to 64 bytes"
            raise SettingsError(f"{label}: {self.secret} does not contain a secret of the form {form}")
        return key

    def secrets(self) -> list[str]:
        """Return what must not be logged: the secret, and the path of the URL. Raises SettingsError.

        A path of the settings that is one word, such as /webhook, is not secret, and occurs in many lines of the log.
        """
        path = URL(self.read_url()).raw_path_qs.strip("/")
        if path.isalpha() and not isinstance(self.url, Credential):
            path = ""
        label = f"the secret of webhook {self.name}"
        secret = [] if self.secret is None else [text := read_secret(self.secret, label), text.removeprefix(KEY_PREFIX)]
        return [*secret, *([path] if path else [])]
