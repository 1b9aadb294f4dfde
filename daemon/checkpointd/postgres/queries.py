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
CHARGE_SOURCE: Final = _read("charge_source")
CLAIM_DUE_JOBS: Final = _read("claim_due_jobs")
CLAIM_JOB_LISTS: Final = _read("claim_job_lists")
CLAIM_NAMED_JOBS: Final = _read("claim_named_jobs")
COUNT_BY_SOURCE: Final = _read("count_by_source")
COUNT_EVERYTHING: Final = _read("count_everything")
COUNT_TRACKED_JOBS: Final = _read("count_tracked_jobs")
CREATE_DATABASE: Final = _read("create_database")
CREATE_SCHEMA: Final = _read("create_schema")
CREATE_SCHEMA_MIGRATIONS: Final = _read("create_schema_migrations")
DISCOVER_JOBS: Final = _read("discover_jobs")
EXTEND_POLLS: Final = _read("extend_polls")
FENCE_JOB_LIST: Final = _read("fence_job_list")
FENCE_POLLS: Final = _read("fence_polls")
FIND_JOBS: Final = _read("find_jobs")
FIND_MISSING_RIGHTS: Final = _read("find_missing_rights")
FIND_OBSTACLES: Final = _read("find_obstacles")
FIND_TRACKED_JOBS: Final = _read("find_tracked_jobs")
FIND_UNFINISHED_JOBS: Final = _read("find_unfinished_jobs")
FINISH_JOB_LIST: Final = _read("finish_job_list")
FINISH_POLLS: Final = _read("finish_polls")
HAS_DATABASE: Final = _read("has_database")
HAS_SCHEMA_MIGRATIONS: Final = _read("has_schema_migrations")
INSERT_CHANGES: Final = _read("insert_changes")
INSERT_POLLS: Final = _read("insert_polls")
LIMIT_MIGRATION: Final = _read("limit_migration")
LIMIT_TRANSACTIONS: Final = _read("limit_transactions")
LIST_CURVES: Final = _read("list_curves")
LIST_FRESHNESS: Final = _read("list_freshness")
LIST_JOB_CHANGES: Final = _read("list_job_changes")
LIST_JOB_CHECKPOINTS: Final = _read("list_job_checkpoints")
LIST_JOB_CURVE: Final = _read("list_job_curve")
LIST_JOBS: Final = _read("list_jobs")
LIST_LATEST_LOSSES: Final = _read("list_latest_losses")
LIST_SOURCES: Final = _read("list_sources")
LOCK_SCHEMA_MIGRATIONS: Final = _read("lock_schema_migrations")
MARK_CHECKPOINTS: Final = _read("mark_checkpoints")
PAUSE_SOURCE: Final = _read("pause_source")
PICK_JOBS: Final = _read("pick_jobs")
READ_JOB: Final = _read("read_job")
READ_STORED_CHECKPOINTS: Final = _read("read_stored_checkpoints")
READ_STORED_JOBS: Final = _read("read_stored_jobs")
READ_SCHEMA_MIGRATIONS: Final = _read("read_schema_migrations")
READ_SERVER: Final = _read("read_server")
REFUSE_SOURCE: Final = _read("refuse_source")
REGISTER_SOURCES: Final = _read("register_sources")
RELEASE_LEASES: Final = _read("release_leases")
RESYNC_JOBS: Final = _read("resync_jobs")
SAVE_QUIET_POLLS: Final = _read("save_quiet_polls")
SAVE_REJECTS: Final = _read("save_rejects")
SAVE_SCHEMA_MIGRATION: Final = _read("save_schema_migration")
SEARCH_JOBS: Final = _read("search_jobs")
SHUT_FUNCTIONS: Final = _read("shut_functions")
SUMMARISE_JOBS: Final = _read("summarise_jobs")
TRACK_JOBS: Final = _read("track_jobs")
UNTRACK_JOBS: Final = _read("untrack_jobs")
UPDATE_CHECKPOINTS: Final = _read("update_checkpoints")
UPDATE_JOBS: Final = _read("update_jobs")
WAKE_JOBS: Final = _read("wake_jobs")
