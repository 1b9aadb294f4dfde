"""Fixtures of the tests of settings: load a file with variables and credentials, or get the error of a wrong one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpointd.settings import load as loading
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of this machine: variables, credentials and the standard file."""
    for name in os.environ:
        if name.upper().startswith(("CHECKPOINTD_", "OPENAI_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setattr(loading, "CONFIG", tmp_path / "none.toml")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    """Return a function that loads a settings file with this text, or the standard one, with these variables."""

    def load_text(toml: str | bytes | None = None, **variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if toml is None:
            return loading.load()
        file = tmp_path / "checkpointd.toml"
        file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
        return loading.load(file)

    return load_text


@pytest.fixture
def load_error(load: Callable[..., Settings]) -> Callable[..., str]:
    """Return a function that loads wrong settings, and returns the error's one line, without the path of the file."""

    def error_of(toml: str | bytes | None = None, **variables: str) -> str:
        with pytest.raises(SettingsError) as caught:
            load(toml, **variables)
        text = str(caught.value)
        assert text.isprintable(), "one line"
        return text.rpartition("checkpointd.toml: ")[2]

    return error_of


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of systemd's credentials."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder
