-- Revoke the right of all roles to call the functions of the contract; sql/roles.sql grants it where it is due.
--
-- A database that was restored from a dump may have the default right again.
revoke execute on all functions in schema fine_tuning from public
