"""Settings: what goes over what, what is refused and in which words, and that no word is a secret."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpointd.settings import load as loading
from checkpointd.settings.credentials import SettingsError, read_secret
from checkpointd.settings.model import OPENAI, Settings, Source

CANARY = "Canary5f0e9d8c7b6a4f3e2d1c"
MINUTE = "source a: requests_per_minute"
KINDS = "kind: Input should be 'openai', 'azure' or 'compatible'"
NAMED = '[[sources]]\nname = "a"\napi_key = "THE_KEY"\n'

Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what this machine's own environment says."""
    for name in os.environ:
        if name.upper().startswith(("CHECKPOINTD_", "OPENAI_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setattr(loading, "CONFIG", tmp_path / "none.toml")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Return what loads this file with these variables."""

    def loaded(toml: str | bytes | None = None, **variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if toml is None:
            return loading.load()
        file = tmp_path / "checkpointd.toml"
        file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
        return loading.load(file)

    return loaded


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return systemd's folder of credentials."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def refusal(load: Load, toml: str | bytes | None = None, **variables: str) -> str:
    """Return the words of the error, without the file's name; they are one line."""
    with pytest.raises(SettingsError) as caught:
        load(toml, **variables)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    return text.rpartition("checkpointd.toml: ")[2]


# What goes over what


def test_nothing_is_needed(load: Load) -> None:
    """Without file and variables the defaults hold, and one source is named openai."""
    found = load()
    assert (None, 15, 300, 60, 10, 16, 100) == (
        found.database_url, found.min_poll_seconds, found.max_poll_seconds, found.lease_seconds,
        found.request_timeout_seconds, found.concurrency, found.page_size,
    )  # fmt: skip
    assert (30, False, 5, "127.0.0.1", 8787, None, "info") == (
        found.job_list_seconds, found.discover, found.drain_seconds, found.http_host, found.http_port,
        found.log_format, found.log_level,
    )  # fmt: skip
    assert (Source(name="openai", api_key="OPENAI_API_KEY"),) == found.sources


def test_variables_go_over_the_file(load: Load) -> None:
    """A variable wins over the file, the file over the default; variables may be of any case."""
    toml = "min_poll_seconds = 20\nmax_poll_seconds = 40.5\nlease_seconds = 30\n"
    found = load(toml, CHECKPOINTD_MIN_POLL_SECONDS="2.5", checkpointd_lease_seconds="7", CHECKPOINTD_DISCOVER="yes")
    assert (2.5, 40.5, 7, True, 16) == (
        found.min_poll_seconds, found.max_poll_seconds, found.lease_seconds, found.discover, found.concurrency
    )  # fmt: skip


def test_the_file_can_be_named(load: Load, tmp_path: Path) -> None:
    """CHECKPOINTD_CONFIG names the file; an argument goes over it; the standard file is read without either."""
    for name, page_size in (("none", 1), ("variable", 2)):
        (tmp_path / f"{name}.toml").write_text(f"page_size = {page_size}")
    assert 1 == load().page_size
    assert 2 == load(CHECKPOINTD_CONFIG=str(tmp_path / "variable.toml")).page_size
    assert 3 == load("page_size = 3").page_size


@pytest.mark.parametrize("named", ["argument", "variable"])
def test_a_named_file_must_exist(load: Load, tmp_path: Path, named: str) -> None:
    """A file that was asked for and is not there is an error; the standard one may be missing."""
    gone = tmp_path / "gone.toml"
    with pytest.raises(SettingsError, match=r"gone\.toml: no such file"):
        loading.load(gone) if named == "argument" else load(CHECKPOINTD_CONFIG=str(gone))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Whatever keeps a file from being read is said in one line."""
    with pytest.raises(SettingsError, match="Is a directory"):
        loading.load(tmp_path)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("page_size =", "its end"),
        ("a = 1\napi_key = THE_KEY", "line 2, column 11"),
        ("[[sources]", "line 1, column 10"),
    ],
)
def test_what_is_no_toml(load: Load, toml: str, expected: str) -> None:
    """Where a file is no TOML, the place is told, and what is wanted."""
    assert f"no TOML at {expected}: wanted are lines such as name = 1, name = 'text' and [[sources]]" == refusal(
        load, toml
    )


def test_a_file_that_is_too_much(load: Load) -> None:
    """What the parser cannot take is told without a place."""
    for toml in ("a = " + "[" * 5000, "a = " + "1" * 5000):
        assert "no TOML: nested too deeply, or a number too long" == refusal(load, toml)


# Misspelt


@pytest.mark.parametrize(
    ("toml", "variables", "expected"),
    [
        ("", {"CHECKPOINTD_HTTPORT": "1"}, "CHECKPOINTD_HTTPORT: no such setting; did you mean CHECKPOINTD_HTTP_PORT?"),
        ("", {"checkpointd_discove": "1"}, "checkpointd_discove: no such setting; did you mean CHECKPOINTD_DISCOVER?"),
        ("", {"CHECKPOINTD_QQQ": "1"}, "CHECKPOINTD_QQQ: no such setting"),
        ("", {"CHECKPOINTD_SOURCES": "[]"}, "CHECKPOINTD_SOURCES: no such setting"),
        ("databse_url = 1", {}, "databse_url: no such setting; did you mean database_url?"),
        ("lease_second = 1\npage_size = 0", {}, "lease_second: no such setting; did you mean lease_seconds?"),
        ('[[source]]\nname = "a"', {}, "source: no such setting; did you mean sources?"),
        ("_env_file = 'x'", {}, "_env_file: no such setting"),
        ("__pydantic_self__ = 1", {}, "__pydantic_self__: no such setting"),
        ('"a\\nb" = 1', {}, "a b: no such setting"),
        (NAMED + "base_ur = 'x'", {}, "source a: base_ur: no such setting; did you mean base_url?"),
        ('[[sources]]\nname = "a"\napikey = "K"', {}, "source a: apikey: no such setting; did you mean api_key?"),
        (NAMED + "organisation = 'x'", {}, "source a: organisation: no such setting; did you mean organization?"),
    ],
)  # fmt: skip
def test_a_misspelt_setting_names_the_nearest(load: Load, toml: str, variables: dict[str, str], expected: str) -> None:
    """A misspelt variable, key or key of a source is one line with the right one, whatever else is wrong."""
    assert expected == refusal(load, toml, **variables)


# Bounds


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("min_poll_seconds", 0.05, 300),
        ("max_poll_seconds", 15, 86400),
        ("lease_seconds", 2, 3600),
        ("request_timeout_seconds", 0.001, 600),
        ("concurrency", 1, 256),
        ("page_size", 1, 1000),
        ("job_list_seconds", 0.05, 86400),
        ("drain_seconds", 0, 600),
        ("http_port", 0, 65535),
    ],
)
def test_bounds(load: Load, name: str, least: float, most: float) -> None:
    """The bounds themselves are allowed; beyond them, and what is no number, is refused by the setting's name.

    Of what is no number it is said that it is none, and not that it is beyond a bound.
    """
    variable = f"CHECKPOINTD_{name.upper()}"
    assert [least, most] == [getattr(load(f"{name} = {value}"), name) for value in (least, most)]
    for wrong in (-1, most + 1 if name != "min_poll_seconds" else 86401, "nan", "inf", '"soon"', "[]"):
        assert refusal(load, f"{name} = {wrong}").startswith(f"{name}: Input should be ")
    assert re.search("number|integer", refusal(load, **{variable: "nan"}))
    for wrong in ("-1", "", "nan", "1e99", "0x10", "1 s"):
        assert refusal(load, **{variable: wrong}).startswith(f"{variable}: Input should be ")


def test_the_least_gap_is_not_above_the_longest(load: Load) -> None:
    """Gaps the wrong way round are refused; equal ones are a fixed interval."""
    expected = "min_poll_seconds (301) is larger than max_poll_seconds (300)"
    assert expected == refusal(load, "min_poll_seconds = 301")
    assert 300 == load("min_poll_seconds = 300").min_poll_seconds


@pytest.mark.parametrize("value", ["INFO", "trace", ""])
def test_words_are_those_that_are_known(load: Load, value: str) -> None:
    """A setting of several words names them all where it is given another."""
    expected = "CHECKPOINTD_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"
    assert expected == refusal(load, CHECKPOINTD_LOG_LEVEL=value)


# Sources


def test_the_variables_of_openais_clients(load: Load) -> None:
    """With no source configured, what OpenAI's own clients read makes one; an empty variable is none."""
    found = load(OPENAI_BASE_URL="https://gateway.example/v1/", OPENAI_ORG_ID="org-1", OPENAI_PROJECT_ID="")
    expected = Source(
        name="openai", api_key="OPENAI_API_KEY", base_url="https://gateway.example/v1", organization="org-1"
    )
    assert (expected,) == found.sources == load("sources = []").sources
    assert (Source(name="a", api_key="THE_KEY"),) == load(NAMED).sources


@pytest.mark.parametrize("toml", [None, "page_size = 5"])
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OPENAI_BASE_URL", "http://gateway.example", "https:// is needed (http:// only for this machine itself)"),
        ("OPENAI_ORG_ID", "org\r", "one line of printable ASCII is needed"),
        ("OPENAI_PROJECT_ID", "ü", "one line of printable ASCII is needed"),
    ],
)
def test_a_wrong_variable_of_openais_clients_is_named(
    load: Load, toml: str | None, variable: str, value: str, expected: str
) -> None:
    """What is wrong with such a variable is said by its own name, with a file or without."""
    assert f"{variable}: {expected}" == refusal(load, toml, **{variable: value})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://h.example/v1", "https://h.example/v1"),
        ("https://h.example/v1//", "https://h.example/v1"),
        ("https://h.example:8443", "https://h.example:8443"),
        ("HTTPS://H.example/v1?", "https://h.example/v1"),
        ("https://h.example/v1#", "https://h.example/v1"),
        ("https://h.example/a b", "https://h.example/a%20b"),
        ("http://localhost:1/v1", "http://localhost:1/v1"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:1/v1", "http://[::1]:1/v1"),
    ],
)
def test_base_urls(given: str, expected: str) -> None:
    """A URL is https, or http on this machine; what comes out can be followed by a path, whatever was written."""
    assert expected == Source(name="a", api_key="K", kind="compatible", base_url=given).base_url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://h.example", "https:// is needed (http:// only for this machine itself)"),
        ("http://localhost.example", "https:// is needed (http:// only for this machine itself)"),
        ("http://127.0.0.1.example", "https:// is needed (http:// only for this machine itself)"),
        ("http://0.0.0.0", "https:// is needed (http:// only for this machine itself)"),
        ("http://10.0.0.1", "https:// is needed (http:// only for this machine itself)"),
        ("file:///etc/passwd", "https:// is needed (http:// only for this machine itself)"),
        ("ftp://localhost", "https:// is needed (http:// only for this machine itself)"),
        ("//h.example", "https:// is needed (http:// only for this machine itself)"),
        ("h.example/v1", "https:// is needed (http:// only for this machine itself)"),
        ("https://", "https:// is needed (http:// only for this machine itself)"),
        ("https://[::1", "no URL"),
        ("https://h.example:port", "no URL"),
        ("https://u:p@h.example", "a URL with a password in it; name the key in api_key"),
        ("https://u@h.example", "a URL with a password in it; name the key in api_key"),
        ("https://:@h.example", "a URL with a password in it; name the key in api_key"),
        ("https://h.example?api-version=1", "no query here; it goes into the source's table `query`"),
        ("https://h.example#x", "no query here; it goes into the source's table `query`"),
    ],
)
def test_wrong_base_urls(load: Load, given: str, expected: str) -> None:
    """A URL that would show the key to others, or that no path can follow, is refused."""
    assert f"source a: base_url: {expected}" == refusal(load, NAMED + f"base_url = '{given}'")


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (NAMED + NAMED, "sources: two have the name a"),
        (NAMED.replace('"a"', f'"{CANARY}"') * 2, "sources: two have one name"),
        (NAMED + "kind = 'azure'", "source a: base_url is needed for kind azure"),
        (NAMED + f"kind = 'compatible'\nbase_url = '{OPENAI}/'", "source a: base_url is needed for kind compatible"),
        (NAMED + "kind = 'mistral'", f"source a: {KINDS}"),
        (NAMED + "requests_per_minute = 0", f"{MINUTE}: Input should be greater than or equal to 0.01"),
        (NAMED + 'headers = {x = "a\\nb"}', "source a: headers.x: one line of printable ASCII is needed"),
        (NAMED + "headers = {x = 5}", "source a: headers.x: Input should be a valid string"),
        (NAMED + "headers = 'x'", "source a: headers: a table is wanted, such as {name = 'value'}"),
        (
            NAMED + "headers = {'a b' = 'x'}",
            "source a: headers.a b: letters, digits, _ and - are wanted in a header's name",
        ),
        (NAMED + NAMED.replace('"a"', '"b"') + "kind = 5", f"source b: {KINDS}"),
        (NAMED + NAMED.replace('name = "a"', ""), "source 2: name: it is missing"),
        (NAMED.replace('"a"', "5"), "source 1: name: Input should be a valid string"),
        (NAMED.replace('"a"', f"'{CANARY}'") + "kind = 5", f"source 1: {KINDS}"),
        ("[[sources]]\nname = 'a'", "source a: api_key: it is missing"),
        ("[sources]\nname = 'a'", "sources: each is a table of its own, under a line [[sources]]"),
        ("sources = ['a']", "sources: each is a table of its own, under a line [[sources]]"),
    ],
)  # fmt: skip
def test_wrong_sources(load: Load, toml: str, expected: str) -> None:
    """Each thing that can be wrong with a source is said in its place."""
    assert expected == refusal(load, toml)


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\\nb", "a\\n", "ü", "a/b", "a" * 64])
def test_wrong_names(load: Load, name: str) -> None:
    """A source's name is short and plain: that is said in words."""
    expected = "source 1: name: letters, digits, dots, _ and - are wanted, at most 63, a letter or a digit first"
    assert expected == refusal(load, f'[[sources]]\nname = "{name}"\napi_key = "K"')


