"""The kinds of simulated providers by their names."""

from collections.abc import Mapping
from typing import Final

from checkpointd.simulator.other_shapes import CoreWeave, Foundry, Tinker, Together
from checkpointd.simulator.shapes import Azure, Bedrock, Compatible, Kind, Nebius, OpenAI

KINDS: Final[Mapping[Kind, OpenAI]] = {
    "openai": OpenAI(),
    "azure": Azure(),
    "bedrock": Bedrock(),
    "nebius": Nebius(),
    "compatible": Compatible(),
    "coreweave": CoreWeave(),
    "together": Together(),
    "tinker": Tinker(),
    "foundry": Foundry(),
}
