"""The secrets that no log line may contain. A module of its own: commands import it without the logging library."""

from collections.abc import Iterable

from checkpointd.redaction import Secrets


class _Hidden:
    """The secrets that are known. More of them become known when a key or a password is replaced."""

    def __init__(self) -> None:
        self._values: frozenset[str] = frozenset()
        self._secrets = Secrets(())

    def add(self, values: Iterable[str]) -> None:
        if new := set(values) - self._values:
            self._values |= new
            self._secrets = Secrets(self._values)

    def redact(self, text: str) -> str:
        return self._secrets.redact(text)


_hidden = _Hidden()


def hide(secrets: Iterable[str]) -> None:
    """Remove these secrets, too, from every line that is logged from now on."""
    _hidden.add(secrets)


def redact(text: str) -> str:
    """Return a text without the secrets."""
    return _hidden.redact(text)