def test_a_budget_has_a_rhythm() -> None:
    """Requests a minute are seconds between requests; without a budget there is none."""
    assert 0.5 == Source(name="a", api_key="K", requests_per_minute=120).request_interval
    assert None is Source(name="a", api_key="K").request_interval


# Keys and passwords


def key_of(reference: str) -> str:
    """Return the key that a request would carry."""
    return Source(name="a", api_key=reference).request_headers()["Authorization"].removeprefix("Bearer ")


def test_where_keys_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: Path) -> None:
    """A key is a credential's, a file's or a variable's text, without blanks around; a credential goes first."""
    (tmp_path / "file").write_text(" from-file\n")
    monkeypatch.setenv("THE_KEY", "from-variable ")
    assert ["from-file", "from-variable"] == [key_of(str(tmp_path / "file")), key_of("THE_KEY")]
    (credentials / "THE_KEY").write_text("from-credential\n")
    assert "from-credential" == key_of("THE_KEY")


def test_credentials_of_a_folder(monkeypatch: pytest.MonkeyPatch, load: Load, credentials: Path) -> None:
    """Credentials that the unit loads with their folder are found by their files' names; one without text is none."""
    monkeypatch.setenv("THE_KEY", "from-variable")
    (credentials / "checkpointd_THE_KEY").write_text("\n")
    (credentials / "checkpointd_database_url").write_text("\n")
    assert ("from-variable", None) == (key_of("THE_KEY"), load("").database_url)
    (credentials / "checkpointd_THE_KEY").write_text("from-folder\n")
    (credentials / "checkpointd_database_url").write_text("postgresql://folder\n")
    assert ("from-folder", "postgresql://folder") == (key_of("THE_KEY"), load("").database_url)
    (credentials / "THE_KEY").write_text("by-itself")
    assert "by-itself" == key_of("THE_KEY")


