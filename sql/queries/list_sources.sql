-- List the sources and their states.
-- $1 configured: text[], the names in the settings
select sources.name, sources.kind, sources.state, sources.since, sources.resume_at, sources.last_error, sources.jobs,
  sources.job_list_complete_at, sources.job_list_error, sources.jobs_left_out_at,
  sources.state = 'paused' and sources.resume_at > clock_timestamp() as is_paused,
  sources.name = any ($1::text[]) or sources.former_names && $1 as is_configured,
  case
    when sources.name <> all ($1) then (
      select former.name
      from unnest(sources.former_names) with ordinality as former (name, position)
      where former.name = any ($1)
      order by former.position desc
      limit 1
    )
  end as outdated_name
from fine_tuning.sources
order by sources.name
