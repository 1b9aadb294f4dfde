"""The environment variables that set something: not the empty ones, and not those that an orchestrator injects."""

import os
import re
from typing import Final, NamedTuple

from checkpointd.settings.credentials import SettingsError, flaw

PREFIX: Final = "CHECKPOINTD_"

_INJECTED: Final = re.compile(
    rf"""{PREFIX}(?:\w+_)?
    (?: SERVICE_HOST=.* | SERVICE_PORT(?:_\w+)?=.*
      | PORT(?:_\d+_(?:TCP|UDP|SCTP))?=[a-z]+://.*
      | PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)=.*
      | NAME=/.+/.+ | ENV_\w+=.* )""",
    re.VERBOSE | re.DOTALL,
)
"""Matches the variables of a service, or of a linked container, whose name is checkpointd or begins with it.

Kubernetes injects SERVICE_HOST, SERVICE_PORT and the forms of PORT; Docker's links the forms of PORT, NAME and ENV. A
service checkpointd-http gets the name of the setting HTTP_PORT, but its value is a URL.
"""


class Variable(NamedTuple):
    """A variable that is set: its name as it was written, and its value."""

    name: str
    value: str


def variable(name: str) -> str | None:
    """Return the value of a variable, or None if it is unset or empty. Raises SettingsError for a value in quotes."""
    value = os.environ.get(name, "").strip()
    if problem := flaw(value):
        raise SettingsError(f"{name}: its value {problem}")
    return value or None


def variables() -> dict[str, Variable]:
    """Return the variables CHECKPOINTD_…, in any case, by setting. Raises SettingsError for a value in quotes."""
    return {
        name.upper().removeprefix(PREFIX).lower(): Variable(name, value)
        for name in os.environ
        if name.upper().startswith(PREFIX)
        and not _INJECTED.fullmatch(f"{name}={os.environ[name]}")
        and (value := variable(name))
    }