def test_keys_are_read_anew(tmp_path: Path) -> None:
    """A key that changes in its file is the new one at the next reading."""
    file = tmp_path / "key"
    for key in ("one", "two"):
        file.write_text(key)
        assert key == key_of(str(file))


@pytest.mark.parametrize(
    "key",
    [
        f"sk-{CANARY}", f"sk_{CANARY}", f"sk-proj-{CANARY}-x", CANARY, CANARY.lower(), f"{CANARY}/abc+def==",
        f"abc{CANARY}/def/x", f"gsk_{CANARY}", f"eyJ{CANARY}.eyJ.x", f"{CANARY} ", f" {CANARY}", f"Bearer {CANARY}", "",
    ],
)  # fmt: skip
def test_a_key_itself_is_refused(load: Load, key: str) -> None:
    """A key where its place should be named is refused and not printed."""
    expected = "the name of a credential, a variable or a file (/… or ./…) is needed, never the key itself"
    assert f"source a: api_key: {expected}" == refusal(load, f'[[sources]]\nname = "a"\napi_key = "{key}"')


@pytest.mark.parametrize(
    "reference",
    ["OPENAI_API_KEY", "key", "api.key", "AZURE_OPENAI_KEY_2", "/run/keys/0a1b2c3d4e5f60718293a4b5", "./k", "../k"],
)  # fmt: skip
def test_references(reference: str) -> None:
    """Names of variables, credentials and files are no keys."""
    assert reference == Source(name="a", api_key=reference).api_key


