"""The bounds of settings, and what sources, URLs, headers, references to keys and job ids may be."""

import re
from collections.abc import Callable

import pytest

from checkpointd.provider.formats.presets import PRESETS
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source

CANARY = "Canary5f0e9d8c7b6a4f3e2d1c"
SOURCE = '[[sources]]\nname = "a"\napi_key = "THE_KEY"\n'
SOURCE_B = SOURCE.replace('"a"', '"b"')
WRONG_KIND = (
    "kind: must be 'openai', 'azure', 'bedrock', 'nebius', 'compatible', 'coreweave', 'together', 'tinker' or 'foundry'"
)
NOT_SECURE = (
    "must begin with https:// and a host "
    "(http:// is accepted for this machine, or with allow_http = true under [[sources]])"
)
NOT_AN_OBJECTIVE = "must be minimize or maximize and the name of a metric, such as 'maximize train_mean_reward'"
HAS_USER = "must not contain a user or a password: name the key in api_key"
HAS_QUERY = "must not contain a query or a fragment: put parameters into the source's table `query`"
ONE_TABLE_EACH = "sources: write each source as a table of its own, under a line [[sources]]"

Load = Callable[..., Settings]
LoadError = Callable[..., str]


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
def test_bounds(load: Load, load_error: LoadError, name: str, least: float, most: float) -> None:
    """The bounds themselves are accepted. What is beyond them or not a number is refused by the setting's name.

    The message about what is not a number says so, and does not mention the bounds.
    """
    variable = f"CHECKPOINTD_{name.upper()}"
    assert [least, most] == [getattr(load(f"{name} = {value}"), name) for value in (least, most)]
    for wrong in (-1, most + 1 if name != "min_poll_seconds" else 86401, "nan", "inf", '"soon"', "[]"):
        assert load_error(f"{name} = {wrong}").startswith(f"{name}: must be ")
    assert re.search("number|integer", load_error(**{variable: "nan"}))
    for wrong in ("-1", "nan", "1e99", "0x10", "1 s"):
        assert load_error(**{variable: wrong}).startswith(f"{variable}: must be ")


def test_the_shortest_gap_is_not_above_the_longest(load: Load, load_error: LoadError) -> None:
    """A shortest poll gap above the longest is refused; equal ones make a fixed interval."""
    expected = "min_poll_seconds (301) must not be larger than max_poll_seconds (300)"
    assert expected == load_error("min_poll_seconds = 301")
    assert 300 == load("min_poll_seconds = 300").min_poll_seconds


