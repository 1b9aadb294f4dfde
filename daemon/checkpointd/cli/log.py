"""The request headers of the sources, and a log that contains none of their secrets."""

from collections.abc import Mapping

from checkpointd.postgres import dsn
from checkpointd.redaction import secrets_of
from checkpointd.settings.model import Settings
from checkpointd.telemetry.logs import configure


def read_headers(settings: Settings) -> dict[str, dict[str, str]]:
    """Read the key of every source. Returns the request headers by the source's name. Raises SettingsError."""
    return {source.name: source.request_headers() for source in settings.sources}


def configure_log(settings: Settings, headers_by_source: Mapping[str, Mapping[str, str]], level: str) -> None:
    """Set up the log. It shows neither the secrets of the sources' requests nor the passwords of database and proxies.

    Raises SettingsError.
    """
    secrets = [s for source in settings.sources for s in secrets_of(source.query, headers_by_source[source.name])]
    proxies = [source.read_proxy_credentials() for source in settings.sources]
    secrets += [credentials.partition(":")[2] for credentials in proxies if credentials]
    if settings.database_url is not None:
        secrets += dsn.parse(settings.database_url).secrets
    configure(settings.log_format, level, secrets)
