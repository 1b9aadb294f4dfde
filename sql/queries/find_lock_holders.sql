-- Find the sessions that hold most locks, also while the server's lock table is full.
-- $1 named: bool, whether to look up the names of roles, for which a free place in the lock table is needed
--
-- It calls functions where pg_locks and pg_stat_activity would be usual: to read a view, its tables have to be locked.
select locks.pid,
  case when $1::bool then pg_get_userbyid(sessions.usesysid)::text else sessions.usesysid::text end as role,
  count(*) as locks
from pg_lock_status() as locks
join pg_stat_get_activity(null) as sessions on sessions.pid = locks.pid
group by locks.pid, sessions.usesysid
order by locks desc
limit 3