@pytest.mark.parametrize(
    "key", [f"{CANARY} x", f"{CANARY}\nx", f"{CANARY}\r\nX-Evil: 1", f"{CANARY}\x00", f"{CANARY}ü"]
)
def test_what_cannot_be_a_key(tmp_path: Path, key: str) -> None:
    """What would break a request's header is refused and not printed."""
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        key_of(str(file))
    assert f"the key of source a: {file} holds something that cannot be a key: one word is wanted" == str(caught.value)


def test_a_missing_key_says_where_it_was_sought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A credential, variable or file that is not there, empty or unreadable, is named with its source."""
    monkeypatch.setenv("EMPTY", " ")
    (tmp_path / "odd").write_bytes(b"\xff")
    for reference, expected in {
        "GONE": "there is no credential, file or variable GONE, or it is empty",
        "EMPTY": "there is no credential, file or variable EMPTY, or it is empty",
        f"{tmp_path}/gone": f"{tmp_path}/gone: No such file or directory",
        f"{tmp_path}/odd": f"{tmp_path}/odd: no UTF-8 text",
    }.items():
        with pytest.raises(SettingsError) as caught:
            read_secret(reference, "the key of source a")
        assert f"the key of source a: {expected}" == str(caught.value)


def test_where_the_database_url_comes_from(load: Load, credentials: Path) -> None:
    """A variable goes over the file, the file over a credential."""
    (credentials / "database_url").write_text("postgresql://credential\n")
    assert "postgresql://credential" == load("").database_url
    assert "postgres://file" == load("database_url = 'postgres://file'").database_url
    assert "postgresql://variable" == load("", CHECKPOINTD_DATABASE_URL="postgresql://variable").database_url


def test_settings_do_not_show_secrets(load: Load) -> None:
    """Neither the database's password nor a gateway's header is in the settings' repr."""
    found = load(NAMED + f"headers = {{x = '{CANARY}'}}", CHECKPOINTD_DATABASE_URL=f"postgresql://u:{CANARY}@h/d")
    assert CANARY not in f"{found!r} {found} {found.sources!r}"


