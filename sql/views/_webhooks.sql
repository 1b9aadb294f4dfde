-- Functions of the statements that send changes.
create or replace function checkpointd.utc_text(at timestamptz) returns text
language sql stable
return to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
comment on function checkpointd.utc_text is 'Returns a time as text, such as 2026-07-01T12:00:00.000000Z.';

create or replace function checkpointd.is_past_minute(at timestamptz, now timestamptz) returns boolean
language sql stable
return not at between date_trunc('minute', now) and now + interval '1 minute';
comment on function checkpointd.is_past_minute is
  'Returns whether the minute of a time is over. A time that was written far in the future holds nothing back.';
