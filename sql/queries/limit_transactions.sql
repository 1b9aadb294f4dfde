-- Let the server end this session if one of its transactions takes too long (PostgreSQL 17 or newer).
-- $1 transaction_timeout: text, with a unit of PostgreSQL, such as 12s
--
-- No other timeout runs while the server waits for the rest of a statement of which it has received a part.
select set_config('transaction_timeout', $1, false)
where current_setting('server_version_num')::int >= 170000
