-- Functions that several views or queries share.

create or replace function checkpointd.phase(job checkpointd.jobs, polling checkpointd.polling) returns text
language sql stable
return case
  when job.untracked_at is not null then 'untracked'
  when polling.sealed_at is not null then 'sealed'
  when polling.is_gone then 'gone'
  when polling.error_class in ('missing', 'forbidden') then polling.error_class
  when polling.settling_since is not null then 'settling'
  else 'active'
end;
comment on function checkpointd.phase is
  'State of a job: active; settling (ended, but still polled); sealed (ended, and polling has stopped); missing '
  '(unknown to the provider); gone (missing for long, polled daily); forbidden; untracked.';

create or replace function checkpointd.past(stored timestamptz) returns timestamptz
language sql stable
return case when stored <= statement_timestamp() + interval '1 minute' then stored end;
comment on function checkpointd.past is
  'Returns a stored time, or null if it lies more than a minute in the future: the clock was set back since. Less may '
  'be a commit since the statement began, or the clock of a replica.';

create or replace function checkpointd.known_since(job checkpointd.jobs, polling checkpointd.polling)
returns timestamptz
language sql stable
return coalesce(checkpointd.past(polling.last_complete_at), checkpointd.past(job.tracked_at));
comment on function checkpointd.known_since is
  'Time of the last complete listing of a job, or of its tracking if there is none. A time in the future does not '
  'count.';

create or replace function checkpointd.is_stale(job checkpointd.jobs, polling checkpointd.polling) returns boolean
language sql stable
return checkpointd.phase(job, polling) not in ('sealed', 'gone')
  and coalesce(checkpointd.known_since(job, polling) < now() - (2 * polling.gap_s + 60) * interval '1 s', true);
comment on function checkpointd.is_stale is
  'Returns whether the last complete listing of a job is older than one minute plus twice its poll gap.';

create or replace function checkpointd.unix_time(seconds bigint, ahead interval) returns timestamptz
language sql stable
return case
  when seconds >= 1420070400 and seconds <= extract(epoch from now() + ahead) then to_timestamp(seconds)
end;
comment on function checkpointd.unix_time is
  'Converts a provider''s time in Unix seconds. Returns null if it is implausible: before 2015, or further in the '
  'future than the interval ahead.';

-- It is in plpgsql, which takes a third of the time of sql here. The body of such a function is parsed with the rights
-- of its caller, and readers have none on this schema: so it names no other function of it.
create or replace function checkpointd.with_point(value jsonb) returns jsonb
language plpgsql immutable strict as $$
begin
  if value::text !~ '(^|[^0-9.])[0-9]{19}' then
    return value;
  end if;
  return (
    select string_agg(
      case
        when parts.part[1] ~ '^-?[0-9]{19,}$' then case
          when abs(parts.part[1]::numeric) > 9223372036854775807 then parts.part[1] || '.0'
          else parts.part[1]
        end
        else parts.part[1]
      end,
      '' order by parts.position
    )::jsonb
    from regexp_matches(value::text, '("(?:[^"\\]|\\.)*"|[-0-9.]+|[^-"0-9.]+)', 'g')
      with ordinality as parts (part, position)
  );
end $$;
comment on function checkpointd.with_point is
  'Writes whole numbers beyond the range of bigint with a decimal point. jsonb writes 1e300 as 301 digits, which '
  'programs read as an integer that is too large for them; with a point it is a float.';

create or replace function checkpointd.as_jsonb(value json) returns jsonb
language plpgsql immutable strict as $$
begin
  return value::jsonb;
exception when others then
  return null;
end $$;
comment on function checkpointd.as_jsonb is
  'Converts json. Returns null for what jsonb cannot store: the character \u0000, half of a surrogate pair, a number '
  'with more digits than numeric has.';

create or replace function checkpointd.as_text(bytes bytea) returns text
language plpgsql immutable strict as $$
begin
  for cut in 0..case when octet_length(bytes) = 65536 then 3 else 0 end loop
    begin
      return convert_from(substring(bytes for octet_length(bytes) - cut), 'UTF8');
    exception when character_not_in_repertoire or untranslatable_character then
      null;  -- The first 64 KiB of an item can end within a character.
    end;
  end loop;
  return encode(bytes, 'escape');
end $$;
comment on function checkpointd.as_text is
  'Converts UTF-8. If the bytes are not UTF-8, each byte above 127 or of value 0 is written as \nnn, in octal.';

create or replace function checkpointd.as_number(value text) returns double precision
language sql immutable
return case
  when length(value) <= 308 and value ~ '^-?[0-9]+(\.[0-9]+)?$'
    or value ~ '^-?[0-9](\.[0-9]{1,30})?[eE][+-]?([0-9]{1,2}|[12][0-9]{2})$'
    then value::double precision
end;
comment on function checkpointd.as_number is
  'Converts the text of a number. Returns null for any other text, for one of more than 308 characters, and for an '
  'exponent of more than 299.';

create or replace function checkpointd.deploy_as(kind text, job text, checkpoint checkpointd.checkpoints)
returns text
language sql stable
return case
  when kind = 'nebius' then job || ':' || checkpoint.id
  when checkpoint.details is not null then checkpoint.details ->> 'deploy_as'
  else checkpoint.fine_tuned_model_checkpoint
end;
comment on function checkpointd.deploy_as is
  'Returns the text with which a provider of this kind deploys a checkpoint, given the id of the job and the '
  'checkpoint.';

