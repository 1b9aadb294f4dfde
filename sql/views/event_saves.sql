-- The procedure that saves events. It commits itself, for the reason given in saves.sql. The names of its parameters
-- are those of the fields in postgres/rows.py: the steps (`step_`), the messages (`message_`) and the rejects.

create or replace procedure checkpointd.save_events(
  inout saved boolean,
  inout new_steps bigint,
  inout new_messages bigint,
  inout left_out boolean,
  list_job bigint,
  list_lease_token bigint,
  list_cursor text,
  list_pages int,
  list_ids text,
  list_is_complete boolean,
  most_steps bigint,
  most_earlier_steps bigint,
  most_messages bigint,
  most_rejects bigint,
  step_step_number bigint[],
  step_id text[],
  step_created_at bigint[],
  step_total_steps bigint[],
  step_train_loss double precision[],
  step_train_mean_token_accuracy double precision[],
  step_valid_loss double precision[],
  step_valid_mean_token_accuracy double precision[],
  step_full_valid_loss double precision[],
  step_full_valid_mean_token_accuracy double precision[],
  step_extra_metrics text[],
  step_payload text[],
  step_is_newest boolean[],
  step_is_newer boolean[],
  message_id text[],
  message_created_at bigint[],
  message_level text[],
  message_type text[],
  message_message text[],
  message_payload text[],
  reject_owner bigint[],
  reject_digest bytea[],
  reject_reason text[],
  reject_raw bytea[],
  reject_is_stored boolean[]
)
language plpgsql as $$
#variable_conflict use_column
declare
  list checkpointd.event_lists;
  new_earlier_steps bigint := 0;
  room bigint;
