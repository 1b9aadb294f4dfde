"""What is under config/prometheus works: judged by promtool, and by a real Prometheus that scrapes a real daemon."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from checkpointd.simulator.server import serve
from checkpointd.simulator.world import World
from checkpointd.telemetry import database_metrics as gauges
from checkpointd.telemetry import metrics
from support.paths import TOP
from support.verbs import environment, get, running, until_ok, wait_for_line

CONFIG = TOP / "config" / "prometheus"
RULES = (CONFIG / "checkpointd.rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
TESTS = TOP / "tests" / "data" / "alerts.test.yml"
EPOCH = 1_767_225_600.0

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here: Debian's package `prometheus` has it"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no Prometheus here: Debian's package `prometheus` has it"
)


def _promtool(*arguments: str | Path, stdin: str = "", code: int = 0) -> str:
    """Run promtool; what it says, where it ends with this code."""
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert code == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_configuration() -> None:
    """Prometheus takes the scrape configuration and the rules, with nothing to find fault with."""
    _promtool("check", "config", "--lint-fatal", CONFIG / "prometheus.yml")
    _promtool("check", "rules", "--lint-fatal", CONFIG / "checkpointd.rules.yml")


@needs_promtool
def test_alerts() -> None:
    """Each alert fires when it has to, once, and not where all is well: tests/data/alerts.test.yml."""
    _promtool("test", "rules", TESTS)


def test_each_alert_is_tested() -> None:
    """Each alert stands in the tests as one that fires."""
    fired = re.findall(r"""labels: '\{alertname="(\w+)""", TESTS.read_text())
    assert len(ALERTS) == 9
    assert set(ALERTS) == set(fired)


def test_each_alert_says_what_to_do() -> None:
    """Each alert has a severity, a summary that names whom it is about, what it means, and what to do."""
    for rule in RULES.split("- alert: ")[1:]:
        about = "source" if "by (job, source)" in rule else "instance"
        assert [about] == re.findall(r"\$labels\.(\w+)", rule), rule
        keys = re.findall(r"^ +(expr|severity|summary|description|action): *\S", rule, flags=re.MULTILINE)
        assert ["expr", "severity", "summary", "description", "action"] == keys, rule


def test_alerts_ask_for_what_there_is() -> None:
    """Each metric and each state in the rules is one that the daemon shows."""
    families = list(metrics.REGISTRY.collect())
    shown = {m.name + ("_total" if m.type == "counter" else "") for m in families}
    expressions = re.findall(r"expr: (.+?)\n +(?:for|labels):", RULES, flags=re.DOTALL)
    assert len(ALERTS) == len(expressions)
    assert set() == set(re.findall(r"\bcheckpointd_\w+", "".join(expressions))) - shown
    assert {"paused", "refused"} == set(re.findall(r'state="(\w+)"', RULES)) <= set(gauges.STATES)


@needs_promtool
def test_texts_of_alerts(tmp_path: Path) -> None:
    """What the alerts say names no label that they do not have: seen where they fire and nobody expects them."""
    tests = TESTS.read_text().replace("../../config/prometheus", str(CONFIG))
    for name in ALERTS:
        at = re.search(rf"eval_time: (\w+)\n.*\n +exp_samples:\n.*{name}", tests)
        assert at, name
        tests = tests.replace(
            f"  - name: {name} fires",
            f"  - alert_rule_test: [{{eval_time: {at[1]}, alertname: {name}}}]\n    name: {name} fires",
            1,
        )
    (tmp_path / "tests.yml").write_text(tests)
    said = _promtool("test", "rules", tmp_path / "tests.yml", code=1)
    assert set(ALERTS) == set(re.findall(r'alertname="(\w+)"', said))
    assert len(ALERTS) == said.count("summary=") == said.count("action=")
    assert "no value" not in said
    assert "error expanding" not in said