create or replace function checkpointd.epoch(
  step_number bigint, step_distance double precision, latest_step bigint, n_epochs text, status text
) returns int
language sql immutable
return case
  when n_epochs ~ '^[0-9]{1,6}(\.0+)?$' then case
    when round(latest_step / step_distance) <= n_epochs::numeric
      and round(step_number / step_distance) >= 1
      and (
        coalesce(lower(status) not in ('succeeded', 'completed'), true)
        or round(latest_step / step_distance) = n_epochs::numeric
      )
      and abs(step_number / step_distance - round(step_number / step_distance)) <= 0.1
    then round(step_number / step_distance)::int
  end
end;
comment on function checkpointd.epoch is
  'Returns the epoch that ended at a checkpoint, assuming one checkpoint at the end of each epoch. Returns null if '
  'the steps contradict this: if the latest step is after the last epoch, if the job has succeeded and its latest '
  'step is not the end of the last epoch, or if the step is more than a tenth of an epoch away from the end of an '
  'epoch (an epoch is not always a whole number of steps).';

-- The bodies of the next functions are texts, and those that read the clock are volatile, so that PostgreSQL inlines
-- them: a claim evaluates them for each job.
create or replace function checkpointd.valid_time(stored timestamptz, written_at timestamptz) returns timestamptz
language sql as 'select case when written_at <= clock_timestamp() then stored end';
comment on function checkpointd.valid_time is
  'Returns a stored time, or null if it was written in the future: the clock was set back since. It is compared with '
  'the clock itself, because a transaction that committed after the statement began may have written it.';

create or replace function checkpointd.is_over(until timestamptz, written_at timestamptz, now timestamptz)
returns boolean
language sql as $$
select until is null or until <= now or coalesce(written_at > clock_timestamp(), true)
$$;
comment on function checkpointd.is_over is
  'Returns whether the time until is null or past, or was written in the future, or never: then nothing waits for it. '
  'See valid_time().';

create or replace function checkpointd.is_due(polling checkpointd.polling, now timestamptz) returns boolean
language sql as $$
select polling.next_poll_at < 'infinity'
  and checkpointd.is_over(polling.next_poll_at, polling.last_attempt_at, now)
  and checkpointd.is_over(polling.lease_expires_at, polling.last_attempt_at, now)
$$;
comment on function checkpointd.is_due is 'Returns whether a job is due, and no lease on it lasts.';

create or replace function checkpointd.lateness(polling checkpointd.polling, now timestamptz)
returns double precision
language sql stable as $$
select date_part('epoch', now - polling.next_poll_at) / greatest(polling.gap_s, 1)
$$;
comment on function checkpointd.lateness is 'Returns how long a job has been due, as a multiple of its poll gap.';

create or replace function checkpointd.not_after(stored timestamptz, now timestamptz) returns timestamptz
language sql immutable
return case when stored > now then now else stored end;
comment on function checkpointd.not_after is
  'Returns a stored time, or the time now if it lies in the future: the clock was set back since.';

create or replace function checkpointd.is_lost_again(
  lease_expires_at timestamptz, lease_was_lost boolean, error_class text
) returns boolean
language sql immutable
return lease_expires_at is not null and (lease_was_lost or error_class is not distinct from 'lease_lost');
comment on function checkpointd.is_lost_again is
  'Returns whether a lease that is over was lost, and the one before it, too. Once that has counted as a failure, '
  'each lost lease counts, until a poll is saved.';

create or replace function checkpointd.random_token() returns bigint
language sql volatile
return (random() * 9007199254740992)::bigint;  -- 2^53
comment on function checkpointd.random_token is
  'Returns a new lease token. It is random and not counted: after a restore from a backup, a counter would give the '
  'same token again, perhaps for another job with the same key.';

create or replace function checkpointd.spent_until(budget_at timestamptz, request_interval interval, now timestamptz)
returns timestamptz
language sql stable
return greatest(budget_at, now - greatest(interval '1 s', request_interval));
comment on function checkpointd.spent_until is
  'Returns the time up to which the requests of a rate limit are used up. This is sources.budget_at, but at most one '
  'second ago, or one request interval if that is longer, so that unused requests do not add up.';

create or replace function checkpointd.n_epochs(hyperparameters json) returns text
language sql immutable
return case when pg_column_size(hyperparameters) <= 8192 then hyperparameters ->> 'n_epochs' end;
comment on function checkpointd.n_epochs is
  'Returns the number of epochs from the hyperparameters of a job, or null if they take more than 8 kB as stored: a '
  'view reads them for each checkpoint, and few jobs have as much as 1 kB.';

create or replace function checkpointd.shows_reinforcement(record text) returns boolean
language sql immutable
return coalesce(
  record ~* '"(type|method)"\s*:\s*"[^"]*(reinforce|\m(rl|rft|grpo|ppo|dapo|gspo))'
    or record ~* '"(eval_interval|eval_samples|compute_multiplier|reasoning_effort)"\s*:(?!\s*null)',
  false
);
comment on function checkpointd.shows_reinforcement is
  'Returns whether a job record shows reinforcement learning, by its method or its hyperparameters. It is searched as '
  'text: a record with an escaped NUL character cannot be read as JSON.';

create or replace function checkpointd.is_reinforcement(job checkpointd.jobs) returns boolean
language sql immutable
return checkpointd.shows_reinforcement(job.payload::text);
comment on function checkpointd.is_reinforcement is 'Returns whether the job record shows reinforcement learning.';

create or replace function checkpointd.has_suspected_gap(job checkpointd.jobs, summary checkpointd.summaries)
returns boolean
language sql immutable
return case
  when summary.is_uneven or summary.came_in_a_burst then not checkpointd.is_reinforcement(job)
  else false
end;
comment on function checkpointd.has_suspected_gap is
  'Returns whether the provider may have dropped a checkpoint before it could be read. The steps of reinforcement '
  'learning are uneven anyway.';
