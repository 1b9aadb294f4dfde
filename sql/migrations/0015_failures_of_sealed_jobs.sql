-- The failures of a sealed job are not counted: it is not polled again, so nothing would end them.
update checkpointd.polling
set failures = 0
where sealed_at is not null and failures > 0;

comment on column checkpointd.polling.failures is
  'Polls in a row that failed. Failures of the source do not count, nor those of polls after which the job is sealed.';
