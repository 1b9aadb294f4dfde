"""Secrets in what others say: found, plain or encoded, and taken out. Pure.

Providers echo keys, in errors, headers and names, whole or cut off, and in whatever encoding their layers put them.

Found: a secret as it is; escaped as JSON, Python, URLs or HTML do it, up to four layers of that; in base64, its form
for URLs, or hex, wherever in a longer text that began; and two layers of these with escapes between.
Not found: any other encoding, such as Python's names of characters; compression and encryption; what is turned round,
or split (by line breaks, by the colons of a hex dump, over two items); more layers; fewer than BEGINNING characters.
"""

import re
from binascii import a2b_base64, unhexlify
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from html import unescape
from typing import Final
from urllib.parse import unquote_to_bytes

SHORTEST: Final = 6
"""Characters: a header such as `1` or `on` is no secret, and must not blot every text it stands in."""

BEGINNING: Final = 8
"""What begins with so many characters of a secret is taken for one that was cut off."""

_KEY: Final = re.compile(r"^sk[-_]|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20}")
"""A value that stands where a name could: twenty letters and digits, mixed, are no name that anybody gave."""

_LIKELY: Final = re.compile(
    r"""(?ix) \bsk-[\w*.-]{6,} | bearer\s+\S+
    | (?<![\w*-]) [\w*-]* \*{3} [\w*-]*  # a key that was masked
    | (?<=://) [^\s:/@]{0,99}:\S{1,999} (?=@) | (?<=password=) ["']?[^\s&"']+"""
)
"""In running text, where ids of twenty letters and digits stand, too: the words and signs about a secret tell it."""

_SECRET_NAME: Final = re.compile(
    r"auth(?!or(?!iz))|key|token(?!s)|secret|cookie|credential|passw|(?<![a-z])(?:sig|signature|pwd)(?![a-z])|^code$",
    re.IGNORECASE,
)
"""Of a header or a parameter; but for an author, how many tokens, and a code among others, of a country say."""

_PUBLIC_HEADERS: Final = {"openai-organization", "openai-project"}
"""They look like keys, but stand in every job record."""

_BLOT: Final = "[secret]"
_ESCAPED: Final = 4
_ENCODED: Final = 2
"""Layers of escapes, and of base64 or hex."""


def looks_like_key(value: str) -> bool:
    """Say whether a value is a key rather than the name of one."""
    return _KEY.search(value) is not None


def redact_likely(text: str) -> str:
    """Return a text without what looks like a secret, whosever it is. Slow beyond thousands of characters a word."""
    return _LIKELY.sub(_BLOT, text)


def secrets_of(*sent: Mapping[str, str]) -> list[str]:
    """Return what must never be repeated of a request's headers and parameters: the key, and a gateway's."""
    return [
        secret
        for values in sent
        for name, value in values.items()
        if name.lower() not in _PUBLIC_HEADERS and (_SECRET_NAME.search(name) or looks_like_key(value))
        for secret in _words(value)
    ]


def _words(value: str) -> list[str]:
    """Return the words of a secret: without the scheme before it, the names of cookies, and numbers."""
    words = re.split(r"[\s;,]+", value.strip())
    if len(words) > 1 and words[0].isalpha():
        words = words[1:]
    values = [re.sub(r"^[\w.-]+=(?=[^=])", "", word) for word in words]
    return [word for word in values if word and not word.isdecimal()]


