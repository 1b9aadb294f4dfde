-- Read the database's clock, in Unix seconds.
select extract(epoch from clock_timestamp())::float8 as now
