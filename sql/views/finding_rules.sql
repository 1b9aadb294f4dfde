-- The rules by which something is found of a job or a source. sql/README.md describes them.
--
-- Each rule returns rows as long as its condition is met. The condition that makes a finding fire (`fires`) is often
-- stricter than the one that keeps it open, so that a value near a limit does not fire again and again. A message
-- states stored values only, not the time of the evaluation: so it changes only with the data.

create or replace function checkpointd.shown_number(value double precision) returns text
language sql immutable
return case
  when abs(value) between 0.001 and 1e9 then trim_scale(round(value::numeric, 4))::text
  else value::text
end;
comment on function checkpointd.shown_number is 'Returns a number as text with at most four decimals.';

create or replace function checkpointd.shown_time(stored timestamptz) returns text
language sql stable
return to_char(stored at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"');
comment on function checkpointd.shown_time is 'Returns a time as text.';

create or replace function checkpointd.shown_seconds(seconds double precision) returns text
language sql immutable
return case
  when seconds < 120 then format('%s s', greatest(round(seconds), 1))
  when seconds < 7200 then format('%s min', round(seconds / 60))
  else format('%s h', round(seconds / 3600))
end;
comment on function checkpointd.shown_seconds is 'Returns a duration as text.';

create or replace function checkpointd.bounded(value double precision) returns double precision
language sql immutable
return case when value < 'NaN' then greatest(least(value, 1e100), -1e100) end;
comment on function checkpointd.bounded is
  'Returns a metric, but none beyond 1e100, so that it can be multiplied without an overflow; null for NaN.';

create or replace function checkpointd.failed_alone(
  source checkpointd.sources, polling checkpointd.polling, now timestamptz
) returns boolean
language sql as $$
select source.state = 'ok'
  and (polling.last_attempt_at > source.state_since or source.state_since > now)
  and checkpointd.is_over(polling.lease_expires_at, polling.last_attempt_at, now)
$$;
comment on function checkpointd.failed_alone is
  'Returns whether the last poll of a failing job ended, and began when its source was ok as it is now.';

create or replace function checkpointd.is_final(status text) returns boolean
language sql immutable
return coalesce(
  lower(status) in ('succeeded', 'failed', 'cancelled', 'canceled', 'completed', 'error'), false
);
comment on function checkpointd.is_final is 'Returns whether a job with this status has ended.';

create or replace function checkpointd.was_seen_running(job checkpointd.jobs, polling checkpointd.polling)
returns boolean
language sql as $$
select coalesce(polling.newest_seen_at > job.tracked_at - interval '1 day', false)
  and (polling.arrivals > 1 or polling.first_arrival_s is not null or polling.arrival_error_s = 0)
$$;
comment on function checkpointd.was_seen_running is
  'Returns whether the newest checkpoint of a job arrived while it was tracked, or less than a day before. If the '
  'first listing has checkpoints without a time, they may be old: then a further one must arrive. '
  '(A time without an error is one that the provider states.)';

create or replace function checkpointd.find_expiring(now timestamptz)
returns table (job bigint, checkpoint_id text, expires_at timestamptz, is_best boolean)
language sql as $$
select kept.job, kept.id, kept.expires_at, summaries.best_id is not null
from (
  select distinct checkpoints.job
  from checkpointd.checkpoints
  where checkpoints.expires_at > $1
    and checkpoints.expires_at <= $1 + interval '3 days'
    and checkpoints.missing_since is null
) as near
join checkpointd.jobs on jobs.key = near.job
join checkpointd.polling on polling.job = near.job
join checkpointd.summaries on summaries.job = near.job
cross join lateral (
  select checkpoints.job, checkpoints.id, checkpoints.expires_at,
    checkpointd.unix_time(checkpoints.created_at, interval '1 day') as created_at
  from checkpointd.checkpoints
  where checkpoints.job = near.job
    and checkpoints.missing_since is null
    and (summaries.best_id is null or checkpoints.id = summaries.best_id)
  order by checkpoints.expires_at desc nulls first, checkpoints.created_at desc nulls last, checkpoints.id
  limit 1
) as kept
where jobs.untracked_at is null
  and not polling.is_gone
  and kept.expires_at > $1
  and kept.expires_at - $1 <= least(
    interval '3 days',
    case when kept.created_at < kept.expires_at then (kept.expires_at - kept.created_at) / 2 end
  )
$$;
comment on function checkpointd.find_expiring is
  'Returns the best checkpoint of each job whose best one expires soon or, if a job has no best one, the checkpoint '
  'that the provider keeps longest, because it expires soon, too. Soon means within three days, and for a checkpoint '
  'that is kept for less than six days, in the second half of this time.';

create or replace function checkpointd.find_in_jobs(keys bigint[], now timestamptz)
returns table (
  source int, job bigint, kind text, checkpoint_id text, value double precision, message text, fires boolean
)
language sql
set jit = off
as $$
-- A job that ended more than a day ago has no findings: to track it fires nothing. If it was seen running, it ended
-- when its status changed here, otherwise when the provider says so or, if it does not, when its newest checkpoint was
-- made. A job without a final status ends by silence: if it was seen running, when its silence had lasted for
-- CHECKPOINTD_ASSUME_ENDED_SECONDS, otherwise with its newest checkpoint, if its status is not known.
with tracked as (
  select jobs.key as job, jobs.id, jobs.source, jobs.status, jobs.error,
    checkpointd.n_epochs(jobs.hyperparameters) as n_epochs, sources.kind as source_kind,
    checkpointd.failed_alone(sources, polling, $2) as failed_alone,
    polling.settling_since, polling.sealed_at, polling.waiting_since,
    polling.last_attempt_at, polling.last_complete_at, polling.failing_since, polling.last_error, polling.gap_s,
    polling.rejected, polling.arrivals, polling.newest_seen_at, polling.waited_s, polling.spacing_s,
    coalesce(polling.spread_s, 0) as spread_s, event_lists.steps_at, coalesce(event_lists.steps, 0) as steps,
    summaries.checkpoint_count, summaries.candidates, summaries.latest_step, summaries.latest_id,
    summaries.step_distance, summaries.is_uneven or summaries.came_in_a_burst as has_gap, summaries.best_id,
    summaries.best_rule, summaries.best_direction, summaries.best_covered, latest.train_loss as latest_train_loss,
    end_of.has_ended, status_change.at as status_at,
    not end_of.has_ended and polling.settling_since is not null and end_of.was_running as fell_silent,
    case
      when not end_of.has_ended and end_of.was_running then polling.settling_since
      when end_of.has_ended or polling.settling_since is not null then coalesce(
        status_change.seen_at, checkpointd.unix_time(jobs.finished_at, interval '1 day'),
        checkpointd.unix_time(latest.created_at, interval '1 day'),
        checkpointd.unix_time(jobs.created_at, interval '1 day'), polling.settling_since
      )
      when jobs.status is null then checkpointd.unix_time(latest.created_at, interval '1 day')
    end as ended_at
  from checkpointd.jobs
  join checkpointd.polling on polling.job = jobs.key
  join checkpointd.sources on sources.key = jobs.source
  left join checkpointd.event_lists on event_lists.job = jobs.key
  left join checkpointd.summaries on summaries.job = jobs.key
  left join checkpointd.checkpoints as latest on latest.job = summaries.job and latest.id = summaries.latest_id
  cross join lateral (
    select checkpointd.is_final(jobs.status) as has_ended,
      checkpointd.was_seen_running(jobs, polling) as was_running
  ) as end_of
  left join lateral (
    select changes.at, case when changes.old_value is not null then changes.at end as seen_at
    from checkpointd.changes
    where end_of.has_ended
      and changes.job = jobs.key
      and changes.kind = 'status'
    order by changes.seq desc
    limit 1
  ) as status_change on true
  where jobs.key = any ($1)
    and jobs.untracked_at is null
    and not polling.is_gone
),

current_job as materialized (
  select *, not has_ended and settling_since is null as is_running
  from tracked
  where ended_at is null
    or ended_at > $2 - interval '1 day'
),

-- The metric of the objective is measured on validation data, and got worse than its best value while the loss on the
-- training data fell.
overfitting as (
  select current_job.source, current_job.job, 'overfitting', current_job.best_id, curve.last_value,
    format(
      '%s went from %s at step %s to %s at step %s, while train_loss went from %s to %s.', current_job.best_rule,
      checkpointd.shown_number(curve.best_value), curve.best_step, checkpointd.shown_number(curve.last_value),
      curve.last_step, checkpointd.shown_number(curve.best_train_loss), checkpointd.shown_number(curve.last_train_loss)
    ),
    worse.share > 0.05 and curve.last_train_loss < curve.best_train_loss
  from current_job
  cross join lateral (
    select min(point.cost) as best_cost,
      (array_agg(point.value order by point.cost, point.step_number desc))[1] as best_value,
      (array_agg(point.step_number order by point.cost, point.step_number desc))[1] as best_step,
      (array_agg(point.train_loss order by point.cost, point.step_number desc))[1] as best_train_loss,
      (array_agg(point.cost order by point.step_number desc, point.id))[1] as last_cost,
      (array_agg(point.value order by point.step_number desc, point.id))[1] as last_value,
      (array_agg(point.train_loss order by point.step_number desc, point.id))[1] as last_train_loss,
      max(point.step_number) as last_step
    from (
      select checkpoints.id, checkpoints.step_number, checkpoints.train_loss, measured.value,
        case current_job.best_direction when 'maximize' then -measured.value else measured.value end as cost
      from checkpointd.checkpoints
      cross join lateral (
        select checkpointd.bounded(
          checkpointd.metric(
            current_job.best_rule, checkpoints.step, checkpoints.train_loss, checkpoints.train_mean_token_accuracy,
            checkpoints.valid_loss, checkpoints.valid_mean_token_accuracy, checkpoints.full_valid_loss,
            checkpoints.full_valid_mean_token_accuracy, checkpoints.extra_metrics
          )
        ) as value
      ) as measured
      where checkpoints.job = current_job.job
        and measured.value is not null
        and checkpoints.train_loss is not null
    ) as point
  ) as curve
  cross join lateral (
    select (curve.last_cost - curve.best_cost) / greatest(abs(curve.best_cost), 0.1) as share
  ) as worse
  where lower(current_job.best_rule) ~ '(^|[^a-z])(full|val|valid|validation|eval|evaluation|test)([^a-z]|$)'
    and curve.last_step > curve.best_step
    and worse.share > 0.02
),

-- The loss on the training data is far above what it was: the median of the last 20 steps or, if the steps are not
-- known, that of the newest checkpoint, which must also be higher than all before, because one batch is noisy. The
-- past of a curve are 100 of its earlier steps at equal distances.
diverging as (
  select current_job.source, current_job.job, 'diverging', null::text, curve.latest,
    format(
      'train_loss is %s, usual before was %s.', checkpointd.shown_number(curve.latest),
      checkpointd.shown_number(curve.usual)
    ),
    curve.latest > 2 * curve.usual and curve.latest - curve.usual > 0.1
      and curve.latest > coalesce(curve.highest, '-infinity')
  from current_job
  cross join lateral (
    select count(*) filter (where not point.is_latest) as earlier, 2 as needed,
      percentile_cont(0.5) within group (order by point.train_loss) filter (where not point.is_latest) as usual,
      max(point.train_loss) filter (where not point.is_latest) as highest,
      max(point.train_loss) filter (where point.is_latest) as latest
    from (
      select checkpointd.bounded(train_loss) as train_loss,
        row_number() over (order by step_number desc, id) = 1 as is_latest
      from checkpointd.checkpoints
      where checkpoints.job = current_job.job
        and checkpoints.train_loss is not null
    ) as point
    where current_job.steps = 0
    union all
    select past.steps, 20, past.usual, null, recent.latest
    from (
      select min(step_number) as first_step, percentile_cont(0.5) within group (order by train_loss) as latest
      from (
        select step_number, checkpointd.bounded(train_loss) as train_loss
        from checkpointd.steps
        where steps.job = current_job.job
        order by step_number desc
        limit 20
      ) as last_steps
    ) as recent
    cross join lateral (
      select min(steps.step_number) as step
      from checkpointd.steps
      where steps.job = current_job.job
    ) as beginning
    cross join lateral (
      select count(*) as steps, percentile_cont(0.5) within group (order by sampled.train_loss) as usual
      from (
        select distinct on (near.step_number) near.train_loss
        from generate_series(0, 99) as number
        cross join lateral (
          select steps.step_number, checkpointd.bounded(steps.train_loss) as train_loss
          from checkpointd.steps
          where steps.job = current_job.job
            and steps.step_number >= beginning.step + (recent.first_step - beginning.step) * number / 100
            and steps.step_number < recent.first_step
          order by steps.step_number
          limit 1
        ) as near
      ) as sampled
    ) as past
    where current_job.steps > 0
  ) as curve
  where curve.earlier >= curve.needed
    and curve.usual > 0
    and curve.latest > 1.25 * curve.usual
    and not (select checkpointd.is_reinforcement(jobs) from checkpointd.jobs where jobs.key = current_job.job)
),

-- A loss of the newest checkpoint or step is not a number. It is stored as null, and the item is among the rejects. An
-- item without an id, as those of Together are, is found by its step.
not_a_number as (
  select current_job.source, current_job.job, 'diverging', null::text, null::double precision,
    format('%s at step %s is not a number.', lost.name, newest.step_number), true
  from current_job
  cross join lateral (
    select step_number, id, train_loss, valid_loss, full_valid_loss
    from checkpointd.checkpoints
    where current_job.steps = 0
      and checkpoints.job = current_job.job
      and checkpoints.id = current_job.latest_id
    union all
    (
      select step_number, id, train_loss, valid_loss, full_valid_loss
      from checkpointd.steps
      where current_job.steps > 0
        and steps.job = current_job.job
      order by step_number desc
      limit 1
    )
  ) as newest
  cross join lateral (
    select loss.name
    from (
      values
        ('train_loss', newest.train_loss),
        ('valid_loss', newest.valid_loss),
        ('full_valid_loss', newest.full_valid_loss)
    ) as loss (name, value)
    join checkpointd.rejects
      on rejects.owner = current_job.job
      and rejects.is_stored
      and rejects.reason ~ format('(^|[. ])%s: not (finite|a number)', replace(loss.name, '_', '[_/]'))
      and (
        position(convert_to(newest.id, 'UTF8') in rejects.raw) > 0
        or checkpointd.as_text(rejects.raw) ~ format('_step"\s*:\s*%s(\.0+)?[\s,}]', newest.step_number)
      )
    where loss.value is null
    order by loss.name
    limit 1
  ) as lost
),

-- The last complete listing of a running job has nothing new for several times the usual time between its checkpoints.
stalled as (
  select current_job.source, current_job.job, 'stalled', null::text, silence.seconds,
    format(
      'No news since %s. Before, a checkpoint came every %s.', checkpointd.shown_time(silence.since),
      checkpointd.shown_seconds(current_job.spacing_s)
    ),
    silence.seconds > 4 * current_job.spacing_s + 2 * current_job.spread_s + 2 * current_job.gap_s
  from current_job
  cross join lateral (
    select greatest(current_job.newest_seen_at, current_job.steps_at) as since,
      extract(
        epoch from current_job.last_complete_at - greatest(current_job.newest_seen_at, current_job.steps_at)
      )::float8 - current_job.waited_s as seconds
  ) as silence
  where current_job.is_running
    and current_job.status is not null
    and current_job.waiting_since is null
    and current_job.arrivals > 1
    and silence.seconds > 2 * current_job.spacing_s
),

-- It fires when a listing was read after the end: then the last checkpoint and its metrics are known. If that takes
-- more than ten minutes, it fires without. A job that ended by silence was read.
finished as (
  select current_job.source, current_job.job, 'finished', current_job.best_id, chosen.value,
    format(
      '%s %s',
      case
        when current_job.fell_silent then format(
          'The job seems to have ended: no new checkpoint since %s.',
          checkpointd.shown_time(current_job.newest_seen_at)
        )
        else format('The job ended (%s).', current_job.status)
      end,
      case
        when chosen.value is not null then format(
          'Deploy %s%s: its %s, %s, is the %s of %s.', 'step ' || best.step_number || ', ',
          coalesce(
            checkpointd.deploy_as(current_job.source_kind, current_job.id, best),
            best.fine_tuned_model_checkpoint, best.id
          ), current_job.best_rule,
          checkpointd.shown_number(chosen.value),
          case current_job.best_direction when 'maximize' then 'greatest' else 'least' end,
          format(case current_job.best_covered when 1 then '%s checkpoint' else '%s checkpoints' end,
            current_job.best_covered)
        )
        when current_job.last_complete_at is null then 'Its checkpoints were never read.'
        when current_job.checkpoint_count > 0 then format(
          'No checkpoint has a metric to choose by. The newest one is %s.',
          coalesce(
            checkpointd.deploy_as(current_job.source_kind, current_job.id, latest),
            latest.fine_tuned_model_checkpoint, latest.id
          )
        )
        else 'It has no checkpoints.'
      end
    ),
    coalesce(
      current_job.last_attempt_at > current_job.status_at and current_job.last_complete_at > current_job.status_at
        or current_job.status_at < $2 - interval '10 minutes',
      true
    )
  from current_job
  left join checkpointd.checkpoints as best on best.job = current_job.job and best.id = current_job.best_id
  left join checkpointd.checkpoints as latest on latest.job = current_job.job and latest.id = current_job.latest_id
  cross join lateral (
    select checkpointd.metric(
      current_job.best_rule, best.step, best.train_loss, best.train_mean_token_accuracy, best.valid_loss,
      best.valid_mean_token_accuracy, best.full_valid_loss, best.full_valid_mean_token_accuracy, best.extra_metrics
    ) as value
  ) as chosen
  where current_job.fell_silent
    or current_job.has_ended and lower(current_job.status) not in ('failed', 'error')
),

failed as (
  select current_job.source, current_job.job, 'failed', null::text, null::double precision,
    coalesce(
      'The job failed: ' || left(
        nullif(
          concat_ws(
            ': ', nullif(error.sent ->> 'code', ''),
            nullif(
              case jsonb_typeof(error.sent) when 'string' then error.sent #>> '{}' else error.sent ->> 'message' end,
              ''
            )
          ), ''
        ), 500
      ),
      'The job failed.'
    ),
    true
  from current_job
  cross join lateral (select checkpointd.as_jsonb(current_job.error) as sent) as error
  where lower(current_job.status) in ('failed', 'error')
),

suspected_gap as (
  select current_job.source, current_job.job, 'suspected_gap', null::text, current_job.step_distance,
    'The provider probably dropped a checkpoint before it could be read: two steps are unusually far apart.',
    true
  from current_job
  where current_job.has_gap
    and not (select checkpointd.is_reinforcement(jobs) from checkpointd.jobs where jobs.key = current_job.job)
),

-- The polls of the job fail, and its last complete listing is older than one minute plus twice its poll gap. It stays
-- open until a poll succeeds. After a failure of the whole source, the next poll of the job is waited for.
stale as (
  select current_job.source, current_job.job, 'stale', null::text,
    extract(epoch from $2 - read.at)::float8,
    format(
      'The checkpoints were not read since %s: %s', checkpointd.shown_time(read.at), left(current_job.last_error, 300)
    ),
    current_job.failed_alone
      and $2 - read.at > (2 * current_job.gap_s + 60) * interval '1 s'
  from current_job
  cross join lateral (select coalesce(current_job.last_complete_at, current_job.failing_since) as at) as read
  where current_job.failing_since is not null
    and current_job.sealed_at is null
),

unreadable as (
  select current_job.source, current_job.job, 'unreadable', null::text, current_job.rejected::float8,
    format(
      case current_job.rejected
        when 1 then 'An item of the checkpoint list cannot be read%s.'
        else '%2$s items of the checkpoint list cannot be read%1$s.'
      end,
      (
        select ': ' || left(rejects.reason, 300)
        from checkpointd.rejects
        where rejects.owner = current_job.job
          and not rejects.is_stored
        order by rejects.last_seen_at desc, rejects.digest
        limit 1
      ),
      current_job.rejected
    ),
    true
  from current_job
  where current_job.rejected > 0
    and current_job.sealed_at is null
),

-- The best checkpoint of a running job is the oldest of three that are listed, and the provider lists no more: it is
-- known to, or has dropped one of this job. It leaves the list with the next checkpoint, unless there is none.
leaving as (
  select current_job.source, current_job.job, 'leaving', current_job.best_id, current_job.spacing_s,
    format(
      'The best checkpoint, step %s, leaves the list with the next one, about %s: only three are listed.',
      best.step_number,
      checkpointd.shown_time(current_job.newest_seen_at + current_job.spacing_s * interval '1 s')
    ),
    true
  from current_job
  join checkpointd.checkpoints as best on best.job = current_job.job and best.id = current_job.best_id
  where current_job.is_running
    and current_job.arrivals > 1
    and current_job.candidates = 3
    and best.missing_since is null
    and best.step_number < current_job.latest_step
    and not exists (
      select
      from checkpointd.checkpoints as older
      where older.job = current_job.job
        and older.missing_since is null
        and (older.step_number, older.id) < (best.step_number, best.id)
    )
    and (
      current_job.source_kind in ('openai', 'azure')
      or exists (
        select
        from checkpointd.checkpoints as dropped
        where dropped.job = current_job.job
          and dropped.missing_since is not null
      )
    )
    and coalesce(
      checkpointd.epoch(
        current_job.latest_step, current_job.step_distance, current_job.latest_step, current_job.n_epochs, null
      ) < checkpointd.as_number(current_job.n_epochs),
      true
    )
),

-- The provider has stated that it deletes the checkpoint soon. That also matters long after the end of the job.
expiring as (
  select tracked.source, tracked.job, 'leaving', soon.checkpoint_id,
    extract(epoch from soon.expires_at - $2)::float8,
    format(
      case
        when soon.is_best then 'The best checkpoint, %s, expires %s: the provider then deletes it.'
        else 'All checkpoints expire, the last one, %s, %s: the provider then deletes it.'
      end,
      soon.checkpoint_id, checkpointd.shown_time(soon.expires_at)
    ),
    true
  from tracked
  join checkpointd.find_expiring($2) as soon on soon.job = tracked.job
  where soon.checkpoint_id not in (
    select leaving.id
    from leaving as leaving (source, job, kind, id)
    where leaving.job = tracked.job
  )
)

select * from overfitting
union all
select * from not_a_number
union all
select *
from diverging
where (source, job) not in (select source, job from not_a_number as found (source, job))
union all
select * from stalled
union all
select * from finished
union all
select * from failed
union all
select * from suspected_gap
union all
select * from stale
union all
select * from unreadable
union all
select * from leaving
union all
select * from expiring
$$;
comment on function checkpointd.find_in_jobs is
  'Returns what the rules find of jobs: one row for each condition that is met. A finding that is open stays so as '
  'long as there is a row; one that is not fires if fires is true.';

create or replace function checkpointd.find_in_sources(now timestamptz)
returns table (source int, kind text, model text, message text, fires boolean)
language sql as $$
-- A pause shorter than a minute, and a failure that is over within one, fire nothing. A source that no daemon has
-- tried for a day is in no settings any more, or has nothing to poll: nobody would ever find that it is ok again.
select sources.key, found.kind, null::text, format('%s: %s', found.what, left(sources.last_error, 300)),
  sources.state = 'refused'
    or greatest(case sources.state when 'paused' then sources.resume_at end, $1) - sources.state_since
      >= interval '1 minute'
from checkpointd.sources
join (
  values
    ('paused', 'source_paused', 'All requests to the source are paused'),
    ('refused', 'source_refused', 'The source refuses the key'),
    ('failing', 'stale', 'The source does not answer as an API should')
) as found (state, kind, what) on found.state = sources.state
where case sources.state
  when 'paused' then not checkpointd.is_over(sources.resume_at, sources.paused_at, $1)
  else sources.job_list_attempt_at > $1 - interval '1 day'
    or exists (
      select
      from checkpointd.polling
      join checkpointd.jobs on jobs.key = polling.job
      where polling.source = sources.key
        and polling.last_attempt_at > $1 - interval '1 day'
        and jobs.untracked_at is null
    )
end
union all
-- A model on which a tracked job was trained, or which resulted from one.
select models.source, 'shutting_down', models.id,
  format('The provider shuts the model %s down on %s.', models.id, models.shutdown_date), true
from checkpointd.models
where models.shutdown_date between ($1 at time zone 'UTC')::date and ($1 at time zone 'UTC')::date + 60
  and (
    exists (
      select
      from checkpointd.jobs
      where jobs.source = models.source
        and left(jobs.model, 256) = models.id
        and jobs.model = models.id
        and jobs.untracked_at is null
    )
    or exists (
      select
      from checkpointd.jobs
      where jobs.source = models.source
        and left(jobs.fine_tuned_model, 256) = models.id
        and jobs.fine_tuned_model = models.id
        and jobs.untracked_at is null
    )
  )
$$;
comment on function checkpointd.find_in_sources is 'Returns what the rules find of sources, as find_in_jobs() does.';
