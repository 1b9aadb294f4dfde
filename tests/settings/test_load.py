"""Loading the settings: what overrides what, and one line without secrets for everything that can be wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpointd.settings import load as loading
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source

CANARY = "Canary5f0e9d8c7b6a4f3e2d1c"
SOURCE = '[[sources]]\nname = "a"\napi_key = "THE_KEY"\n'

Load = Callable[..., Settings]
LoadError = Callable[..., str]


def test_nothing_is_required(load: Load) -> None:
    """Without a file and variables the defaults apply, and there is one source, named openai."""
    found = load()
    assert found.database_url is None
    assert (15, 300, 60, 10) == (
        found.min_poll_seconds,
        found.max_poll_seconds,
        found.lease_seconds,
        found.request_timeout_seconds,
    )
    assert (16, 100, 30, False, 5) == (
        found.concurrency,
        found.page_size,
        found.job_list_seconds,
        found.discover,
        found.drain_seconds,
    )
    assert ("127.0.0.1", 8787, None, "info") == (
        found.http_host,
        found.http_port,
        found.log_format,
        found.log_level,
    )
    assert (Source(name="openai", api_key="OPENAI_API_KEY"),) == found.sources


def test_variables_override_the_file(load: Load) -> None:
    """A variable overrides the file, and the file overrides the default. The case of a variable's name is ignored."""
    toml = "min_poll_seconds = 20\nmax_poll_seconds = 40.5\nlease_seconds = 30\n"
    found = load(toml, CHECKPOINTD_MIN_POLL_SECONDS="2.5", checkpointd_lease_seconds="7", CHECKPOINTD_DISCOVER="yes")
    assert (2.5, 40.5, 7) == (found.min_poll_seconds, found.max_poll_seconds, found.lease_seconds)
    assert (True, 16) == (found.discover, found.concurrency)


def test_the_file_can_be_named(load: Load, tmp_path: Path) -> None:
    """The file is the argument, or else that of CHECKPOINTD_CONFIG, or else the standard one."""
    for name, page_size in (("none", 1), ("variable", 2)):
        (tmp_path / f"{name}.toml").write_text(f"page_size = {page_size}")
    assert 1 == load().page_size
    assert 2 == load(CHECKPOINTD_CONFIG=str(tmp_path / "variable.toml")).page_size
    assert 3 == load("page_size = 3").page_size


@pytest.mark.parametrize("named", ["argument", "variable"])
def test_a_named_file_must_exist(load: Load, tmp_path: Path, named: str) -> None:
    """A file that was named and does not exist is an error; only the standard one may be missing."""
    gone = tmp_path / "gone.toml"
    with pytest.raises(SettingsError, match=r"gone\.toml: no such file"):
        loading.load(gone) if named == "argument" else load(CHECKPOINTD_CONFIG=str(gone))


def test_a_file_that_cannot_be_read(load_error: LoadError, tmp_path: Path) -> None:
    """Every reason why a file cannot be read is reported in one line."""
    with pytest.raises(SettingsError, match=r"Is a directory$"):
        loading.load(tmp_path)
    assert "not UTF-8 text" == load_error(b"\xff")


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ("page_size =", "the end of the file"),
        ("a = 1\napi_key = THE_KEY", "line 2, column 11"),
        ("[[sources]", "line 1, column 10"),
    ],
)
def test_invalid_toml(load_error: LoadError, toml: str, place: str) -> None:
    """The message about invalid TOML has the place, and shows what valid lines look like."""
    advice = "write lines such as name = 1, name = 'text' and [[sources]]"
    assert f"not valid TOML at {place}: {advice}" == load_error(toml)


@pytest.mark.parametrize("toml", ["a = " + "[" * 5000, "a = " + "1" * 5000], ids=["nesting", "digits"])
def test_toml_beyond_the_parser(load_error: LoadError, toml: str) -> None:
    """What the parser cannot process is reported without a place."""
    assert "not valid TOML: nested too deeply, or a number with too many digits" == load_error(toml)


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
        (SOURCE + "base_ur = 'x'", {}, "source a: base_ur: no such setting; did you mean base_url?"),
        ('[[sources]]\nname = "a"\napikey = "K"', {}, "source a: apikey: no such setting; did you mean api_key?"),
        (SOURCE + "organisation = 'x'", {}, "source a: organisation: no such setting; did you mean organization?"),
    ],
)
def test_a_misspelt_setting(load_error: LoadError, toml: str, variables: dict[str, str], expected: str) -> None:
    """The message about a misspelt variable or key suggests the nearest one, whatever else is wrong."""
    assert expected == load_error(toml, **variables)


def test_openais_variables_make_a_source(load: Load) -> None:
    """Without a configured source, the variables of OpenAI's own clients make one; an empty variable is ignored."""
    found = load(OPENAI_BASE_URL="https://gateway.example/v1/", OPENAI_ORG_ID="org-1", OPENAI_PROJECT_ID="")
    expected = Source(
        name="openai", api_key="OPENAI_API_KEY", base_url="https://gateway.example/v1", organization="org-1"
    )
    assert (expected,) == found.sources == load("sources = []").sources
    assert (Source(name="a", api_key="THE_KEY"),) == load(SOURCE).sources


