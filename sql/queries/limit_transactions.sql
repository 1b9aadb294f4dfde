-- End this session where one of its transactions lasts longer than $1, as PostgreSQL writes times. No other timeout runs while it
-- reads a statement of which its client has sent a part. Servers before version 17 have none for that.
select set_config('transaction_timeout', $1, false) where current_setting('server_version_num')::int >= 170000
