"""Names and texts from a provider that try to run scripts in a page, to control a terminal, or to break a layout."""

import json
import math

import asyncpg

SCRIPT = "<script>document.title='owned'</script>"
IMAGE = '"><img src=x onerror="document.title=\'owned\'">'
QUOTES = "' onmouseover='document.title=1' \" autofocus onfocus=\"document.title=1\" `"
TEMPLATE = "{{ 7 * 7 }}{% raw %}${7*7}</title></textarea><!--"
TERMINAL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\n[red]x[/red]"
BACKWARDS = "\u202egpj.exe\u2066\u200f\ufeff"
LONG = "W" * 10_000
HIGH = "Z\u0351\u036b\u0343" * 400
EVERYTHING = SCRIPT + IMAGE + QUOTES + TEMPLATE + TERMINAL + BACKWARDS

JOB = "ftjob-<script>'\"&%2F/../?#{{7*7}}"
"""An id that the database accepts, but the settings do not."""


async def store_hostile(sql: asyncpg.Connection) -> None:
    """Store jobs, checkpoints, changes, errors and rejects with these texts, without the checks of the daemon."""
    await sql.execute(
        """insert into checkpointd.sources (name, kind, state, resume_at, last_error, job_list_error)
        values ('hostile', 'compatible', 'paused', now() + interval '1 hour', $1, $1)""",
        EVERYTHING,
    )
    names = [(JOB, EVERYTHING), ("ftjob-long", LONG), ("W" * 256, HIGH), ("ftjob-plain", SCRIPT)]
    for place, (job, text) in enumerate(names):
        document = {"n_epochs": "3", text[:100]: text, "code": text, "message": text}
        key = await sql.fetchval(
            """insert into checkpointd.jobs (source, id, tracked_by, status, model, fine_tuned_model, hyperparameters,
              error, metadata, created_at)
            select s.key, $1, 'operator', $2, $2, $2, $3::json, $3::json, $3::json, 1750000000 + $4::int
            from checkpointd.sources s returning key""",
            job,
            text,
            json.dumps(document),
            -place,
        )
        await sql.execute(
            """insert into checkpointd.polling (job, source, failures, error_class, last_error, gap_s)
            select j.key, j.source, 2, 'malformed', $2, 15 from checkpointd.jobs j where j.key = $1""",
            key,
            text,
        )
        for n in range(1, 5):
            await sql.execute(
                """insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint,
                  train_loss, valid_loss, extra_metrics, payload, missing_since)
                values ($1, $2, $3, 0, $4, $5, $6, $7::jsonb, '{}', case when $3::bigint = 1 then now() end)""",
                key,
                f"{text[:200]}{n}",
                n,
                f"{text}{n}",
                (1e308, -1e308, math.nan, math.inf)[n - 1],
                10.0**-n,
                json.dumps({text[:120]: 1}),
            )
            await sql.execute(
                """insert into checkpointd.changes (job, kind, checkpoint_id, field, old_value, new_value)
                values ($1, 'changed', $2, $3, $3, $3)""",
                key,
                f"{text[:200]}{n}",
                text,
            )
        await sql.execute(
            """insert into checkpointd.findings (source, job, kind, since, message)
            select j.source, j.key, 'failed', now(), $2 from checkpointd.jobs j where j.key = $1""",
            key,
            text,
        )
        await sql.execute(
            """insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps, messages)
            values ($1, 0, now(), now(), 4, 2)""",
            key,
        )
        await sql.execute(
            """insert into checkpointd.events (job, id, level, message)
            select $1, left($2, 200) || n, $2, $2 from generate_series(1, 2) as n""",
            key,
            text,
        )
        await sql.execute(
            """insert into checkpointd.steps (job, step_number, id, total_steps, train_loss, valid_loss, extra_metrics)
            select $1, n * 2305843009213693951, left($2, 200) || n, -1,
              (array[1e308, -1e308, 'NaN', 'Infinity']::float8[])[n], 10.0 ^ -n, $3::jsonb
            from generate_series(1, 4) as n""",
            key,
            text,
            json.dumps({f"{name}{text[:5000]}": 1 for name in "abcde"}),
        )
        await sql.execute(
            "insert into checkpointd.rejects (job, digest, reason, raw) values ($1, 'x', $2, $3)",
            key,
            text,
            text.encode(),
        )
    await sql.execute("select checkpointd.summarise(array_agg(key), array_agg(true)) from checkpointd.jobs")
