"""The id and the signature of a message, by the scheme of Standard Webhooks. Pure."""

import base64
import hashlib
import hmac

from checkpointd.domain.feed import ChangeGroup


def message_id(webhook: str, last: ChangeGroup) -> str:
    """Return the id of the message whose last changes these are. It is the same at each repetition.

    It depends on the time, too: a database that was restored from a backup uses some numbers again.
    """
    text = f"{webhook} {last.seq} {last.at}"
    return f"msg_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def signed_headers(key: bytes, id_: str, seconds: int, body: bytes) -> dict[str, str]:
    """Return the headers with the id, the time of the attempt (Unix seconds) and the signature."""
    signed = f"{id_}.{seconds}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return {"webhook-id": id_, "webhook-timestamp": str(seconds), "webhook-signature": f"v1,{signature}"}
