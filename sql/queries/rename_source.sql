-- Rename a source. Returns renamed; unknown if there is no source with this name; or occupied if another source with
-- the new name has jobs.
-- $1 old_name: text
-- $2 new_name: text
select checkpointd.rename_source($1::text, $2::text) as outcome