begin
  saved := false;
  new_steps := 0;
  new_messages := 0;
  left_out := false;

  -- The fence: lock the row if it still has this lease.
  select *
  into list
  from checkpointd.event_lists
  where job = list_job
    and lease_token = list_lease_token
    and lease_expires_at is not null
  for no key update;
  if not found then
    rollback;
    return;
  end if;

  if list.steps < most_steps then
    insert into checkpointd.steps (
      job, step_number, id, created_at, total_steps, train_loss, train_mean_token_accuracy, valid_loss,
      valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload
    )
    select list_job, step_number, id, created_at, total_steps, train_loss, train_mean_token_accuracy, valid_loss,
      valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics::jsonb, payload::json
    from (
      select unnest(step_is_newest) as is_newest, unnest(step_step_number) as step_number, unnest(step_id) as id,
        unnest(step_created_at) as created_at, unnest(step_total_steps) as total_steps,
        unnest(step_train_loss) as train_loss, unnest(step_train_mean_token_accuracy) as train_mean_token_accuracy,
        unnest(step_valid_loss) as valid_loss, unnest(step_valid_mean_token_accuracy) as valid_mean_token_accuracy,
        unnest(step_full_valid_loss) as full_valid_loss,
        unnest(step_full_valid_mean_token_accuracy) as full_valid_mean_token_accuracy,
        unnest(step_extra_metrics) as extra_metrics, unnest(step_payload) as payload
    ) as listed
    where is_newest
    on conflict (job, step_number) do nothing;
    get diagnostics new_steps = row_count;
  elsif cardinality(step_id) > 0 then
    left_out := exists (
      select
      from unnest(step_step_number) as listed (step_number)
      left join checkpointd.steps on steps.job = list_job and steps.step_number = listed.step_number
      where steps.job is null
    );
  end if;

  -- Steps of which an event is stored already. An event with another id that is newer replaces what is stored, which
  -- becomes a row of earlier_steps; an older one becomes such a row itself. An event that changed replaces its former
  -- values, except that a null never overwrites a known value.
  if new_steps < cardinality(step_id) then
    room := greatest(most_earlier_steps - list.earlier_steps, 0);
    with changed as materialized (
      select listed.*, steps.id = listed.id as is_same,
        listed.is_newest and case
          when steps.id = listed.id then true
          when listed.created_at <> steps.created_at then listed.created_at > steps.created_at
          else listed.is_newer
        end as replaces
      from (
        select unnest(step_is_newest) as is_newest, unnest(step_is_newer) as is_newer,
          unnest(step_step_number) as step_number, unnest(step_id) as id, unnest(step_created_at) as created_at,
          unnest(step_total_steps) as total_steps,
          unnest(step_train_loss) as train_loss, unnest(step_train_mean_token_accuracy) as train_mean_token_accuracy,
          unnest(step_valid_loss) as valid_loss, unnest(step_valid_mean_token_accuracy) as valid_mean_token_accuracy,
          unnest(step_full_valid_loss) as full_valid_loss,
          unnest(step_full_valid_mean_token_accuracy) as full_valid_mean_token_accuracy,
          unnest(step_extra_metrics)::jsonb as extra_metrics, unnest(step_payload)::json as payload
      ) as listed
      join checkpointd.steps on steps.job = list_job and steps.step_number = listed.step_number
      where case
        when steps.id <> listed.id then not exists (
          select
          from checkpointd.earlier_steps
          where earlier_steps.job = list_job
            and earlier_steps.step_number = listed.step_number
            and earlier_steps.id = listed.id
        )
        else listed.created_at is not null and listed.created_at is distinct from steps.created_at
          or listed.total_steps is not null and listed.total_steps is distinct from steps.total_steps
          or listed.train_loss is not null and listed.train_loss is distinct from steps.train_loss
          or listed.train_mean_token_accuracy is not null
            and listed.train_mean_token_accuracy is distinct from steps.train_mean_token_accuracy
          or listed.valid_loss is not null and listed.valid_loss is distinct from steps.valid_loss
          or listed.valid_mean_token_accuracy is not null
            and listed.valid_mean_token_accuracy is distinct from steps.valid_mean_token_accuracy
          or listed.full_valid_loss is not null and listed.full_valid_loss is distinct from steps.full_valid_loss
          or listed.full_valid_mean_token_accuracy is not null
            and listed.full_valid_mean_token_accuracy is distinct from steps.full_valid_mean_token_accuracy
          or listed.extra_metrics is not null
            and not coalesce(steps.extra_metrics @> listed.extra_metrics, false)
          or listed.payload is not null and listed.payload::text is distinct from steps.payload::text
      end
      limit room + 1
    ),

    differing as materialized (
      select *
      from changed
      limit room
    ),

    replaced as (
      update checkpointd.steps
      set id = listed.id,
        created_at = coalesce(listed.created_at, steps.created_at),
        total_steps = coalesce(listed.total_steps, case when is_same then steps.total_steps end),
        train_loss = coalesce(listed.train_loss, case when is_same then steps.train_loss end),
        train_mean_token_accuracy = coalesce(
          listed.train_mean_token_accuracy, case when is_same then steps.train_mean_token_accuracy end
        ),
        valid_loss = coalesce(listed.valid_loss, case when is_same then steps.valid_loss end),
        valid_mean_token_accuracy = coalesce(
          listed.valid_mean_token_accuracy, case when is_same then steps.valid_mean_token_accuracy end
        ),
        full_valid_loss = coalesce(listed.full_valid_loss, case when is_same then steps.full_valid_loss end),
        full_valid_mean_token_accuracy = coalesce(
          listed.full_valid_mean_token_accuracy, case when is_same then steps.full_valid_mean_token_accuracy end
        ),
        extra_metrics = case
          when is_same then coalesce(
            steps.extra_metrics || listed.extra_metrics, listed.extra_metrics, steps.extra_metrics
          )
          else listed.extra_metrics
        end,
        payload = case when is_same then coalesce(listed.payload, steps.payload) else listed.payload end
      from differing as listed
      where listed.replaces
        and steps.job = list_job
        and steps.step_number = listed.step_number
    ),

    kept as (
      insert into checkpointd.earlier_steps (
        job, step_number, id, created_at, total_steps, train_loss, train_mean_token_accuracy, valid_loss,
        valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload
      )
      select steps.job, steps.step_number, steps.id, steps.created_at, steps.total_steps, steps.train_loss,
        steps.train_mean_token_accuracy, steps.valid_loss, steps.valid_mean_token_accuracy, steps.full_valid_loss,
        steps.full_valid_mean_token_accuracy, steps.extra_metrics, steps.payload
      from checkpointd.steps
      join differing on differing.step_number = steps.step_number and differing.replaces
      where steps.job = list_job
      union all
      select list_job, step_number, id, created_at, total_steps, train_loss, train_mean_token_accuracy, valid_loss,
        valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload
      from differing
      where not replaces
        and not is_same
      returning 1
    )

    select (select count(*) from kept), left_out or (select count(*) from changed) > room
    into new_earlier_steps, left_out;
  end if;

  if list.messages < most_messages then
    insert into checkpointd.events (job, id, created_at, level, type, message, payload)
    select list_job, id, created_at, level, type, message, payload::json
    from unnest(
      message_id, message_created_at, message_level, message_type, message_message, message_payload
    ) as listed (id, created_at, level, type, message, payload)
    on conflict (job, id) do nothing;
    get diagnostics new_messages = row_count;
  elsif cardinality(message_id) > 0 then
    left_out := left_out or exists (
      select
      from unnest(message_id) as listed (id)
      left join checkpointd.events on events.job = list_job and events.id = listed.id
      where events.job is null
    );
  end if;

  perform checkpointd.save_rejects(
    reject_owner, reject_digest, reject_reason, reject_raw, reject_is_stored, most_rejects
  );

  update checkpointd.event_lists
  set cursor = list_cursor,
    pages = list_pages,
    pass_from = coalesce(list.pass_from, list.attempt_at),
    pass_is_complete = list_is_complete,
    pass_ids = string_to_array(list_ids, E'\n'),
    steps = list.steps + new_steps,
    steps_at = case when new_steps > 0 then clock_timestamp() else list.steps_at end,
    earlier_steps = list.earlier_steps + new_earlier_steps,
    messages = list.messages + new_messages,
    failures = 0,  -- but failing_since stays until a pass has ended: a list may break after each first page
    left_out_at = case when left_out then clock_timestamp() else list.left_out_at end
  where job = list_job;
  saved := true;
  commit;
end $$;
comment on procedure checkpointd.save_events is
  'Saves events of a job, and how far its list has been read, if the list still has the lease, and commits. Returns '
  'whether it has, how many steps and messages are new, and whether some were left out because too many are stored.';
