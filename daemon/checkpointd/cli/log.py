"""What the requests to the sources carry, and a log that contains none of their secrets."""

from checkpointd.polling.setup import FieldsBySource, open_proxy, source_secrets
from checkpointd.postgres import dsn
from checkpointd.settings.model import Settings
from checkpointd.settings.source import RequestFields
from checkpointd.telemetry.logs import configure


def read_fields(settings: Settings) -> dict[str, RequestFields]:
    """Read the secrets of every source. Returns what its requests carry, by its name. Raises SettingsError."""
    return {source.name: source.request_fields() for source in settings.sources}


def configure_log(settings: Settings, fields_by_source: FieldsBySource, level: str) -> None:
    """Set up the log. It shows neither the secrets of the sources' requests nor the passwords of database and proxies.

    Raises SettingsError.
    """
    secrets = [
        secret
        for source in settings.sources
        for secret in source_secrets(fields_by_source[source.name], open_proxy(source))
    ]
    if settings.database_url is not None:
        secrets += dsn.parse(settings.database_url).secrets
    configure(settings.log_format, level, secrets)
