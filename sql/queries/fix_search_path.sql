-- Find PostgreSQL's own functions and operators only, until the end of the transaction.
--
-- The connection does this itself, except behind a pooler. There a superuser who migrates would call what the owner of
-- the database has put into schema public.
set local search_path = pg_catalog, pg_temp