class Secrets:
    """Finds some secrets in texts, and takes them out; those shorter than SHORTEST are none."""

    def __init__(self, values: Iterable[str]) -> None:
        kept = sorted({value for value in values if len(value) >= SHORTEST}, key=len, reverse=True)
        begun = [value[:BEGINNING] for value in kept]
        self._whole = re.compile("|".join(map(re.escape, kept)) or "(?!)")
        self._begun = re.compile("|".join(f"{re.escape(value)}\\S*" for value in begun) or "(?!)")
        self._in_whole = _Search(kept)
        self._in_part = _Search(begun)

    def occur_in(self, data: bytes) -> bool:
        """Say whether one stands in these bytes, as it is or encoded."""
        return self._in_whole.finds_in(data)

    def redact(self, text: str) -> str:
        """Return a text without them, and without what looks like one; of a text in which one is encoded nothing."""
        text = self._whole.sub(_BLOT, text)
        return _BLOT if self.occur_in(text.encode(errors="replace")) else redact_likely(text)

    def redact_truncated(self, text: str) -> str:
        """Do what `redact` does, and redact what begins like one, too, for it may be cut off."""
        text = self._begun.sub(_BLOT, self._whole.sub(_BLOT, text))
        return _BLOT if self._in_part.finds_in(text.encode(errors="replace")) else redact_likely(text)


class _Search:
    """Looks for values in bytes that may be encoded."""

    def __init__(self, values: Iterable[str]) -> None:
        # A value that has escapes of its own loses them with those of the text it stands in.
        read = {reading for value in values for reading in _unescaped(value.encode())}
        self._values = [value for value in read if len(value) >= SHORTEST]
        self._shortest_run = min(map(len, self._values), default=0) * 4 // 3

    def finds_in(self, data: bytes) -> bool:
        readings = _readings(data, self._shortest_run, _ENCODED) if self._values else ()
        return any(value in reading for reading in readings for value in self._values)


def _readings(data: bytes, shortest_run: int, layers: int) -> Iterator[bytes]:
    """Return bytes as they are and as they read decoded; what is in base64 or hex is at least `shortest_run` long."""
    reading = data
    for reading in _unescaped(data):
        yield reading
    # Few texts have so long a run, and this tells it in a twentieth of the pattern's time.
    if layers and b"x" * shortest_run in reading.translate(_IN_RUNS):
        for decoded in _decoded(reading, shortest_run):
            yield from _readings(decoded, shortest_run, layers - 1)


def _unescaped(data: bytes) -> Iterator[bytes]:
    """Return bytes as they are, and without escapes, layer by layer."""
    yield data
    for _ in range(_ESCAPED):
        before = data
        if b"\\" in data:
            while b"\\\\" in data:
                data = data.replace(b"\\\\", b"\\")
            data = re.sub(rb"\\(?:U000000|u00|x)(?=[0-7][0-9a-fA-F])", b"%", data.replace(rb"\/", b"/"))
            data = _OCTAL.sub(lambda found: b"%c" % int(found[1], 8), data)
        if b"&" in data:
            data = re.sub(rb"&#?\w{1,12};?", lambda found: _of_html(found[0]), data)
        if b"%" in data:
            data = unquote_to_bytes(data)
        if data == before:
            return
        yield data


_OCTAL: Final = re.compile(rb"\\(1[0-7][0-7]|0[4-7][0-7]|[4-7][0-7])")


@lru_cache(1024)
def _of_html(entity: bytes) -> bytes:
    return unescape(entity.decode()).encode()


_IN_RUNS: Final = bytes(ord("x" if re.match(r"[A-Za-z0-9_+/-]", chr(code)) else " ") for code in range(256))
_FOR_FILES: Final = bytes.maketrans(b"-_", b"+/")


def _decoded(data: bytes, shortest_run: int) -> Iterator[bytes]:
    """Return what long runs are in base64 and in hex, wherever in them it begins."""
    runs = re.findall(rb"(?<![\w+/-])[\w+/-]{%d,}" % shortest_run, data)
    for start in range(4):
        quads = (run[start:] + b"A" * ((start - len(run)) % 4) for run in runs)
        yield a2b_base64(b"".join(quads).translate(_FOR_FILES))
    digits = re.findall(rb"(?<![0-9a-fA-F])[0-9a-fA-F]{%d,}" % shortest_run, b" ".join(runs))
    for start in range(2):
        yield unhexlify(b"".join(run[start : len(run) - (len(run) - start) % 2] for run in digits))