C = CANARY
BROKEN: list[tuple[str | bytes | None, dict[str, str]]] = [
    # the database
    (None, {"CHECKPOINTD_DATABASE_URL": C}),
    (None, {"CHECKPOINTD_DATABASE_URL": f"mysql://u:{C}@h"}),
    (None, {"CHECKPOINTD_DATABASE_URL": f" postgresql://u:{C}@h"}),
    (f"database_url = '{C}'", {}),
    (f"database_url = ['{C}']", {}),
    (f"database_urll = 'postgresql://u:{C}@h'", {}),
    (None, {"CHECKPOINTD_DATABASE_URLL": f"postgresql://u:{C}@h"}),
    # the wrong place
    *((None, {f"CHECKPOINTD_{name.upper()}": C}) for name in Settings.model_fields if name != "http_host"),
    *((f"{name} = '{C}'", {}) for name in Settings.model_fields if name != "http_host"),
    *((f"{name} = {{a = '{C}'}}", {}) for name in Settings.model_fields),
    *((NAMED.replace("THE_KEY", "K") + f"{name} = ['{C}']", {}) for name in Source.model_fields
      if name not in {"name", "api_key"}),
    (None, {"CHECKPOINTD_SOURCES": f'[{{"name": "a", "api_key": "{C}"}}]'}),
    (None, {"CHECKPOINTD_SOURCES": f"{{{C}"}),
    (None, {"CHECKPOINTD_API_KEY": C}),
    (f"api_key = '{C}'", {}),
    (f"sources = ['{C}']", {}),
    (f"[[sources]]\nname = '{C} x'\napi_key = 'K'", {}),
    (f"[[sources]]\nname = 'a'\napi_key = ['{C}']", {}),
    (f"[[sources]]\nname = 'a'\napi_key = '{C}'", {}),
    (f"[[sources]]\nname = 'a'\napi_key = 'sk-{C}'", {}),
    (f"[[sources]]\nname = 'a'\napikey = '{C}'", {}),
    (f"[[sources]]\nname = 'a'\nkey = 'sk-{C}'", {}),
    (f"[[sources]]\napi_key = '{C}/x'", {}),
    (NAMED + f"base_url = 'https://{C}@h.example'", {}),
    (NAMED + f"base_url = 'https://u:{C}@h.example'", {}),
    (NAMED + f"base_url = 'https://h.example:{C}'", {}),
    (NAMED + f"base_url = 'https://h.example?key={C}'", {}),
    (NAMED + f"base_url = 'http://{C}'", {}),
    (NAMED + f'headers = {{Authorization = "{C}\\n"}}', {}),
    (NAMED + f"headers = {{Authorization = ['{C}']}}", {}),
    (NAMED + f"query = {{key = ['{C}']}}", {}),
    (None, {"OPENAI_BASE_URL": f"https://u:{C}@h.example"}),
    (None, {"OPENAI_ORG_ID": f"{C}\n"}),
    # no TOML
    (f"api_key = {C}", {}),
    (f"api_key = '{C}", {}),
    (f"{C}", {}),
    (f"a = '{C}'\na = '{C}'", {}),
    (f"['(at {C})'.x]\n['(at {C})'.x]", {}),
    (f"# {C}\na = " + "[" * 5000, {}),
    (f"# {C}\na = " + "1" * 5000, {}),
    (b"\xff" + C.encode(), {}),
    (f'"""{C}""" = 1', {}),
]  # fmt: skip


