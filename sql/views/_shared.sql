-- What several views share: where a tracked job stands, and providers' times, which may be anything.
create or replace function checkpointd.phase(job checkpointd.jobs, polling checkpointd.polling) returns text
language sql stable return case
  when job.untracked_at is not null then 'untracked'
  when polling.sealed_at is not null then 'sealed'
  when polling.error_class = 'missing' and polling.failures >= 5
    and polling.failing_since <= polling.last_attempt_at - interval '1 hour' then 'gone'
  when polling.error_class in ('missing', 'forbidden') then polling.error_class
  when polling.settling_since is not null then 'settling'
  else 'active' end;
comment on function checkpointd.phase is 'active, settling (ended, still polled), sealed (ended, polling stopped), missing, gone (missing for long, polled daily), forbidden, untracked.';
create or replace function checkpointd.unix_time(seconds bigint, ahead interval) returns timestamptz
language sql stable return case when seconds >= 1420070400 and seconds <= extract(epoch from now() + ahead)
  then to_timestamp(seconds) end;
comment on function checkpointd.unix_time is 'A provider''s time; null where it cannot be: before 2015, or further ahead than given.';
