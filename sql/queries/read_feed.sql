-- Read what follows in the feed of changes, for a webhook. Selected changes of one poll, job and kind that follow
-- each other are one group; a change without a poll is one by itself. A poll commits all its changes at once, so a
-- group is the same whenever it is read. Only the end of a group of more than $5 changes depends on where the reading
-- begins.
-- $1 cursor: bigint, changes.seq after which to read
-- $2 kinds: text[], which kinds of changes to select, or of findings that fire or are resolved
-- $3 sources: text[], regular expressions, of which the name of the source must match one
-- $4 jobs: text[], regular expressions, of which the id of the job must match one, if there is a job
-- $5 most_changes: int, how many changes to look at
-- $6 most_groups: int, how many groups to return
-- $7 most_details: int, of how many changes of a group, the last ones, the details are returned
-- $8 past_minutes: bool, whether to leave out what follows the first change of a minute that is not over
with clock as materialized (select clock_timestamp() as now),

part as materialized (
  select seq, at, job, poll, kind, field, finding
  from checkpointd.changes
  where seq > $1::bigint
  order by seq
  limit $5::int
),

bounds as materialized (
  select count(*) = $5 as is_full, max(part.seq) as seq,
    (array_agg(part.poll order by part.seq desc))[1] as poll,
    min(part.seq) filter (where $8::bool and not checkpointd.is_past_minute(part.at, clock.now)) as not_yet
  from part
  cross join clock
),

selected as (
  select part.*, sources.name as source, jobs.id as job_id,
    part.poll is null
      or part.poll is distinct from lag(part.poll) over (order by part.seq)
      or part.kind is distinct from lag(part.kind) over (order by part.seq) as is_first
  from part
  cross join bounds
  left join checkpointd.findings on findings.id = part.finding
  left join checkpointd.jobs on jobs.key = part.job
  join checkpointd.sources on sources.key = coalesce(jobs.source, findings.source)
  where (part.kind = any($2::text[]) or part.finding is not null and part.field = any($2))
    and sources.name ~ any($3::text[])
    and (part.job is null or jobs.id ~ any($4::text[]))
    and (bounds.not_yet is null or part.seq < bounds.not_yet)
),

numbered as (
  select selected.*, count(*) filter (where is_first) over (order by seq) as number
  from selected
),

whole as materialized (
  select number, min(seq) as first_seq, max(seq) as seq, max(at) as at, min(kind) as kind, min(source) as source,
    min(job_id) as job_id, count(*) as size, min(poll) as poll, min(finding) as finding
  from numbered
  group by number
  order by number
  limit $6::int
),

judged as materialized (
  -- The last group may continue after the part that was read.
  select whole.*, bounds.is_full and whole.number > 1 and whole.poll = bounds.poll as is_open
  from whole
  cross join bounds
),

complete as materialized (select * from judged where is_open is not true),

read as (
  select coalesce(
      (select min(first_seq) - 1 from judged where is_open),
      (select max(seq) from complete having count(*) = $6),
      bounds.not_yet - 1,
      bounds.seq,
      $1
    ) as read_to
  from bounds
)

select read.read_to,
  coalesce((
    select json_agg(
      json_build_object(
        'seq', complete.seq,
        'first_seq', complete.first_seq,
        'at', checkpointd.utc_text(complete.at),
        'age', extract(epoch from clock.now - complete.at),
        'kind', complete.kind,
        'source', complete.source,
        'fine_tuning_job_id', complete.job_id,
        'size', complete.size,
        'changes', (
          select json_agg(
            json_build_object(
              'checkpoint_id', details.checkpoint_id,
              'field', details.field,
              'old_value', details.old_value,
              'new_value', details.new_value,
              'initial_values', details.initial_values
            )
            order by details.seq
          )
          from (
            select *
            from fine_tuning.changes
            where changes.seq between complete.first_seq and complete.seq
              and changes.kind = complete.kind
              and changes.poll_id is not distinct from complete.poll
            order by changes.seq desc
            limit $7::int
          ) as details
        ),
        'finding', (
          select json_build_object(
            'id', findings.id,
            'kind', findings.kind,
            'message', details.message,
            'since', checkpointd.utc_text(findings.since),
            'until', case when complete.kind = 'resolved' then checkpointd.utc_text(complete.at) end,
            'value', findings.value,
            'checkpoint_id', details.checkpoint_id,
            'model', findings.model
          )
          from checkpointd.findings
          cross join (
            select coalesce(changes.new_value, changes.old_value) as message, changes.checkpoint_id
            from checkpointd.changes
            where changes.seq = complete.seq
          ) as details
          where findings.id = complete.finding
        )
      )
      order by complete.number
    )
    from complete
    cross join clock
  ), '[]')::text as groups
from read
