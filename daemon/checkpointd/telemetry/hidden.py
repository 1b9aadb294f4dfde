"""The secrets that no log line may contain. A module of its own: commands import it without the logging library."""

from collections.abc import Iterable

from checkpointd.redaction import Secrets


class _Hidden:
    """The secrets that are known. More of them become known when a key or a password is replaced."""

    def __init__(self) -> None:
        self._values: dict[str, frozenset[str]] = {}
        self._secrets = Secrets(())

    def add(self, values: Iterable[str], owner: str) -> None:
        known = self._values.get(owner, frozenset())
        new = frozenset(values) if owner else known.union(values)
        if new != known:
            self._values[owner] = new
            self._secrets = Secrets(value for owned in self._values.values() for value in owned)

    def redact(self, text: str) -> str:
        return self._secrets.redact(text)


_hidden = _Hidden()


def hide(secrets: Iterable[str], owner: str = "") -> None:
    """Remove these secrets, too, from every line that is logged from now on.

    If an owner is named, they replace those that were hidden for it: otherwise short-lived keys would add up.
    """
    _hidden.add(secrets, owner)


def redact(text: str) -> str:
    """Return a text without the secrets."""
    return _hidden.redact(text)
