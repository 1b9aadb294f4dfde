"""The providers by the kind of a source: format, address, headers and parameters. Pure data."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from checkpointd.provider.formats.coreweave import COREWEAVE
from checkpointd.provider.formats.format import Format
from checkpointd.provider.formats.foundry import FOUNDRY
from checkpointd.provider.formats.openai import OPENAI
from checkpointd.provider.formats.tinker import TINKER
from checkpointd.provider.formats.together import TOGETHER

Kind = Literal["openai", "azure", "bedrock", "nebius", "compatible", "coreweave", "together", "tinker", "foundry"]
"""The kinds of sources."""


class Preset(NamedTuple):
    """What is known about a kind of source."""

    format: Format
    base_url: str | None = None
    """The base URL, in which {region} or {resource} stands for the setting; or None if every source has its own."""
    key_header: str = "Authorization"
    """The header of the key. In Authorization, `Bearer` stands before it."""
    issued_key_header: str | None = None
    """The header of a key that a command prints, or None if it is the same."""
    most_items: int | None = None
    """The most items of a page that may be requested, or None if that is not documented."""
    lists_jobs: bool = True
    """False if there is no job list, or as a rule none."""
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    """Headers and query parameters of every request, unless the settings of a source have others."""


_NEBIUS: Final = OPENAI.with_paging("after_empty")

PRESETS: Final[Mapping[str, Preset]] = {
    "openai": Preset(OPENAI, "https://api.openai.com/v1"),
    # Azure and Foundry take their own keys in api-key, but the tokens of Entra, which commands print, as bearer tokens.
    "azure": Preset(OPENAI, "https://{resource}.openai.azure.com/openai/v1", "api-key", "Authorization"),
    "bedrock": Preset(OPENAI, "https://bedrock-mantle.{region}.api.aws/v1"),
    "nebius": Preset(_NEBIUS, "https://api.tokenfactory.nebius.com/v1"),
    "compatible": Preset(OPENAI, lists_jobs=False),
    "coreweave": Preset(
        COREWEAVE, "https://forge.coreweave.com/api/training/v1/preview", most_items=100, lists_jobs=False
    ),
    "together": Preset(TOGETHER, "https://api.together.ai/v1"),
    "tinker": Preset(TINKER, "https://tinker.thinkingmachines.dev/services/tinker-prod/api/v1", "X-API-Key"),
    "foundry": Preset(
        FOUNDRY,
        key_header="api-key",
        issued_key_header="Authorization",
        headers={"Foundry-Features": "FineTuningSessions=V1Preview"},
        query={"api-version": "v1"},
    ),
}
