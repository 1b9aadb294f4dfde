"""Keys and the database's URL: where they are read from, and that no message contains them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpointd.settings.credentials import SettingsError, read_secret, state_folder
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source

CANARY = "Canary5f0e9d8c7b6a4f3e2d1c"


def key_of(reference: str) -> str:
    """Return the key that a request would carry."""
    return Source(name="a", api_key=reference).request_fields().headers["Authorization"].removeprefix("Bearer ")


def test_where_keys_are_read_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: Path) -> None:
    """A key is the text of a file, a credential or a variable, without blanks around it; a credential comes first."""
    (tmp_path / "file").write_text(" from-file\n")
    monkeypatch.setenv("THE_KEY", "from-variable ")
    assert ["from-file", "from-variable"] == [key_of(str(tmp_path / "file")), key_of("THE_KEY")]
    (credentials / "THE_KEY").write_text("from-credential\n")
    assert "from-credential" == key_of("THE_KEY")


def test_credentials_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., Settings], credentials: Path
) -> None:
    """Credentials that a unit loads as a folder are found by the names of their files; an empty one is ignored."""
    monkeypatch.setenv("THE_KEY", "from-variable")
    (credentials / "checkpointd_THE_KEY").write_text("\n")
    (credentials / "checkpointd_database_url").write_text("\n")
    assert ("from-variable", None) == (key_of("THE_KEY"), load("").database_url)
    (credentials / "checkpointd_THE_KEY").write_text("from-folder\n")
    (credentials / "checkpointd_database_url").write_text("postgresql://folder\n")
    assert ("from-folder", "postgresql://folder") == (key_of("THE_KEY"), load("").database_url)
    (credentials / "THE_KEY").write_text("by-itself")
    assert "by-itself" == key_of("THE_KEY")


def test_an_unreadable_credential(monkeypatch: pytest.MonkeyPatch, credentials: Path) -> None:
    """A credential that exists and cannot be read is an error, even if a variable has its name."""
    monkeypatch.setenv("THE_KEY", "from-variable")
    (credentials / "THE_KEY").mkdir()
    with pytest.raises(SettingsError, match=r"^the credential THE_KEY: Is a directory$"):
        key_of("THE_KEY")


def test_keys_are_read_at_each_call(tmp_path: Path) -> None:
    """After a key was changed in its file, the next call returns the new one."""
    file = tmp_path / "key"
    for key in ("one", "two"):
        file.write_text(key)
        assert key == key_of(str(file))


@pytest.mark.parametrize(
    "key", [f"{CANARY} x", f"{CANARY}\nx", f"{CANARY}\r\nX-Evil: 1", f"{CANARY}\x00", f"{CANARY}ü"]
)
def test_what_cannot_be_a_key(tmp_path: Path, key: str) -> None:
    """Text that would break the header of a request is refused, and the message does not contain it."""
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        key_of(str(file))
    expected = f"the key of source a: {file} does not contain a key: one word of printable ASCII is required"
    assert expected == str(caught.value)


def test_a_missing_key_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message about a credential, variable or file that is missing, empty or unreadable names it and its source."""
    monkeypatch.setenv("EMPTY", " ")
    (tmp_path / "odd").write_bytes(b"\xff")
    (tmp_path / "empty").write_text("\n")
    for reference, expected in {
        "GONE": "GONE is missing or empty: set this variable or credential, or name a file (/… or ./…)",
        "EMPTY": "EMPTY is missing or empty: set this variable or credential, or name a file (/… or ./…)",
        f"{tmp_path}/gone": f"{tmp_path}/gone: No such file or directory",
        f"{tmp_path}/odd": f"{tmp_path}/odd: not UTF-8 text",
        f"{tmp_path}/empty": f"{tmp_path}/empty: the file is empty",
    }.items():
        with pytest.raises(SettingsError) as caught:
            read_secret(reference, "the key of source a")
        assert f"the key of source a: {expected}" == str(caught.value)


def test_where_the_database_url_is_read_from(load: Callable[..., Settings], credentials: Path) -> None:
    """A variable overrides the file, and the file overrides a credential."""
    (credentials / "database_url").write_text("postgresql://credential\n")
    assert "postgresql://credential" == load("").database_url
    assert "postgres://file" == load("database_url = 'postgres://file'").database_url
    assert "postgresql://variable" == load("", CHECKPOINTD_DATABASE_URL="postgresql://variable").database_url


