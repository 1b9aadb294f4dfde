-- Let nobody call functions who was not told to: a restored dump may have lost that.
revoke execute on all functions in schema fine_tuning from public
