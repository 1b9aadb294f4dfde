-- How far each webhook is with the feed of changes, and what its endpoint answers.
create or replace view fine_tuning.webhooks as
select webhooks.name, webhooks.cursor, waiting.lag, extract(epoch from waiting.lag)::double precision as lag_seconds,
  webhooks.failures, webhooks.failing_since, webhooks.last_status, webhooks.last_answer,
  webhooks.attempt_at as last_attempt_at, webhooks.next_attempt_at, webhooks.delivered as delivered_count,
  webhooks.delivered_at as last_delivered_at, webhooks.undelivered as undelivered_count,
  webhooks.undelivered_seq as last_undelivered_seq, webhooks.undelivered_at as last_undelivered_at,
  webhooks.undelivered_reason as last_undelivered_reason,
  case
    when webhooks.failures > 0 then 'failing'
    when waiting.lag > interval '5 minutes' then 'behind'
    else 'ok'
  end as state
from checkpointd.webhooks
cross join lateral (
  select coalesce((
    select greatest(clock_timestamp() - changes.at, interval '0')
    from checkpointd.changes
    where changes.seq > webhooks.cursor
    order by changes.seq
    limit 1
  ), interval '0') as lag
) as waiting;

comment on view fine_tuning.webhooks is
  'One row for each webhook that a daemon was configured with: how far it is, and what its endpoint answers.';
comment on column fine_tuning.webhooks.name is 'Name in the settings.';
comment on column fine_tuning.webhooks.cursor is
  'changes.seq up to which every selected change was delivered, or ended without a delivery.';
comment on column fine_tuning.webhooks.lag is
  'Age of the first change after the cursor, selected or not; 0 if there is none.';
comment on column fine_tuning.webhooks.lag_seconds is 'lag in seconds.';
comment on column fine_tuning.webhooks.failures is
  'Number of attempts that failed since failing_since, or, if that is null, since the last delivery.';
comment on column fine_tuning.webhooks.failing_since is
  'Time of the first attempt of those that could not be answered; null if the last attempt was answered.';
comment on column fine_tuning.webhooks.last_status is 'HTTP status of the last attempt; null without an answer.';
comment on column fine_tuning.webhooks.last_answer is 'Answer to the last attempt, or why there was none, in words.';
comment on column fine_tuning.webhooks.last_attempt_at is 'Time when the last attempt of a delivery ended.';
comment on column fine_tuning.webhooks.next_attempt_at is
  'Time before which a delivery that has failed is not attempted again; null if the last attempt did not fail.';
comment on column fine_tuning.webhooks.delivered_count is 'Number of messages that were delivered.';
comment on column fine_tuning.webhooks.last_delivered_at is 'Time of the last delivery.';
comment on column fine_tuning.webhooks.undelivered_count is
  'Number of messages that ended without a delivery: the endpoint refused them, or failed for three days.';
comment on column fine_tuning.webhooks.last_undelivered_seq is
  'changes.seq of the last such message. checkpointd webhooks --replay sends it again.';
comment on column fine_tuning.webhooks.last_undelivered_at is 'Time when the last such message ended.';
comment on column fine_tuning.webhooks.last_undelivered_reason is 'Why the last such message ended, in words.';
comment on column fine_tuning.webhooks.state is
  'failing (the last attempt failed); behind (the lag is more than five minutes: does a daemon with this webhook '
  'run?); ok.';
