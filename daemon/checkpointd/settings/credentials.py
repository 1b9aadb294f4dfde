"""The secrets, which the settings refer to by name, and the folder of the embedded PostgreSQL."""

import os
from pathlib import Path
from typing import Final

FOLDER_PREFIX: Final = "checkpointd_"
"""The prefix of credentials that a unit loads as a folder: LoadCredential=checkpointd:FOLDER (systemd.exec(5))."""


class SettingsError(Exception):
    """A setting is wrong. The text is one line with the setting, the problem and the remedy, without secrets."""

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in text))


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file could not be read, without its content."""
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or "cannot be read"


def read_secret(name: str, label: str) -> str:
    """Read a secret. If `name` contains a /, it is a file, and otherwise a credential or an environment variable.

    Raises SettingsError, whose text starts with `label`.
    """
    if "/" in name:
        try:
            secret = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise SettingsError(f"{label}: {name}: {reason(e)}") from None
        if not secret:
            raise SettingsError(f"{label}: {name}: the file is empty")
    else:
        secret = credential(name) or os.environ.get(name, "").strip()
        if not secret:
            advice = "set this variable or credential, or name a file (/… or ./…)"
            raise SettingsError(f"{label}: {name} is missing or empty: {advice}")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SettingsError(f"{label}: {name} does not contain a key: one word of printable ASCII is required")
    return secret


def credential(name: str) -> str | None:
    """Return the text of a systemd credential, or None if it is missing or empty. Raises SettingsError.

    A credential that is loaded by itself overrides one of the same name that is loaded with a folder.
    """
    if not (folder := os.environ.get("CREDENTIALS_DIRECTORY")):
        return None
    for file in (name, FOLDER_PREFIX + name):
        try:
            if text := Path(folder, file).read_text(encoding="utf-8").strip():
                return text
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as e:  # an unreadable credential must not count as a missing one
            raise SettingsError(f"the credential {name}: {reason(e)}") from None
    return None


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
