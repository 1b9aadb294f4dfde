"""Every statement of sql/queries: one constant for each file, named after the file."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final


@cache
def folder() -> Traversable:
    """Return the folder sql/: inside the installed package, or at the top of a checkout."""
    installed = files("checkpointd") / "sql"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "sql"


def _read(name: str) -> str:
    return (folder() / "queries" / f"{name}.sql").read_text(encoding="utf-8")


ACCEPT_SOURCES: Final = _read("accept_sources")
CHARGE_EVENT_REQUEST: Final = _read("charge_event_request")
CHARGE_SOURCE: Final = _read("charge_source")
CLAIM_DUE_JOBS: Final = _read("claim_due_jobs")
CLAIM_EVENT_LISTS: Final = _read("claim_event_lists")
CLAIM_JOB_LISTS: Final = _read("claim_job_lists")
CLAIM_NAMED_JOBS: Final = _read("claim_named_jobs")
COUNT_BY_SOURCE: Final = _read("count_by_source")
COUNT_EVERYTHING: Final = _read("count_everything")
COUNT_TRACKED_JOBS: Final = _read("count_tracked_jobs")
COUNT_UNSTABLE_JOBS: Final = _read("count_unstable_jobs")
CREATE_DATABASE: Final = _read("create_database")
CREATE_SCHEMA: Final = _read("create_schema")
CREATE_SCHEMA_MIGRATIONS: Final = _read("create_schema_migrations")
DISCOVER_JOBS: Final = _read("discover_jobs")
FAIL_SOURCE: Final = _read("fail_source")
FIND_JOBS: Final = _read("find_jobs")
FIND_LOCK_HOLDERS: Final = _read("find_lock_holders")
FIND_MISSING_RIGHTS: Final = _read("find_missing_rights")
FIND_OBSTACLES: Final = _read("find_obstacles")
FIND_OPEN_RIGHTS: Final = _read("find_open_rights")
FIND_TRACKED_JOBS: Final = _read("find_tracked_jobs")
FIND_UNFINISHED_JOBS: Final = _read("find_unfinished_jobs")
FINISH_EVENT_LIST: Final = _read("finish_event_list")
FINISH_JOB_LIST: Final = _read("finish_job_list")
FIX_SEARCH_PATH: Final = _read("fix_search_path")
FOLLOW_OBJECTIVES: Final = _read("follow_objectives")
HAND_OVER: Final = _read("hand_over")
HAS_DATABASE: Final = _read("has_database")
HAS_SCHEMA_MIGRATIONS: Final = _read("has_schema_migrations")
LEARN_ARRIVALS: Final = _read("learn_arrivals")
LIMIT_MIGRATION: Final = _read("limit_migration")
LIST_COMPARISON: Final = _read("list_comparison")
LIST_CURVES: Final = _read("list_curves")
LIST_FRESHNESS: Final = _read("list_freshness")
LIST_JOB_CHANGES: Final = _read("list_job_changes")
LIST_JOB_CHECKPOINTS: Final = _read("list_job_checkpoints")
LIST_JOB_CURVE: Final = _read("list_job_curve")
LIST_JOB_MESSAGES: Final = _read("list_job_messages")
LIST_JOBS: Final = _read("list_jobs")
LIST_LATEST_LOSSES: Final = _read("list_latest_losses")
LIST_OUTDATED: Final = _read("list_outdated")
LIST_SOURCES: Final = _read("list_sources")
LIST_STEP_CURVES: Final = _read("list_step_curves")
LIST_TRAINING: Final = _read("list_training")
LOCK_SCHEMA_MIGRATIONS: Final = _read("lock_schema_migrations")
PAUSE_SOURCE: Final = _read("pause_source")
PICK_JOBS: Final = _read("pick_jobs")
READ_BEST_CHECKPOINT: Final = _read("read_best_checkpoint")
READ_CLOCK: Final = _read("read_clock")
READ_JOB: Final = _read("read_job")
READ_POLLS: Final = _read("read_polls")
READ_STORED_JOBS: Final = _read("read_stored_jobs")
READ_STORED_PAYLOADS: Final = _read("read_stored_payloads")
READ_SCHEMA_MIGRATIONS: Final = _read("read_schema_migrations")
READ_SERVER: Final = _read("read_server")
RECORD_LISTED_JOBS: Final = _read("record_listed_jobs")
REGISTER_SOURCES: Final = _read("register_sources")
RELEASE_LEASES: Final = _read("release_leases")
RENAME_SOURCE: Final = _read("rename_source")
RESUME_SOURCES: Final = _read("resume_sources")
RESYNC_JOBS: Final = _read("resync_jobs")
SAVE_EVENTS: Final = _read("save_events")
SAVE_JOB_LIST_CURSOR: Final = _read("save_job_list_cursor")
SAVE_JOB_RECORDS: Final = _read("save_job_records")
SAVE_POLLS: Final = _read("save_polls")
SAVE_QUIET_POLLS: Final = _read("save_quiet_polls")
SAVE_SCHEMA_MIGRATION: Final = _read("save_schema_migration")
SEARCH_JOBS: Final = _read("search_jobs")
SET_ASIDE: Final = _read("set_aside")
SET_OBJECTIVE: Final = _read("set_objective")
SET_SOURCE_OBJECTIVES: Final = _read("set_source_objectives")
SHUT_FUNCTIONS: Final = _read("shut_functions")
TRACK_JOBS: Final = _read("track_jobs")
UNTRACK_JOBS: Final = _read("untrack_jobs")
WAKE_FAILING_JOBS: Final = _read("wake_failing_jobs")
WAS_RESUMED: Final = _read("was_resumed")
