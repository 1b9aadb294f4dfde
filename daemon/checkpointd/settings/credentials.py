"""The secrets, which the settings refer to by name, and the folder of the embedded PostgreSQL."""

import os
import re
from pathlib import Path
from typing import Final

FOLDER_PREFIX: Final = "checkpointd_"
"""The prefix of credentials that a unit loads as a folder: LoadCredential=checkpointd:FOLDER (systemd.exec(5))."""


_QUOTES: Final = "\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"

_FLAWS: Final = {
    f"[{_QUOTES}].*|(?:\\w+://[^{_QUOTES}]*|[^:]*)[{_QUOTES}]": "is in quotes: remove them",
    r"(?:export )?(?:[A-Z][A-Z0-9_]+|\w*(?i:key|token|secret|url)) *=.*[^=].*": "begins with a name and =: remove both",
    r"(?i:bearer|authorization:)\s.*": "begins with Bearer or Authorization: write the key alone",
    r".*\\[nr]": "ends with a backslash and a letter instead of a line break: remove them",
    r"\$\(.+\)|\$?\{+.+\}+|\$\w+|<.+>": "is a placeholder that no program has replaced",
}
"""What is wrong with a key or a URL that matches the pattern. A bearer token has = at its end only (RFC 6750)."""


class SettingsError(Exception):
    """A setting is wrong. The text is one line with the setting, the problem and the remedy, without secrets."""

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in text))


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file could not be read, without its content."""
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or "cannot be read"


def flaw(text: str) -> str | None:
    """Return how a key or a URL was copied wrongly, such as with its quotes, or None."""
    return next((problem for pattern, problem in _FLAWS.items() if re.fullmatch(pattern, text, re.DOTALL)), None)


def read_secret(name: str, label: str, *, is_key: bool = True) -> str:
    """Read a secret. If `name` contains a /, it is a file, and otherwise a credential or an environment variable.

    A key is one word. Another secret may have several, such as `Bearer` before a token. Raises SettingsError, whose
    text starts with `label`.
    """
    if "/" in name:
        try:
            secret = _read(Path(name))
        except (OSError, UnicodeDecodeError) as e:
            raise SettingsError(f"{label}: {name}: {reason(e)}") from None
        if not secret:
            raise SettingsError(f"{label}: {name}: the file is empty")
    else:
        secret = credential(name) or os.environ.get(name, "").strip()
        if not secret:
            advice = "set this variable or credential, or name a file (/… or ./…)"
            raise SettingsError(f"{label}: {name} is missing or empty: {advice}")
    if is_key and (problem := flaw(secret)):
        raise SettingsError(f"{label}: the value of {name} {problem}")
    if not secret.isascii() or not secret.isprintable() or (is_key and " " in secret):
        what, form = ("a key", "one word") if is_key else ("its value", "one line")
        raise SettingsError(f"{label}: {name} does not contain {what}: {form} of printable ASCII is required")
    return secret


def credential(name: str) -> str | None:
    """Return the text of a systemd credential, or None if it is missing or empty. Raises SettingsError.

    A credential that is loaded by itself overrides one of the same name that is loaded with a folder.
    """
    if not (folder := os.environ.get("CREDENTIALS_DIRECTORY")):
        return None
    for file in (name, FOLDER_PREFIX + name):
        try:
            if text := _read(Path(folder, file)):
                return text
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as e:  # an unreadable credential must not count as a missing one
            raise SettingsError(f"the credential {name}: {reason(e)}") from None
    return None


def _read(file: Path) -> str:
    """Return the text of a file without blanks around it. Editors of Windows put a byte order mark before it."""
    return file.read_text(encoding="utf-8-sig").strip()


def state_folder() -> Path:
    """Return the folder of the embedded PostgreSQL: systemd's StateDirectory, or one in the user's state folder.

    Raises SettingsError.
    """
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state") / "checkpointd"
    except RuntimeError:
        raise SettingsError(
            "no home folder for the embedded PostgreSQL: set HOME, or CHECKPOINTD_DATABASE_URL for another database"
        ) from None
