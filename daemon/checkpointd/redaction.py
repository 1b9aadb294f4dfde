"""Secrets in what others say: found, plain or encoded, and taken out. Pure.

Providers echo keys, in errors, headers and names, whole or cut off, and in whatever encoding their layers put them.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

SHORTEST: Final = 6
"""Characters: a header such as `1` or `on` is no secret, and must not blot every text it stands in."""

BEGINNING: Final = 8
"""What begins with so many characters of a secret is taken for one that was cut off."""

LIKE_A_KEY: Final = re.compile(r"^sk[-_]|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20}")
"""Twenty letters and digits, mixed: nobody names anything like that."""

_SECRET_HEADER: Final = re.compile(r"auth|key|token|secret|cookie|credential|passw", re.IGNORECASE)
_PUBLIC_HEADERS: Final = {"openai-organization", "openai-project"}
"""They look like keys, but stand in every job record."""

_BLOT: Final = "[secret]"
_DEEPEST: Final = 3
"""Layers of percent signs."""


def secrets_of(headers: Mapping[str, str]) -> list[str]:
    """Return what must never be repeated of request headers: the key, and a gateway's."""
    return [
        value.split()[-1]
        for name, value in headers.items()
        if name.lower() not in _PUBLIC_HEADERS and value.split()
        and (_SECRET_HEADER.search(name) or LIKE_A_KEY.search(value))
    ]  # fmt: skip


class Secrets:
    """Finds some secrets in texts, and takes them out; those shorter than SHORTEST are none."""

    def __init__(self, values: Iterable[str]) -> None:
        kept = sorted({value for value in values if len(value) >= SHORTEST}, key=len, reverse=True)
        self._whole = re.compile("|".join(map(re.escape, kept)) or "(?!)")
        self._begun = re.compile("|".join(f"{re.escape(value[:BEGINNING])}\\S*" for value in kept) or "(?!)")
        self._forms = [form for value in kept for form in _forms(value)]
        self._begun_forms = [form for value in kept for form in _forms(value[:BEGINNING])]

    def stand_in(self, data: bytes) -> bool:
        """Say whether one stands in these bytes, as it is or encoded."""
        return _stand_in(self._forms, data)

    def blot(self, text: str) -> str:
        """Return a text without them; of a text in which one stands encoded nothing is left."""
        text = self._whole.sub(_BLOT, text)
        return _BLOT if _stand_in(self._forms, text.encode(errors="replace")) else text

    def blot_beginnings(self, text: str) -> str:
        """Return a text without them and without what begins like one, for it may be cut off."""
        text = self._begun.sub(_BLOT, self._whole.sub(_BLOT, text))
        return _BLOT if _stand_in(self._begun_forms, text.encode(errors="replace")) else text


def _stand_in(forms: Iterable[bytes], data: bytes) -> bool:
    return any(form in decoded for decoded in _decoded(data) for form in forms)


def _forms(value: str) -> Iterator[bytes]:
    """Return a value as it is, and what all base64 texts have in common in which it stands, wherever it begins."""
    plain = value.encode()
    yield plain
    for before in range(3):
        encoded = b64encode(bytes(before) + plain)
        common = encoded[(0, 2, 3)[before] : (before + len(plain)) * 8 // 6]
        yield common
        if (for_urls := common.translate(bytes.maketrans(b"+/", b"-_"))) != common:
            yield for_urls


def _decoded(data: bytes) -> Iterator[bytes]:
    """Return bytes as they are, without JSON's escapes, and without those of URLs."""
    yield data
    if b"\\" in data:
        data = re.sub(rb"\\+u00([0-7][0-9a-fA-F])", lambda found: bytes.fromhex(found[1].decode()), data)
        data = re.sub(rb"\\+/", b"/", data)
        yield data
    for _ in range(_DEEPEST):
        if b"%" not in data:
            return
        data = unquote_to_bytes(data)
        yield data
