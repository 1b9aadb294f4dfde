"""The recipes and the examples of the document about webhooks work as written."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import asyncpg

from support.documents import Document
from support.receiver import SECRET, Receiver
from support.verbs import checkpointd, environment, running, wait_for_line
from webhooks.conftest import Open

GUIDE = Document("daemon/checkpointd/webhooks/README.md")
SIMULATOR = Document("daemon/checkpointd/simulator/README.md")
NOON = "2026-07-01 12:00:00Z"


async def test_slack(receiver: Receiver, tmp_path: Path) -> None:
    """The recipe for Slack sends a test message to the URL in the file, which no output shows."""
    (recipe,) = GUIDE.blocks("toml", "Slack")
    (command,) = GUIDE.commands("Slack")
    (tmp_path / "slack_url").write_text(f"{receiver.url}/T000/B000/the-secret-part")
    config = tmp_path / "checkpointd.toml"
    config.write_text(recipe.replace("/etc/checkpointd/credentials", str(tmp_path)))
    env = environment(tmp_path, CHECKPOINTD_CONFIG=str(config))
    ended = await checkpointd(*command.split()[1:], env=env)
    assert (0, "webhook slack: HTTP 204 No Content\n", "") == ended
    (request,) = receiver.received
    assert ["text"] == list(request.message)
    receiver.answer_once(404)
    ended = await checkpointd(*command.split()[1:], env=env)
    assert (1, "", "checkpointd: webhook slack: HTTP 404 Not Found\n") == ended


async def test_a_receiver(url: str, sql: asyncpg.Connection, jobs: dict[str, int], tmp_path: Path, port: int) -> None:
    """The receiver in ten lines verifies what a daemon with the recipe's settings sends, and the test message."""
    (recipe,) = GUIDE.blocks("toml", "A receiver in ten lines")
    (program,) = GUIDE.blocks("python", "A receiver in ten lines")
    assert 10 >= len([line for line in program.splitlines() if line and not line.startswith(("import ", "from "))])
    config = tmp_path / "checkpointd.toml"
    config.write_text(recipe.replace("8789", str(port)) + "from = 1\n")
    env = environment(tmp_path, url, CHECKPOINTD_CONFIG=str(config), RECEIVER_SECRET=SECRET, OPENAI_API_KEY="any")
    await sql.execute(
        "insert into checkpointd.changes (job, kind, checkpoint_id) values ($1, 'new', 'c')", jobs["ftjob-a"]
    )
    receiver = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program.replace("8789", str(port)), env=env, stdout=PIPE, stderr=PIPE
    )
    try:
        async with running("run", env=env) as daemon:
            await wait_for_line(daemon, "daemon.ready")
            assert receiver.stdout is not None
            id_, type_, data = (await asyncio.wait_for(receiver.stdout.readline(), 60)).decode().split(" ", 2)
            assert ("msg_", "checkpoint.new") == (id_[:4], type_)
            assert "'fine_tuning_job_id': 'ftjob-a'" in data
            ended = await checkpointd("webhooks", "--test", "receiver", env=env)
            assert (0, "webhook receiver: HTTP 204 No Content\n") == (ended.code, ended.out)
            assert " webhook.test {}" in (await asyncio.wait_for(receiver.stdout.readline(), 60)).decode()
        (shown,) = json.loads((await checkpointd("webhooks", "--json", env=env)).out)
        assert ("receiver", "ok", 204) == (shown["name"], shown["state"], shown["last_status"])
        assert "receiver  ok" in (await checkpointd("webhooks", env=env)).out
        replayed = await checkpointd("webhooks", "--replay", "receiver", "1", env=env)
        assert (0, "webhook receiver: the daemons send again from change 1\n") == (replayed.code, replayed.out)
        assert 0 == await sql.fetchval("select cursor from checkpointd.webhooks")
        assert 0 == (await checkpointd("webhooks", "--replay", "receiver", "2", env=env)).code
        replayed = await checkpointd("webhooks", "--replay", "receiver", "3", env=env)
        message = "checkpointd: --replay receiver 3: this change does not exist (with 2, only new ones are sent)\n"
        assert (1, "", message) == replayed
        assert 1 == await sql.fetchval("select cursor from checkpointd.webhooks")
        assert 1 == (await checkpointd("webhooks", "--replay", "other", "1", env=env)).code
        assert 2 == (await checkpointd("webhooks", "--test", "other", env=env)).code
        assert 2 == (await checkpointd("webhooks", "--replay", "receiver", str(2**63), env=env)).code
        assert 2 == (await checkpointd("webhooks", "--replay", "a", "1", "--test", "a", env=env)).code
    finally:
        receiver.kill()
        _, err = await receiver.communicate()
    assert b"Error" not in err


