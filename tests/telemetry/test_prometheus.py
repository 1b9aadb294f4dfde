"""The configuration and alerts in config/prometheus, checked by promtool and by a Prometheus that scrapes a daemon."""

import asyncio
import json
import re
import shutil
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from checkpointd.simulator.server import serve
from checkpointd.simulator.world import World
from checkpointd.telemetry import database_metrics, metrics
from support.paths import TOP
from support.verbs import environment, get, running, until_ok, wait_for_line
from support.waiting import eventually

CONFIG = TOP / "config" / "prometheus"
RULES = (CONFIG / "checkpointd.rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
TESTS = TOP / "tests" / "data" / "alerts.test.yml"
EPOCH = 1_767_225_600.0

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: it is in Debian's package `prometheus`"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed: Debian's package `prometheus`"
)


def _promtool(*arguments: str | Path, stdin: str = "", code: int = 0) -> str:
    """Run promtool, which must exit with this code. Returns its output."""
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert code == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_configuration() -> None:
    """Promtool accepts the scrape configuration and the rules without a warning."""
    _promtool("check", "config", "--lint-fatal", CONFIG / "prometheus.yml")
    _promtool("check", "rules", "--lint-fatal", CONFIG / "checkpointd.rules.yml")


@needs_promtool
def test_alerts() -> None:
    """Each alert fires when it should and not otherwise, as tests/data/alerts.test.yml describes."""
    _promtool("test", "rules", TESTS)


def test_each_alert_is_tested() -> None:
    """For each alert, tests/data/alerts.test.yml has a case in which it fires."""
    fired = re.findall(r"""labels: '\{alertname="(\w+)""", TESTS.read_text())
    assert len(ALERTS) == 18
    assert set(ALERTS) == set(fired)


def test_each_alert_is_explained() -> None:
    """Each alert has a severity, a summary that names its source, webhook or instance, a description, and an action."""
    for rule in RULES.split("- alert: ")[1:]:
        aggregated = re.search(r"by \(job, (\w+)\)", rule)
        assert {aggregated[1] if aggregated else "instance"} == set(re.findall(r"\$labels\.(\w+)", rule)), rule
        assert re.search(r"summary: .*\$labels", rule), rule
        keys = re.findall(r"^ +(expr|severity|summary|description|action): *\S", rule, flags=re.MULTILINE)
        assert ["expr", "severity", "summary", "description", "action"] == keys, rule


def test_alerts_use_existing_metrics() -> None:
    """Each metric and each state in the rules exists in the daemon."""
    families = list(metrics.REGISTRY.collect())
    existing = {m.name + ("_total" if m.type == "counter" else "") for m in families}
    expressions = re.findall(r"expr: (.+?)\n +(?:for|labels):", RULES, flags=re.DOTALL)
    assert len(ALERTS) == len(expressions)
    assert set() == set(re.findall(r"\bcheckpointd_\w+", "".join(expressions))) - existing
    assert {"paused", "refused", "failing"} == set(re.findall(r'state="(\w+)"', RULES)) <= set(database_metrics.STATES)


@needs_promtool
def test_texts_of_alerts(tmp_path: Path) -> None:
    """The texts of an alert use only labels that the alert has.

    Promtool shows the texts of alerts that fire although the test expects none, so a copy of the tests expects none.
    """
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
    output = _promtool("test", "rules", tmp_path / "tests.yml", code=1)
    assert set(ALERTS) == set(re.findall(r'alertname="(\w+)"', output))
    assert len(ALERTS) == output.count("summary=") == output.count("action=")
    assert "no value" not in output
    assert "error expanding" not in output


@asynccontextmanager
async def _daemon(url: str, folder: Path) -> AsyncIterator[int]:
    """Run a daemon that has stored the checkpoints of a simulated provider. Yields its status port."""
    now = EPOCH + 7200
    async with serve(World(3, 12, EPOCH), lambda: now) as api:
        env = environment(folder, url, api, CHECKPOINTD_DISCOVER="true", CHECKPOINTD_MIN_POLL_SECONDS="0.2")
        async with running("run", env=env) as daemon:
            port = int(re.findall(r"127\.0\.0\.1:(\d+)", await wait_for_line(daemon, "web.listening"))[0])
            await wait_for_line(daemon, "poll.changed")
            yield port


@needs_promtool
async def test_page(url: str, tmp_path: Path) -> None:
    """The /metrics of a daemon has the names and the format that Prometheus expects, and contains no job id."""
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
    """A real Prometheus with this configuration scrapes a real daemon and evaluates the alerts."""
    async with _daemon(url, tmp_path) as target:
        for file in CONFIG.glob("*.yml"):
            text = file.read_text().replace("127.0.0.1:8787", f"127.0.0.1:{target}").replace("15s", "1s")
            (tmp_path / file.name).write_text(text)
        prometheus = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        try:
            await until_ok(port, "/-/ready")
            assert [(("127.0.0.1:" + str(target),), 1.0)] == await _wait_for_series(port, "up == 1", "instance")
            query = 'count by (__name__) ({__name__=~"checkpointd_.+|process_.+"})'
            names = {labels[0] for labels, _ in await _wait_for_series(port, query, "__name__")}
            assert {"checkpointd_polls_total", "checkpointd_poll_duration_seconds_bucket"} <= names
            assert {"checkpointd_build_info", "process_resident_memory_bytes"} <= names
            states = await _wait_for_series(port, "checkpointd_source_state == 1", "source", "state")
            assert [(("openai", "ok"), 1.0)] == states
            assert [((), 12.0)] == await _wait_for_series(port, "sum(checkpointd_tracked_jobs) > 0")
            # Prometheus evaluates the rules for the first time before it has scraped anything, and a scrape that takes
            # longer than a second counts as a daemon that is down. An evaluation uses values of the last second.
            scraped = datetime.now(UTC) + timedelta(seconds=1)
            await eventually(partial(_assert_all_alerts_inactive, port, scraped))
        finally:
            prometheus.terminate()
            await prometheus.wait()


async def _request(port: int, path: str) -> Any:
    status, text = await get(port, f"/api/v1/{path}")
    if status != 200:
        pytest.fail(text)
    return json.loads(text)["data"]


async def _wait_for_series(port: int, query: str, *labels: str) -> list[tuple[tuple[str, ...], float]]:
    """Wait until a query has a result. Returns these labels and the value of each of its series.

    Prometheus scrapes every second here, and the daemon reads the metrics of the database every 15 seconds.
    """

    async def find() -> list[tuple[tuple[str, ...], float]]:
        found = (await _request(port, f"query?query={quote(query, safe='')}"))["result"]
        assert found, query
        return [(tuple(series["metric"][label] for label in labels), float(series["value"][1])) for series in found]

    return await eventually(find)


async def _assert_all_alerts_inactive(port: int, since: datetime) -> None:
    """Assert that each alert was evaluated after `since` without an error, and is inactive."""
    (group,) = (await _request(port, "rules"))["groups"]
    assert {(name, True, "ok", "inactive") for name in ALERTS} == {
        (rule["name"], datetime.fromisoformat(rule["lastEvaluation"]) > since, rule["health"], rule["state"])
        for rule in group["rules"]
    }
