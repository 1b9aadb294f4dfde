"""The examples of config/README.md work: a daemon with each of them polls all its sources, with the right secrets.

They are used as written. Only what lies outside of a test is replaced: the addresses, the folders of secrets and of a
program. The settings of each kind of source are run by tests/polling/test_providers.py.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import asyncpg
import pytest
from aiohttp import encode_basic_auth, web

from support.documents import Document
from support.provider import JOB, Provider, checkpoint, job, page
from support.proxies import proxy
from support.verbs import environment, running
from support.waiting import eventually

OFTEN = {
    "CHECKPOINTD_DISCOVER": "true",
    "CHECKPOINTD_MIN_POLL_SECONDS": "0.1",
    "CHECKPOINTD_MAX_POLL_SECONDS": "0.2",
    "CHECKPOINTD_JOB_LIST_SECONDS": "0.2",
}
NOVEMBER = 1_793_491_200
"""2026-11-01, from which on the example of discovery chooses jobs."""
CHOSEN = job(model="gpt-4.1-mini", metadata={"team": "research"}, created_at=NOVEMBER)
OTHER = job("ftjob-other", model="gpt-4.1-mini", metadata={"team": "support"}, created_at=NOVEMBER)
PROGRAMS = {
    "az": """test "$*" = "account get-access-token --resource https://cognitiveservices.azure.com" &&
        echo '{"accessToken": "secret-of-az", "expiresOn": "2099-01-01 00:00:00.000000", "tokenType": "Bearer"}'""",
    "gcloud": """test "$*" = "config config-helper --format=json" && echo '{"configuration": {}, "credential":
        {"access_token": "secret-of-gcloud", "token_expiry": "2099-01-01T00:00:00Z"}}'""",
    "python": f'PYTHONPATH=$(dirname "$0") exec {sys.executable} "$@"',
}
BASIC = encode_basic_auth("somebody", "secret-of-proxy")
LIBRARY = "def provide_token():\n    return 'secret-of-bedrock'\n"


class Sent(NamedTuple):
    """What the requests of a source have: headers, and parameters of the query."""

    headers: Mapping[str, str]
    query: Mapping[str, str] = MappingProxyType({})

    def is_in(self, request: web.Request) -> bool:
        """Return whether a request has all of them."""
        query = self.query.items() <= request.query.items()
        return query and all(request.headers.get(name) == value for name, value in self.headers.items())


def _bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


EXAMPLES = {
    "Settings": {"openai": Sent(_bearer("secret-OPENAI_API_KEY"))},
    "Discovery": {"openai": Sent(_bearer("secret-OPENAI_API_KEY"))},
    "Short-lived keys": {
        "azure": Sent(_bearer("secret-of-az")),
        "google": Sent(_bearer("secret-of-gcloud")),
        "aws": Sent(_bearer("secret-of-bedrock")),
    },
    "Other secrets": {
        "gateway": Sent(
            {**_bearer("secret-provider_key"), "x-team": "research", "cf-aig-authorization": "secret-gateway_token"},
            {"code": "secret-function_code"},
        )
    },
    "Examples": {
        "azure": Sent({"api-key": "secret-azure_key"}),
        "azure-legacy": Sent({"api-key": "secret-azure_key"}, {"api-version": "2024-10-21"}),
        "gateway": Sent({**_bearer("secret-gateway_key"), "x-team": "research"}),
        "litellm": Sent(_bearer("secret-litellm_key")),
        "behind-a-proxy": Sent(_bearer("secret-OPENAI_API_KEY")),
    },
}
"""The sources of each section, and what each one's requests have."""


def _replaced(text: str, folder: Path, url: str, api: str, proxy: str) -> str:
    """Return the settings with other addresses and folders. A source without an address gets one."""
    text = text.replace("/etc/secrets/", f"{folder}/secrets/").replace("/opt/bedrock/bin/", f"{folder}/bin/")
    for name, value in {"database_url": url, "base_url": api, "proxy": proxy}.items():
        text = re.sub(rf'^{name} = ".*"$', f'{name} = "{value}"', text, flags=re.MULTILINE)
    head, *sources = text.split("[[sources]]\n")
    addressed = [source if "base_url = " in source else f'base_url = "{api}"\n{source}' for source in sources]
    return "[[sources]]\n".join([head, *addressed])


def _write_secrets(folder: Path, text: str) -> None:
    """Write the secrets that the settings name as credentials and files, and the programs that print keys."""
    for name in ("credentials", "secrets", "bin"):
        (folder / name).mkdir()
    for name in set(re.findall(r'(?:api_key|credential) = "(\w+)"', text)) - {"OPENAI_API_KEY"}:
        (folder / "credentials" / name).write_text(f"secret-{name}\n")
    (folder / "secrets" / "function_code").write_text("secret-function_code\n")
    (folder / "secrets" / "proxy").write_text("somebody:secret-of-proxy\n")
    for name, script in PROGRAMS.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o700)
    (folder / "bin" / "aws_bedrock_token_generator.py").write_text(LIBRARY)


@pytest.mark.parametrize("section", EXAMPLES)
async def test_the_example_works(
    section: str, url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """The daemon stores the checkpoints of each source, and each source is asked with its own secrets."""
    (block,) = Document("config/README.md").blocks("toml", section)
    _write_secrets(tmp_path, block)
    provider.jobs = page([CHOSEN, OTHER])
    provider.checkpoints = {JOB: page([checkpoint(1)]), OTHER["id"]: page([])}
    async with proxy(authorization=BASIC) as between:
        (tmp_path / "c.toml").write_text(_replaced(block, tmp_path, url, provider.url, between.url))
        env = environment(
            tmp_path,
            None if section == "Settings" else url,
            OPENAI_API_KEY="secret-OPENAI_API_KEY",
            CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"),
            **OFTEN,
        )
        env["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        async with running("run", "--config", str(tmp_path / "c.toml"), env=env):

            async def all_sources_have_checkpoints() -> None:
                rows = await sql.fetch("select source from fine_tuning.checkpoints")
                assert EXAMPLES[section].keys() == {row["source"] for row in rows}

            await eventually(all_sources_have_checkpoints)
    for source, sent in EXAMPLES[section].items():
        asked = [request for request in provider.requests if sent.is_in(request)]
        assert JOB in {request.match_info.get("job") for request in asked}, source
    tracked = await sql.fetchval("select array_agg(distinct id order by id) from fine_tuning.jobs")
    assert ([JOB] if section == "Discovery" else sorted([JOB, OTHER["id"]])) == tracked
    assert ("behind-a-proxy" in EXAMPLES[section]) == bool(between.asked)
