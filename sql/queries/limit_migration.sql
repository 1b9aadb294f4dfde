-- Limit how long the current transaction waits for each lock, and how long each of its statements may take.
-- $1 lock_timeout: text, with a unit of PostgreSQL, such as 250ms
-- $2 statement_timeout: text, with a unit of PostgreSQL, such as 3600s
select
  set_config('lock_timeout', $1, true),
  set_config('statement_timeout', $2, true),
  case
    when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', '0', true)
  end
