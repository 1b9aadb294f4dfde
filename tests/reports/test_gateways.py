"""A provider that is reached only through a company's proxy, or without TLS within a private network."""

import json
import ssl
from pathlib import Path

import asyncpg
import pytest

from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.load import load
from support.provider import JOB, Provider, checkpoint, job, page
from support.proxies import proxy, trusted, with_tls
from support.verbs import KEY, Ended, checkpointd, environment, running, wait_for_line

PASSWORD = "hunter2-of-the-proxy"
BASIC = "Basic dXNlcjpodW50ZXIyLW9mLXRoZS1wcm94eQ=="


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """Return the TLS context of a server for `localhost`, and the certificate that its clients must trust."""
    return trusted(tmp_path)


def _environment(folder: Path, url: str, base_url: str, **keys: object) -> dict[str, str]:
    """Return the environment of a process with one source `a`, with further keys in the settings file."""
    config = folder / "checkpointd.toml"
    given = {"name": "a", "kind": "compatible", "base_url": base_url, "api_key": "THE_KEY", **keys}
    config.write_text("[[sources]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items()))
    more = {"CHECKPOINTD_CONFIG": str(config), "THE_KEY": KEY, "NO_PROXY": "*"}
    return environment(folder, url, **more)


async def _sync(env: dict[str, str]) -> Ended:
    """Track the job and poll it once."""
    assert 0 == (await checkpointd("track", JOB, env=env)).code
    return await checkpointd("sync", JOB, env=env)


def _findings(ended: Ended) -> dict[str, tuple[str, str]]:
    return {found["subject"]: (found["state"], found["message"]) for found in json.loads(ended.out)["findings"]}


# A proxy


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("with_credentials", [False, True])
@pytest.mark.parametrize("proxy_with_tls", [False, True])
@pytest.mark.parametrize("provider_with_tls", [False, True])
async def test_a_proxy_is_the_only_way_out(
    url: str,
    provider: Provider,
    sql: asyncpg.Connection,
    tmp_path: Path,
    tls: tuple[ssl.SSLContext, Path],
    with_credentials: bool,
    proxy_with_tls: bool,
    provider_with_tls: bool,
) -> None:
    """A company's proxy is the only way out: with `proxy`, all requests of the source go through it.

    The proxy sees neither the key of a provider with TLS, nor does the provider see the proxy's credentials.
    """
    provider.checkpoints[JOB] = page([checkpoint(1)])
    context, certificate = tls
    (tmp_path / "proxy").write_text(f"user:{PASSWORD}\n")
    keys = {"proxy_credentials": str(tmp_path / "proxy")} if with_credentials else {}
    async with (
        proxy(tls=context if proxy_with_tls else None, authorization=BASIC if with_credentials else "") as way_out,
        with_tls(provider.url, context) as secure_url,
    ):
        base_url = secure_url if provider_with_tls else provider.url
        env = _environment(tmp_path, url, base_url, proxy=way_out.url, **keys)
        ended = await _sync({**env, "SSL_CERT_FILE": str(certificate)})
    assert 0 == ended.code, ended.err
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert {"CONNECT" if provider_with_tls else "GET"} == {asked.method for asked in way_out.asked}
    assert {BASIC if with_credentials else None} == {
        asked.headers.get("proxy-authorization") for asked in way_out.asked
    }
    assert {f"Bearer {KEY}"} == {request.headers["Authorization"] for request in provider.requests}
    if provider_with_tls:
        assert KEY not in str(way_out.asked)
        assert {None} == {request.headers.get("Proxy-Authorization") for request in provider.requests}


async def test_a_proxy_is_named_at_start_and_in_check(
    url: str, provider: Provider, tmp_path: Path, tls: tuple[ssl.SSLContext, Path]
) -> None:
    """A proxy causes a warning in `check` and in the log at the start, without its password."""
    provider.jobs = page([job()])
    (tmp_path / "proxy").write_text(f"user:{PASSWORD}")
    async with proxy(authorization=BASIC) as way_out, with_tls(provider.url, tls[0]) as base_url:
        env = _environment(tmp_path, url, base_url, proxy=way_out.url, proxy_credentials=str(tmp_path / "proxy"))
        env["SSL_CERT_FILE"] = str(tls[1])
        ended = await checkpointd("check", "--json", env=env)
        async with running("run", env=env) as daemon:
            line = json.loads(await wait_for_line(daemon, "source.proxy"))
    found = _findings(ended)
    assert ("ok", "warn") == (found["source a"][0], found["proxy of source a"][0])
    assert way_out.url in found["proxy of source a"][1]
    assert ("warning", "a", way_out.url) == (line["level"], line["source"], line["proxy"])
    assert PASSWORD not in ended.out + ended.err + str(line)


CONNECT_ANSWERS = [
    (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy refuses to connect to localhost: HTTP 403 Forbidden"),
    (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "the proxy cannot reach localhost: HTTP 502 Bad Gateway"),
    (b"HTTP/1.1 503 No route today\r\n\r\n", "the proxy cannot reach localhost: HTTP 503 No route today"),
    (b"HTTP/1.1 407 No\r\n\r\n", "the proxy does not accept the credentials, or requires some: HTTP 407 No: check"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", "the connection through the proxy was lost: "),
]


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(("answer", "expected"), CONNECT_ANSWERS)
async def test_a_proxy_that_refuses(provider: Provider, tmp_path: Path, answer: bytes, expected: str) -> None:
    """What the proxy itself answers is reported as the proxy's answer, and not as the provider's."""
    base_url = provider.url.replace("http://127.0.0.1", "https://localhost")
    async with proxy(answer=answer) as way_out:
        env = _environment(tmp_path, "postgresql://127.0.0.1:1/nowhere", base_url, proxy=way_out.url)
        ended = await checkpointd("check", "--json", env=env)
    state, message = _findings(ended)["source a"]
    assert "fail" == state
    assert message.startswith(expected)
    assert "environment" not in message


async def test_a_proxy_that_requires_credentials_for_http(provider: Provider, tmp_path: Path) -> None:
    """A 407 to a request without TLS is the proxy's, too: the message names the setting for the credentials."""
    async with proxy(authorization=BASIC) as way_out:
        env = _environment(tmp_path, "postgresql://127.0.0.1:1/nowhere", provider.url, proxy=way_out.url)
        ended = await checkpointd("check", "--json", env=env)
    state, message = _findings(ended)["source a"]
    assert "fail" == state
    assert "the proxy does not accept the credentials, or requires some: HTTP 407" in message
    assert message.endswith("check proxy_credentials")
    assert [] == provider.requests


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_unreachable_proxy(provider: Provider, tmp_path: Path, scheme: str) -> None:
    """A proxy that cannot be reached is named in the message, and no request goes around it."""
    env = _environment(tmp_path, "postgresql://127.0.0.1:1/x", provider.url, proxy=f"{scheme}://127.0.0.1:1")
    state, message = _findings(await checkpointd("check", "--json", env=env))["source a"]
    assert ("fail", []) == (state, provider.requests)
    assert message.startswith("no connection to the proxy: ")


async def test_a_proxy_without_the_tls_of_its_address(provider: Provider, tmp_path: Path) -> None:
    """If the address of a plain proxy begins with https, the message says that TLS with the proxy failed."""
    async with proxy() as way_out:
        address = way_out.url.replace("http:", "https:")
        env = _environment(tmp_path, "postgresql://127.0.0.1:1/x", provider.url, proxy=address)
        state, message = _findings(await checkpointd("check", "--json", env=env))["source a"]
    assert "fail" == state
    assert message.startswith("no connection to the proxy: ")


@pytest.mark.slow
async def test_proxies_of_the_environment_are_not_used(url: str, provider: Provider, tmp_path: Path) -> None:
    """Variables that name a proxy change nothing, whether the source has a proxy of its own or not."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    async with proxy() as unused, proxy() as way_out:
        for keys in ({}, {"proxy": way_out.url}):
            env = _environment(tmp_path, url, provider.url, **keys)
            del env["NO_PROXY"]
            assert 0 == (await _sync({**env, **dict.fromkeys(names, unused.url)})).code
    assert ([], True) == (unused.asked, bool(way_out.asked))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("proxy = 'http://user:hunter2@proxy:3128'", "proxy: must not contain a user or a password: name the place"),
        ("proxy = 'proxy:3128'", "proxy: must be http://host:port or https://host:port"),
        ("proxy = 'socks5://proxy:1080'", "proxy: must be http://host:port or https://host:port"),
        ("proxy = 'http://proxy:3128/path'", "proxy: must be http://host:port or https://host:port"),
        ("proxy = 'http://proxy:x'", "proxy: not a valid URL"),
        ("proxy_credentials = 'PROXY'", "proxy_credentials need a proxy"),
        ("proxy = 'http://proxy:1'\nproxy_credentials = 'user:hunter2'", "proxy_credentials: must be the name of"),
    ],
)
def test_wrong_proxies(tmp_path: Path, keys: str, expected: str) -> None:
    """A wrong proxy is refused at the start, with a message that does not contain a password."""
    config = tmp_path / "checkpointd.toml"
    config.write_text(f"[[sources]]\nname = 'a'\napi_key = 'K'\n{keys}\n")
    with pytest.raises(SettingsError) as caught:
        load(config)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("content", [None, "", "a-password-without-a-user"])
async def test_wrong_credentials_of_a_proxy(tmp_path: Path, url: str, content: str | None) -> None:
    """Credentials that are missing, or that are no user and password, are named at the start, but not shown."""
    path = tmp_path / "proxy"
    if content is not None:
        path.write_text(content)
    env = _environment(tmp_path, url, "https://h.example", proxy="http://localhost:1", proxy_credentials=str(path))
    ended = await checkpointd("run", env=env)
    assert 2 == ended.code
    assert f"proxy_credentials of source a: {path}" in ended.err
    assert "a-password" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("provider_with_tls", [False, True])
async def test_credentials_of_a_proxy_that_are_replaced(
    url: str, provider: Provider, tmp_path: Path, tls: tuple[ssl.SSLContext, Path], provider_with_tls: bool
) -> None:
    """While the proxy refuses its credentials, their file is read again: new ones are used without a restart."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    credentials = tmp_path / "proxy"
    credentials.write_text("user:canary-of-last-month")
    async with proxy(authorization=BASIC) as way_out, with_tls(provider.url, tls[0]) as secure_url:
        base_url = secure_url if provider_with_tls else provider.url
        env = _environment(tmp_path, url, base_url, proxy=way_out.url, proxy_credentials=str(credentials))
        env["SSL_CERT_FILE"] = str(tls[1])
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as daemon:
            lines = await wait_for_line(daemon, "source.failing")
            for text in ("", f"user:{PASSWORD}"):
                (tmp_path / "next").write_text(text)
                (tmp_path / "next").replace(credentials)
            lines += await wait_for_line(daemon, "source.key_changed")
            lines += await wait_for_line(daemon, "poll.changed")
    assert "HTTP 407" in lines
    assert "canary" not in lines
    assert PASSWORD not in lines


# http


async def test_http_within_a_private_network(url: str, provider: Provider, tmp_path: Path) -> None:
    """A gateway of a Compose file has an address such as http://litellm:4000/v1: `allow_http` accepts it.

    It causes a warning in `check` and in the log at the start. The name is resolved by a proxy here.
    """
    provider.jobs = page([job()])
    base_url = provider.url.replace("127.0.0.1", "litellm")
    async with proxy() as names:
        env = _environment(tmp_path, url, base_url, allow_http=True, proxy=names.url)
        ended = await checkpointd("check", "--json", env=env)
        async with running("run", env=env) as daemon:
            line = json.loads(await wait_for_line(daemon, "source.unencrypted"))
    found = _findings(ended)
    assert ("ok", "warn") == (found["source a"][0], found["encryption of source a"][0])
    assert "unencrypted to litellm" in found["encryption of source a"][1]
    assert ("warning", "a", "litellm") == (line["level"], line["source"], line["host"])


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("host", ["litellm:4000", "10.0.0.5", "gateway.internal:8080", "[fd00::1]:80"])
async def test_http_must_be_allowed(tmp_path: Path, url: str, host: str) -> None:
    """Without `allow_http` such an address is refused, and the message names the setting."""
    ended = await checkpointd("check", env=_environment(tmp_path, url, f"http://{host}/v1"))
    assert 2 == ended.code
    assert "source a: base_url: must begin with https://" in ended.err
    assert "allow_http = true" in ended.err
    ended = await checkpointd("jobs", env=_environment(tmp_path, url, f"http://{host}/v1", allow_http=True))
    assert 0 == ended.code, ended.err


async def test_https_needs_no_warning(tmp_path: Path, url: str) -> None:
    """With https nothing is unencrypted, even if http would be allowed."""
    env = _environment(tmp_path, url, "https://localhost:1/v1", allow_http=True)
    assert "encryption of source a" not in _findings(await checkpointd("check", "--json", env=env))
