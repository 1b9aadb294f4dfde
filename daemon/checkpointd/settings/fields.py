"""What the settings of sources and webhooks have in common: names, addresses, and the places of secrets."""

import re
from typing import Final, NamedTuple

from yarl import URL

from checkpointd.redaction import looks_like_key
from checkpointd.settings.credentials import flaw

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


class Credential(NamedTuple):
    """The place of a secret value: a credential, a file or a variable, as for a key."""

    name: str


def table_name(value: str) -> str:
    """Return the name of a source or a webhook. Raises ValueError if it is not valid."""
    if not re.fullmatch(NAME, value):
        raise ValueError("must be 1 to 63 letters, digits, dots, _ and -, and begin with a letter or a digit")
    return value


def key_reference(value: str) -> str:
    """Return the place of a secret. Raises ValueError if it is not a place, or if it is the secret itself."""
    if value == "database_url":
        raise ValueError("must not be the credential of the database, which would be sent to the provider")
    is_path = re.fullmatch(r"\.{0,2}/[^\0]*", value)
    is_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,127}", value) and not looks_like_key(value)
    if not is_path and not is_name:
        raise ValueError("must be the name of a credential, a variable or a file (/… or ./…), never the key itself")
    return value


def text_or_credential(value: object) -> str | Credential:
    """Return a text, or the place of a secret one. Raises ValueError."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"credential"} and isinstance(value["credential"], str):
        return Credential(key_reference(value["credential"]))
    raise ValueError("must be a text, or { credential = 'NAME' } for a secret one")


def parse_address(value: str, *, may_be_http: bool, http_is_for: str, instead_of_login: str) -> URL:
    """Return an address with https, or http if it is allowed or for this machine. Raises ValueError.

    Two parts of errors are given: `http_is_for`, which addresses may have http, and `instead_of_login`, where secrets
    belong.
    """
    if problem := flaw(value):
        raise ValueError(f"the value {problem}")
    try:
        url = URL(value)
    except ValueError:
        raise ValueError("not a valid URL") from None
    if url.user is not None or url.password is not None:
        raise ValueError(f"must not contain a user or a password: {instead_of_login}")
    is_loopback = url.host in {"localhost", "::1"} or re.fullmatch(r"127\.\d+\.\d+\.\d+", url.host or "")
    if not url.host or (url.scheme != "https" and not (url.scheme == "http" and (is_loopback or may_be_http))):
        raise ValueError(f"must begin with https:// and a host (http:// is accepted for {http_is_for})")
    return url