@pytest.mark.parametrize("value", ["INFO", "trace", "-"])
def test_a_choice_of_words(load_error: LoadError, value: str) -> None:
    """The message about a wrong word lists the possible ones."""
    expected = "CHECKPOINTD_LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error'"
    assert expected == load_error(CHECKPOINTD_LOG_LEVEL=value)


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
    """A base URL is https, or http on this machine, and is normalized so that a path can be appended."""
    assert expected == Source(name="a", api_key="K", kind="compatible", base_url=given).base_url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://h.example", NOT_SECURE),
        ("http://localhost.example", NOT_SECURE),
        ("http://127.0.0.1.example", NOT_SECURE),
        ("http://0.0.0.0", NOT_SECURE),
        ("http://10.0.0.1", NOT_SECURE),
        ("file:///etc/passwd", NOT_SECURE),
        ("ftp://localhost", NOT_SECURE),
        ("//h.example", NOT_SECURE),
        ("h.example/v1", NOT_SECURE),
        ("https://", NOT_SECURE),
        ("https://[::1", "not a valid URL"),
        ("https://h.example:port", "not a valid URL"),
        ("https://u:p@h.example", HAS_USER),
        ("https://u@h.example", HAS_USER),
        ("https://:@h.example", HAS_USER),
        ("https://h.example?api-version=1", HAS_QUERY),
        ("https://h.example#x", HAS_QUERY),
    ],
)
def test_wrong_base_urls(load_error: LoadError, given: str, expected: str) -> None:
    """A base URL that would send the key unencrypted, or to which no path can be appended, is refused."""
    assert f"source a: base_url: {expected}" == load_error(SOURCE + f"base_url = '{given}'")


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (SOURCE + SOURCE, "sources: two sources have the name a: rename one of them"),
        (SOURCE.replace('"a"', f'"{CANARY}"') * 2, "sources: two sources have the same name: rename one of them"),
        (SOURCE + "kind = 'azure'", "source a: base_url is required for kind azure, or resource"),
        (SOURCE + "kind = 'bedrock'", "source a: base_url is required for kind bedrock, or region"),
        (
            SOURCE + f"kind = 'compatible'\nbase_url = '{PRESETS['openai'].base_url}/'",
            "source a: base_url is required for kind compatible",
        ),
        (SOURCE + "region = 'eu-west-1'", "source a: region does not apply to kind openai"),
        (SOURCE + "kind = 'azure'\nregion = 'eu-west-1'", "source a: region does not apply to kind azure"),
        (
            SOURCE + "kind = 'bedrock'\nregion = 'eu'\nbase_url = 'https://h.example'",
            "source a: region has no effect beside base_url: remove one of them",
        ),
        (SOURCE + "kind = 'bedrock'\nregion = 'h.example/x'", "source a: region must consist of letters, digits and -"),
        (
            SOURCE + "kind = 'azure'\nresource = 'http://h.example'",
            "source a: resource must consist of letters, digits and -, or the URL of a project (https://…)",
        ),
        (SOURCE + "kind = 'azure'\nresource = 'https://h.example?x=1'", f"source a: base_url: {HAS_QUERY}"),
        (SOURCE + "kind = 'mistral'", f"source a: {WRONG_KIND}"),
        (
            SOURCE + "requests_per_minute = 0",
            "source a: requests_per_minute: must be greater than or equal to 0.01",
        ),
        (SOURCE + "objective = 'reward'", f"source a: objective: {NOT_AN_OBJECTIVE}"),
        (SOURCE + "objective = 'maximise reward'", f"source a: objective: {NOT_AN_OBJECTIVE}"),
        (SOURCE + "objective = 'maximize '", f"source a: objective: {NOT_AN_OBJECTIVE}"),
        (SOURCE + f"objective = 'maximize {'x' * 129}'", f"source a: objective: {NOT_AN_OBJECTIVE}"),
        (SOURCE + "objective = ['maximize', 'reward']", f"source a: objective: {NOT_AN_OBJECTIVE}"),
        (SOURCE + 'headers = {x = "a\\nb"}', "source a: headers.x: must be one line of printable ASCII"),
        (
            SOURCE + "headers = {x = 5}",
            "source a: headers.x: must be a text, or { credential = 'NAME' } for a secret one",
        ),
        (SOURCE + "headers = 'x'", "source a: headers: must be a table, such as {name = 'value'}"),
        (
            SOURCE + "headers = {'a b' = 'x'}",
            "source a: headers.a b: the name of a header must consist of letters, digits, _ and -",
        ),
        (SOURCE + SOURCE_B + "kind = 5", f"source b: {WRONG_KIND}"),
        (SOURCE + SOURCE_B.replace('name = "b"', ""), "source 2: name: required, but missing"),
        (SOURCE.replace('"a"', "5"), "source 1: name: must be a valid string"),
        (SOURCE.replace('"a"', f"'{CANARY}'") + "kind = 5", f"source 1: {WRONG_KIND}"),
        ("[[sources]]\nname = 'a'", "source a: api_key: required, but missing (or give an api_key_command)"),
        ("[sources]\nname = 'a'", ONE_TABLE_EACH),
        ("sources = ['a']", ONE_TABLE_EACH),
    ],
)
def test_wrong_sources(load_error: LoadError, toml: str, expected: str) -> None:
    """The message about a wrong source names the source and the key."""
    assert expected == load_error(toml)


@pytest.mark.parametrize(
    ("toml", "base_url", "headers"),
    [
        ("", "https://api.openai.com/v1", {"Authorization": "Bearer k"}),
        ("kind = 'azure'\nresource = 'acme'", "https://acme.openai.azure.com/openai/v1", {"api-key": "k"}),
        (
            "kind = 'azure'\nresource = 'https://acme.services.ai.azure.com/api/projects/p/'",
            "https://acme.services.ai.azure.com/api/projects/p/openai/v1",
            {"api-key": "k"},
        ),
        (
            "kind = 'bedrock'\nregion = 'us-west-2'",
            "https://bedrock-mantle.us-west-2.api.aws/v1",
            {"Authorization": "Bearer k"},
        ),
        ("kind = 'nebius'", "https://api.tokenfactory.nebius.com/v1", {"Authorization": "Bearer k"}),
        ("kind = 'nebius'\nbase_url = 'https://h.example/v1'", "https://h.example/v1", {"Authorization": "Bearer k"}),
    ],
)
def test_addresses_and_keys_of_kinds(
    load: Load, monkeypatch: pytest.MonkeyPatch, toml: str, base_url: str, headers: dict[str, str]
) -> None:
    """Each kind has its address, with a region or a resource where it needs one, and its header for the key."""
    monkeypatch.setenv("THE_KEY", "k")
    (source,) = load(SOURCE + toml).sources
    assert (base_url, headers) == (source.base_url, source.request_fields().headers)