@pytest.mark.parametrize(("toml", "variables"), BROKEN)
def test_no_error_tells_a_secret(load: Load, toml: str | bytes | None, variables: dict[str, str]) -> None:
    """However a configuration is broken around a secret: one line, and the secret is not in it."""
    with pytest.raises(SettingsError) as caught:
        load(toml, THE_KEY="K", **variables)
    assert str(caught.value).isprintable()
    assert CANARY not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# Job ids


@pytest.mark.parametrize("kind", ["openai", "azure", "compatible"])
@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "..", "ftjob-x/../../y", "ftjob-x\n", "\nftjob-x", "ftjob-x ", "ftjob x", "ftjob-\0", "ftjob-ü",
     "ftjob-\u0661", "ftjob-x?a=b", "ftjob-x#y", "ftjob-%2e", "ftjob-x;y", "-x", "_x", "ftjob-" + "x" * 123,
     "ftjob-'; drop table jobs"],
)  # fmt: skip
def test_what_is_no_job_id(kind: Any, text: str) -> None:
    """What could leave its place in a URL is nobody's job id."""
    source = Source(name="a", api_key="K", kind=kind, base_url="https://h.example")
    assert not source.is_job_id(text)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("ftjob-abc_123-X", ["openai", "azure", "compatible"]),
        ("ftjob-" + "x" * 122, ["openai", "azure", "compatible"]),
        ("0a1b2c3d-4e5f", ["compatible"]),
        ("ftjob-", ["compatible"]),
        ("a" * 128, ["compatible"]),
    ],
)
def test_job_ids(text: str, kinds: list[str]) -> None:
    """OpenAI's and Azure's ids begin with ftjob-; others' are what they are."""
    every: list[Any] = ["openai", "azure", "compatible"]
    sources = [Source(name="a", api_key="K", kind=kind, base_url="https://h.example") for kind in every]
    assert kinds == [source.kind for source in sources if source.is_job_id(text)]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:canary/ret@h/db",
        "postgresql://u:canary#x@h/db",
        "postgresql://u:canary?x@h/db",
        "postgresql://u:12/canary@h/db",
        "postgresql://u:canary@h:xx/db",
        "postgresql://u:canary@h:99999/db",
        "postgresql://u:canary@[::1/db",
        "postgresql://u:canary@h/db?sslmode=frob",
        "postgresql://u:can@ary@h/db",
        "postgresql://u:canary@h/db?sslmode",
        "postgresql://u:canary@h/db?sslrootcert=/no/such/file",
        "postgresql://u:canary@h1,h2/db?target_session_attrs=standby",
        "postgresql://u:canary@h1,,h2/db",
        "postgresql://u:canary@h1,h2/db?host=h3&port=1,2,3",
        "postgresql:///db?service=canary",
    ],
)
def test_broken_database_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database URL that cannot be one is a settings error of one line, without a word of it."""
    monkeypatch.setenv("CHECKPOINTD_DATABASE_URL", url)
    with pytest.raises(SettingsError, match=r"^CHECKPOINTD_DATABASE_URL: ") as caught:
        loading.load()
    assert "canary" not in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/db",
        "postgres://u:p%2Fq@h:5433/db?sslmode=verify-full",
        "postgresql://u@h1:5432,h2:5433/db?target_session_attrs=read-write",
        "postgresql://postgres@/checkpointd?host=/run/postgresql&port=5432",
        "postgresql://u@[::1]:5432/db",
    ],
)
def test_database_urls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One host or several, a socket's folder, IPv6 and an encoded password are taken as they are."""
    monkeypatch.setenv("CHECKPOINTD_DATABASE_URL", url)
    assert url == loading.load().database_url