@asynccontextmanager
async def _daemon(url: str, folder: Path) -> AsyncIterator[int]:
    """Run a daemon that has stored what a simulated provider lists; yield its status port."""
    now = EPOCH + 7200
    async with serve(World(3, 12, EPOCH), lambda: now) as api:
        env = environment(folder, url, api, CHECKPOINTD_DISCOVER="true", CHECKPOINTD_MIN_POLL_SECONDS="0.2")
        async with running("run", env=env) as daemon:
            port = int(re.findall(r"127\.0\.0\.1:(\d+)", await wait_for_line(daemon, "web.listening"))[0])
            await wait_for_line(daemon, "poll.changed")
            yield port


@needs_promtool
async def test_page(url: str, tmp_path: Path) -> None:
    """What a daemon shows has the names and the form that Prometheus expects, and names no job."""
    async with _daemon(url, tmp_path) as port:
        page = (await get(port, "/metrics"))[1]
    assert "" == _promtool("check", "metrics", stdin=page)
    assert 'checkpointd_source_state{source="openai",state="ok"} 1.0' in page
    assert 'checkpointd_rejected_items_total{source="openai"} 0.0' in page
    assert "ftjob" not in page


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_prometheus
async def test_a_real_prometheus(url: str, tmp_path: Path, port: int) -> None:
    """A real Prometheus with this configuration scrapes a real daemon, and weighs its alerts."""
    async with _daemon(url, tmp_path) as target:
        for file in CONFIG.iterdir():
            text = file.read_text().replace("127.0.0.1:8787", f"127.0.0.1:{target}").replace("15s", "1s")
            (tmp_path / file.name).write_text(text)
        prometheus = await asyncio.create_subprocess_exec(
            "prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", stdout=DEVNULL, stderr=DEVNULL,
        )  # fmt: skip
        try:
            await until_ok(port, "/-/ready")
            assert [(("127.0.0.1:" + str(target),), 1.0)] == await _until_known(port, "up == 1", "instance")
            names = 'count by (__name__) ({__name__=~"checkpointd_.+|process_.+"})'
            names_shown = {labels[0] for labels, _ in await _until_known(port, names, "__name__")}
            assert {"checkpointd_polls_total", "checkpointd_poll_duration_seconds_bucket"} <= names_shown
            assert {"checkpointd_build_info", "process_resident_memory_bytes"} <= names_shown
            state = await _until_known(port, "checkpointd_source_state == 1", "source", "state")
            assert [(("openai", "ok"), 1.0)] == state
            assert [((), 12.0)] == await _until_known(port, "sum(checkpointd_tracked_jobs) > 0")
            await _until_all_is_well(port)
        finally:
            prometheus.terminate()
            await prometheus.wait()


async def _ask(port: int, path: str) -> Any:
    status, text = await get(port, f"/api/v1/{path}")
    assert 200 == status, text
    return json.loads(text)["data"]


async def _query(port: int, query: str, *labels: str) -> list[tuple[tuple[str, ...], float]]:
    """Return the series of a query: these labels of each, and its value."""
    found = (await _ask(port, f"query?query={quote(query, safe='')}"))["result"]
    return [(tuple(series["metric"][label] for label in labels), float(series["value"][1])) for series in found]


async def _until_all_is_well(port: int) -> None:
    """Wait until each alert was weighed by what is known now, and is inactive.

    The first ones are weighed before anything was scraped; and a scrape that takes a second counts as a daemon down.
    """
    known = datetime.now(UTC) + timedelta(seconds=1)  # an evaluation looks at most its interval back
    expected = {(name, True, "ok", "inactive") for name in ALERTS}
    deadline = time.monotonic() + 60
    while True:
        (group,) = (await _ask(port, "rules"))["groups"]
        found = {
            (rule["name"], datetime.fromisoformat(rule["lastEvaluation"]) > known, rule["health"], rule["state"])
            for rule in group["rules"]
        }
        if found == expected:
            return
        assert time.monotonic() < deadline, found - expected
        await asyncio.sleep(0.1)


async def _until_known(port: int, query: str, *labels: str) -> list[tuple[tuple[str, ...], float]]:
    """Ask until there is an answer: it scrapes each second, and the daemon counts its jobs every fifteen."""
    async with asyncio.timeout(60):
        while not (found := await _query(port, query, *labels)):  # noqa: ASYNC110  # a scrape gives no event
            await asyncio.sleep(0.1)
    return found
