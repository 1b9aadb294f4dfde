"""The providers by the kind of a source: format, address and key header. Pure data."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from checkpointd.provider.formats.format import Format, Paging
from checkpointd.provider.formats.openai import OPENAI

Kind = Literal["openai", "azure", "bedrock", "nebius", "compatible"]
"""The kinds of sources."""


class Preset(NamedTuple):
    """What is known about a kind of source."""

    format: Format
    base_url: str | None = None
    """The base URL, in which {region} or {resource} stands for the setting; or None if every source has its own."""
    key_header: str = "Authorization"
    """The header of the key. In Authorization, `Bearer` stands before it."""


_NEBIUS: Final = OPENAI._replace(
    checkpoints=OPENAI.checkpoints._replace(paging=Paging.AFTER_FULL),
    jobs=OPENAI.jobs._replace(paging=Paging.AFTER_FULL),
    events=OPENAI.events._replace(paging=Paging.AFTER_FULL),
)

PRESETS: Final[Mapping[str, Preset]] = {
    "openai": Preset(OPENAI, "https://api.openai.com/v1"),
    "azure": Preset(OPENAI, "https://{resource}.openai.azure.com/openai/v1", "api-key"),
    "bedrock": Preset(OPENAI, "https://bedrock-mantle.{region}.api.aws/v1"),
    "nebius": Preset(_NEBIUS, "https://api.tokenfactory.nebius.com/v1"),
    "compatible": Preset(OPENAI),
}
