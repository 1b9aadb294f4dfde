"""OpenAI's format: `GET /fine_tuning/jobs/{id}/checkpoints`. It lacks nothing that checkpointd stores.

Its items are read in domain/, whose types have the names of this format. Azure, Amazon Bedrock, Nebius and many
gateways have the same format.
"""

from typing import Final

from checkpointd.domain.checkpoint import OPENAI_READER
from checkpointd.provider.formats.format import Format, ListFormat

OPENAI: Final = Format(
    checkpoints=ListFormat("/fine_tuning/jobs/{}/checkpoints"),
    reader=OPENAI_READER,
    jobs=ListFormat("/fine_tuning/jobs"),
    events=ListFormat("/fine_tuning/jobs/{}/events"),
    models=ListFormat("/models", "whole"),
)