async def test_simulated_receiver(tmp_path: Path) -> None:
    """The simulated receiver accepts what is sent with the settings that it prints, and nothing with another secret."""
    (command,) = SIMULATOR.commands("Receive webhooks")
    (example,) = SIMULATOR.blocks("", "Receive webhooks")
    env = environment(tmp_path)
    async with running(*command.split()[1:], "--port", "0", env=env) as receiver:
        assert receiver.stdout is not None
        printed = [(await receiver.stdout.readline()).decode() for _ in range(5)]
        assert example == re.sub(r":\d+/", ":8788/", "".join(printed))
        (secret,) = re.findall(r"whsec_\S+", printed[0])
        (tmp_path / "checkpointd.toml").write_text("".join(printed))
        env |= {"CHECKPOINTD_CONFIG": str(tmp_path / "checkpointd.toml"), "SIMULATED_SECRET": secret}
        ended = await checkpointd("webhooks", "--test", "simulated", env=env)
        assert (0, "webhook simulated: HTTP 204 No Content\n", "") == ended
        ended = await checkpointd("webhooks", "--test", "simulated", env=env | {"SIMULATED_SECRET": SECRET})
        assert (1, "checkpointd: webhook simulated: HTTP 401 Unauthorized\n") == (ended.code, ended.err)
        receiver.terminate()
        text = (await receiver.stdout.read()).decode()
    assert ["verified", "WRONG SIGNATURE"] == re.findall(r"^msg_test_\w+: (.+)$", text, re.MULTILINE)
    assert 2 == text.count('"type": "webhook.test"')
    ended = await checkpointd(*command.split()[1:], "--jobs", "3", env=env)
    assert (2, "--jobs has no effect with --receiver, which simulates no provider") == (
        ended.code, ended.err.strip().removeprefix("checkpointd: ")
    )  # fmt: skip


async def test_messages(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """The examples of messages are what is sent."""
    await sql.execute(
        f"""insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint,
          train_loss, payload)
        values ({jobs["ftjob-a"]}, 'ftckpt_0003', 3, 1721764803,
          'ft:gpt-4o-mini-2024-07-18:org:sfx:00000003:ckpt-step-3', 0.25, '{{}}');
        insert into checkpointd.findings (source, job, kind, since, message, value, checkpoint_id)
        select source, key, 'overfitting', '{NOON}', 'later', 1.5, 'ftckpt_0003' from checkpointd.jobs
        where id = 'ftjob-a';
        insert into checkpointd.changes (at, job, kind, checkpoint_id, finding, field, old_value, new_value)
        select '{NOON}', {jobs["ftjob-a"]}, new.* from (values
          ('new', 'ftckpt_0003', null, null, null, null),
          ('status', null, null, 'status', 'running', 'succeeded'),
          ('fired', 'ftckpt_0003', 1, 'overfitting', null, 'validation loss rises while training loss falls')
        ) as new"""
    )
    await (sender := open_sender(events=("new", "status", "fired"))).tick()
    await sender.tick()
    examples = [json.loads(block) for block in GUIDE.blocks("json", "Messages")]
    assert examples == [request.message for request in receiver.received]
