"""What the settings name and do not hold: secrets, in credentials, files and variables; and where our own state is."""

import os
from pathlib import Path
from typing import Final

LOADED: Final = "checkpointd_"
"""What systemd puts before the names of a folder's files: LoadCredential=checkpointd:FOLDER (systemd.exec(5))."""


class SettingsError(Exception):
    """A setting is wrong; the text, one line, names it and says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in text))


def read_secret(name: str, what: str) -> str:
    """Read the secret that `name` names: a credential, a file (with a /) or a variable. Raises SettingsError."""
    if "/" in name:
        try:
            secret: str | None = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise SettingsError(f"{what}: {name}: {getattr(e, 'strerror', None) or 'no UTF-8 text'}") from None
    else:
        secret = credential(name) or os.environ.get(name, "").strip()
    if not secret:
        raise SettingsError(f"{what}: there is no credential, file or variable {name}, or it is empty")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SettingsError(f"{what}: {name} holds something that cannot be a key: one word is wanted")
    return secret


def credential(name: str) -> str | None:
    """Return the text of a credential, loaded by itself or else with a folder; None: there is none, or it is empty."""
    if not (folder := os.environ.get("CREDENTIALS_DIRECTORY")):
        return None
    for file in (name, LOADED + name):
        try:
            if text := Path(folder, file).read_text(encoding="utf-8").strip():
                return text
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as e:  # not to be taken for one that was not given
            raise SettingsError(f"the credential {name}: {getattr(e, 'strerror', None) or 'no UTF-8 text'}") from None
    return None


def state_folder() -> Path:
    """Return where the embedded PostgreSQL lives: systemd's StateDirectory, or the user's state folder."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state") / "checkpointd"
    except RuntimeError:
        raise SettingsError(
            "no home folder for the embedded PostgreSQL: set HOME, or CHECKPOINTD_DATABASE_URL"
        ) from None
