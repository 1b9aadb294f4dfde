-- How long this transaction may wait for each lock, and how long each statement may take. $1, $2 as PostgreSQL writes times.
select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),
  case when current_setting('server_version_num')::int >= 170000 then set_config('transaction_timeout', '0', true) end