@pytest.mark.parametrize("toml", [None, "page_size = 5"])
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        (
            "OPENAI_BASE_URL",
            "http://gateway.example",
            (
                "must begin with https:// and a host "
                "(http:// is accepted for this machine, or with allow_http = true under [[sources]])"
            ),
        ),
        ("OPENAI_ORG_ID", "org\rx", "must be one line of printable ASCII"),
        ("OPENAI_PROJECT_ID", "ü", "must be one line of printable ASCII"),
    ],
)
def test_a_wrong_variable_of_openais_clients(
    load_error: LoadError, toml: str | None, variable: str, value: str, expected: str
) -> None:
    """The message about such a variable has the variable's own name, with a file or without."""
    assert f"{variable}: {expected}" == load_error(toml, **{variable: value})


SECRETS: list[tuple[str | bytes | None, dict[str, str]]] = [
    # in the URL of the database
    (None, {"CHECKPOINTD_DATABASE_URL": CANARY}),
    (None, {"CHECKPOINTD_DATABASE_URL": f"mysql://u:{CANARY}@h"}),
    (None, {"CHECKPOINTD_DATABASE_URL": f"x postgresql://u:{CANARY}@h"}),
    (f"database_url = '{CANARY}'", {}),
    (f"database_url = ['{CANARY}']", {}),
    (f"database_urll = 'postgresql://u:{CANARY}@h'", {}),
    (None, {"CHECKPOINTD_DATABASE_URLL": f"postgresql://u:{CANARY}@h"}),
    # in the wrong place
    *((None, {f"CHECKPOINTD_{name.upper()}": CANARY}) for name in Settings.model_fields if name != "http_host"),
    *((f"{name} = '{CANARY}'", {}) for name in Settings.model_fields if name != "http_host"),
    *((f"{name} = {{a = '{CANARY}'}}", {}) for name in Settings.model_fields),
    *(
        (f"[[sources]]\nname = 'a'\napi_key = 'K'\n{name} = ['{CANARY}']", {})
        for name in Source.model_fields
        if name not in {"name", "api_key"}
    ),
    (None, {"CHECKPOINTD_SOURCES": f'[{{"name": "a", "api_key": "{CANARY}"}}]'}),
    (None, {"CHECKPOINTD_SOURCES": f"{{{CANARY}"}),
    (None, {"CHECKPOINTD_API_KEY": CANARY}),
    (f"api_key = '{CANARY}'", {}),
    (f"sources = ['{CANARY}']", {}),
    (f"[[sources]]\nname = '{CANARY} x'\napi_key = 'K'", {}),
    (f"[[sources]]\nname = 'a'\napi_key = ['{CANARY}']", {}),
    (f"[[sources]]\nname = 'a'\napi_key = '{CANARY}'", {}),
    (f"[[sources]]\nname = 'a'\napi_key = 'sk-{CANARY}'", {}),
    (f"[[sources]]\nname = 'a'\napikey = '{CANARY}'", {}),
    (f"[[sources]]\nname = 'a'\nkey = 'sk-{CANARY}'", {}),
    (f"[[sources]]\napi_key = '{CANARY}/x'", {}),
    (SOURCE + f"base_url = 'https://{CANARY}@h.example'", {}),
    (SOURCE + f"base_url = 'https://u:{CANARY}@h.example'", {}),
    (SOURCE + f"base_url = 'https://h.example:{CANARY}'", {}),
    (SOURCE + f"base_url = 'https://h.example?key={CANARY}'", {}),
    (SOURCE + f"base_url = 'http://{CANARY}'", {}),
    (SOURCE + f'headers = {{Authorization = "{CANARY}\\n"}}', {}),
    (SOURCE + f"headers = {{Authorization = ['{CANARY}']}}", {}),
    (SOURCE + f"query = {{key = ['{CANARY}']}}", {}),
    (None, {"OPENAI_BASE_URL": f"https://u:{CANARY}@h.example"}),
    (None, {"OPENAI_ORG_ID": f"{CANARY}\nx"}),
    # in invalid TOML
    (f"api_key = {CANARY}", {}),
    (f"api_key = '{CANARY}", {}),
    (f"{CANARY}", {}),
    (f"a = '{CANARY}'\na = '{CANARY}'", {}),
    (f"['(at {CANARY})'.x]\n['(at {CANARY})'.x]", {}),
    (f"# {CANARY}\na = " + "[" * 5000, {}),
    (f"# {CANARY}\na = " + "1" * 5000, {}),
    (b"\xff" + CANARY.encode(), {}),
    (f'"""{CANARY}""" = 1', {}),
]


@pytest.mark.parametrize(("toml", "variables"), SECRETS)
def test_no_message_contains_a_secret(load: Load, toml: str | bytes | None, variables: dict[str, str]) -> None:
    """However settings are wrong around a secret, the message is one line that does not contain it."""
    with pytest.raises(SettingsError) as caught:
        load(toml, THE_KEY="K", **variables)
    assert str(caught.value).isprintable()
    assert CANARY not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


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
def test_a_wrong_database_url(load: Load, url: str) -> None:
    """A wrong database URL is a settings error of one line that contains no part of the URL."""
    with pytest.raises(SettingsError, match=r"^CHECKPOINTD_DATABASE_URL: ") as caught:
        load(CHECKPOINTD_DATABASE_URL=url)
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
def test_database_urls(load: Load, url: str) -> None:
    """One host or several, the folder of a socket, IPv6 and an encoded password are accepted unchanged."""
    assert url == load(CHECKPOINTD_DATABASE_URL=url).database_url