def test_what_a_preview_requires(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Foundry gets the header and the parameter that its preview requires, or those of the settings instead."""
    monkeypatch.setenv("THE_KEY", "k")
    toml = "kind = 'foundry'\nbase_url = 'https://acme.services.ai.azure.com/api/projects/p'\n"
    (source,) = load(SOURCE + toml).sources
    headers = {"Foundry-Features": "FineTuningSessions=V1Preview", "api-key": "k"}
    assert (headers, {"api-version": "v1"}) == source.request_fields()[:2]
    more = "headers = { foundry-features = 'FineTuningSessions=V2' }\nquery = { api-version = 'v2', a = 'b' }\n"
    (source,) = load(SOURCE + toml + more).sources
    headers = {"foundry-features": "FineTuningSessions=V2", "api-key": "k"}
    assert (headers, {"api-version": "v2", "a": "b"}) == source.request_fields()[:2]


def test_objectives(load: Load) -> None:
    """The objective of a source is a direction and the name of any metric, or none."""
    settings = load(SOURCE + "objective = 'maximize val/mean reward'\n" + SOURCE_B)
    assert {7: ("val/mean reward", "maximize"), 8: None} == settings.objectives({"a": 7, "b": 8})


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\\nb", "a\\n", "ü", "a/b", "a" * 64])
def test_wrong_names(load_error: LoadError, name: str) -> None:
    """The name of a source is short and plain."""
    expected = "must be 1 to 63 letters, digits, dots, _ and -, and begin with a letter or a digit"
    assert f"source 1: name: {expected}" == load_error(f'[[sources]]\nname = "{name}"\napi_key = "K"')


def test_request_interval() -> None:
    """The interval between requests follows from the rate limit; without a rate limit it is None."""
    assert 0.5 == Source(name="a", api_key="K", requests_per_minute=120).request_interval
    assert None is Source(name="a", api_key="K").request_interval


@pytest.mark.parametrize(
    "key",
    [
        f"sk-{CANARY}",
        f"sk_{CANARY}",
        f"sk-proj-{CANARY}-x",
        CANARY,
        CANARY.lower(),
        f"{CANARY}/abc+def==",
        f"abc{CANARY}/def/x",
        f"gsk_{CANARY}",
        f"eyJ{CANARY}.eyJ.x",
        f"{CANARY} ",
        f" {CANARY}",
        f"Bearer {CANARY}",
        "",
    ],
)
def test_a_key_itself_is_refused(load_error: LoadError, key: str) -> None:
    """A key in the place of a reference to a key is refused, and the message does not contain it."""
    expected = "must be the name of a credential, a variable or a file (/… or ./…), never the key itself"
    assert f"source a: api_key: {expected}" == load_error(f'[[sources]]\nname = "a"\napi_key = "{key}"')


def test_the_databases_credential_is_no_key(load_error: LoadError) -> None:
    """The credential that holds the database's URL is refused as a key, because a provider would receive it."""
    expected = "must not be the credential of the database, which would be sent to the provider"
    assert f"source a: api_key: {expected}" == load_error(SOURCE.replace("THE_KEY", "database_url"))


@pytest.mark.parametrize(
    "reference",
    ["OPENAI_API_KEY", "key", "api.key", "AZURE_OPENAI_KEY_2", "/run/keys/0a1b2c3d4e5f60718293a4b5", "./k", "../k"],
)
def test_references_to_keys(reference: str) -> None:
    """Names of variables and credentials, and paths of files, are accepted as references."""
    assert reference == Source(name="a", api_key=reference).api_key


def test_every_setting_is_described() -> None:
    """Each setting and each key of a source has a description."""
    fields = [*Settings.model_fields.items(), *Source.model_fields.items()]
    assert [] == [name for name, field in fields if not field.description]