def test_a_wrong_database_url_is_named_by_its_place(load_error: Callable[..., str], credentials: Path) -> None:
    """The message about a wrong URL names the credential, the key of the file or the variable that contains it."""
    (credentials / "database_url").write_text("mysql://h\n")
    assert load_error("").startswith("the credential database_url: ")
    assert load_error("database_url = 'mysql://h'").startswith("database_url: ")
    assert load_error("", CHECKPOINTD_DATABASE_URL="mysql://h").startswith("CHECKPOINTD_DATABASE_URL: ")


def test_settings_do_not_show_secrets(load: Callable[..., Settings]) -> None:
    """The repr of the settings contains neither the password of the database nor a header of a gateway."""
    toml = f"[[sources]]\nname = 'a'\napi_key = 'THE_KEY'\nheaders = {{x = '{CANARY}'}}"
    found = load(toml, CHECKPOINTD_DATABASE_URL=f"postgresql://u:{CANARY}@h/d")
    assert CANARY not in f"{found!r} {found} {found.sources!r}"


def test_headers_and_parameters_from_credentials(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., Settings], credentials: Path, tmp_path: Path
) -> None:
    """A header or a parameter can name a credential, a file or a variable, as api_key does. Its value is a secret."""
    (credentials / "gateway").write_text(f"Bearer {CANARY}\n")
    (tmp_path / "cookie").write_text("session=1234567890; b=c")
    monkeypatch.setenv("THE_CODE", "12345678")
    monkeypatch.setenv("THE_KEY", "the-key-0123")
    toml = f"""[[sources]]
        name = "a"
        api_key = "THE_KEY"
        headers = {{ x-team = "research", x-gateway = {{ credential = "gateway" }}, cookie = {{ credential = "{tmp_path}/cookie" }} }}
        query = {{ api-version = "1", n = {{ credential = "THE_CODE" }} }}"""  # noqa: E501
    (source,) = load(toml).sources
    fields = source.request_fields()
    assert {"x-team": "research", "x-gateway": f"Bearer {CANARY}", "cookie": "session=1234567890; b=c"}.items() <= (
        fields.headers.items()
    )
    assert {"api-version": "1", "n": "12345678"} == fields.query
    assert {CANARY, f"Bearer {CANARY}", "session=1234567890; b=c", "12345678", "the-key-0123"} <= set(fields.secrets)
    assert not {"research", "1"} & set(fields.secrets)
    assert (CANARY not in repr(source), source.plain_secrets) == (True, [])
    monkeypatch.delenv("THE_CODE")
    with pytest.raises(SettingsError, match=r"^the query parameter n of source a: THE_CODE is missing or empty: "):
        source.request_fields()
    monkeypatch.setenv("THE_CODE", "caf\u00e9")
    with pytest.raises(
        SettingsError, match=r"^its query parameter n: THE_CODE does not contain its value: one line of"
    ):
        source.request_fields(names_source=False)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", "must be a text, or { credential = 'NAME' } for a secret one"),
        ("{ credential = 5 }", "must be a text, or { credential = 'NAME' } for a secret one"),
        ("{ credential = 'X', prefix = 'Bearer' }", "must be a text, or { credential = 'NAME' } for a secret one"),
        (f"{{ credential = 'sk-{CANARY}' }}", "must be the name of a credential, a variable or a file"),
        ("{ credential = 'database_url' }", "must not be the credential of the database"),
    ],
)
@pytest.mark.parametrize("table", ["headers", "query"])
def test_wrong_references(load_error: Callable[..., str], table: str, value: str, message: str) -> None:
    """A header or parameter that is neither a text nor names a credential is refused, without its value."""
    found = load_error(f"[[sources]]\nname = 'a'\napi_key = 'THE_KEY'\n{table} = {{ x = {value} }}")
    assert found.startswith(f"source a: {table}.x: {message}")
    assert CANARY not in found


def test_secrets_in_the_settings() -> None:
    """A header or parameter whose value looks like a secret is named, so that `check` can advise a credential."""
    headers, query = {"x-team": "research", "x-api-key": CANARY}, {"api-version": "1", "sig": "abcdefgh"}
    assert ["x-api-key", "sig"] == Source(name="a", api_key="K", headers=headers, query=query).plain_secrets


def test_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state folder is systemd's first one, or else a folder of the user's state folder or home."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert Path("/home/me/.local/state/checkpointd") == state_folder()
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert Path("/home/me/.local/state/checkpointd") == state_folder()
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Path("/state/checkpointd") == state_folder()
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert Path("/var/lib/one") == state_folder()
