-- Revoke the right of all roles to call the functions of schema fine_tuning; sql/roles.sql grants it to some roles.
--
-- A database that was restored from a dump may have the default right again.
revoke execute on all functions in schema fine_tuning from public
