"""Find secrets in the texts of other programs, plain or encoded, and remove them. Pure.

Providers repeat keys in errors, headers and names. The keys may be complete or cut off, and encoded by a program in
between.

These forms of a secret are found:

- unchanged;
- with the escapes of JSON, Python, URLs or HTML, in up to four layers;
- in base64, base64 for URLs, or hex, also as a part of a longer encoded text;
- in two layers of these encodings, with escapes between them.

These are not found: other encodings, such as Python's names of characters; compressed or encrypted texts; secrets that
are reversed, or split (by line breaks, by the colons of a hex dump, over two items); more layers; and in an error,
parts that are shorter than PART_LENGTH, or encoded.
"""

import re
from binascii import a2b_base64, unhexlify
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from html import unescape
from typing import Final
from urllib.parse import unquote_to_bytes

SHORTEST: Final = 6
"""Characters. Shorter values are not treated as secrets: a header such as `on` would be removed from every text."""

PART_LENGTH: Final = 8
"""Characters. In an error, a word that has so many characters of a secret in a row is removed."""

_KEY: Final = re.compile(r"^sk[-_]|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20}")
"""Matches a key where a name is expected. Names that people choose do not have 20 mixed letters and digits in a row."""

_LIKELY_SECRET: Final = re.compile(
    r"""(?ix) \bsk-[\w*.-]{6,} | bearer\s+\S+
    | (?<![\w*-]) [\w*-]* \*{3} [\w*-]*  # a key that was masked
    | (?<=://) [^\s:/@]{0,99}:\S{1,999} (?=@) | (?<=password=) ["']?[^\s&"']+"""
)
"""Matches a likely secret in running text, by its beginning, its mask or the text around it. A long mix of
letters and digits is not enough, because the ids of jobs look like that."""

_SECRET_NAME: Final = re.compile(
    r"auth(?!or(?!iz))|key|token(?!s)|secret|cookie|credential|passw|(?<![a-z])(?:sig|signature|pwd)(?![a-z])|^code$",
    re.IGNORECASE,
)
"""Matches the name of a header or parameter with a secret, but not `author`, `max_tokens` or `country-code`."""

_PUBLIC_HEADERS: Final = {"openai-organization", "openai-project"}
"""Headers that are not secret, although their values look like keys: every job record contains them."""

_ABOUT_A_KEY: Final = re.compile(r"(?i)\bapi[ _-]?key|\bbearer\b|\baccess[ _-]token")
"""Matches a text that may quote a key: an error that refuses it."""

_QUOTED_PART: Final = 4
"""Characters. Providers that mask a key show this much of it, or more."""

_LONGEST_WORD: Final = 80
"""Characters, of a word, or of the address of a page about an error."""

_REDACTED: Final = "[secret]"
_ESCAPE_LAYERS: Final = 4
_ENCODING_LAYERS: Final = 2


def looks_like_key(value: str) -> bool:
    """Return whether a value is probably a key, and not the name of one."""
    return _KEY.search(value) is not None


def redact_likely(text: str) -> str:
    """Return a text without anything that looks like a secret. Slow if a word has thousands of characters."""
    return _LIKELY_SECRET.sub(_REDACTED, text)


def secrets_of(*sent: Mapping[str, str]) -> list[str]:
    """Return the secrets of a request's headers and parameters: the provider's key, and that of a gateway."""
    return [
        secret
        for values in sent
        for name, value in values.items()
        if name.lower() not in _PUBLIC_HEADERS and (_SECRET_NAME.search(name) or looks_like_key(value))
        for secret in secret_words(value)
    ]


def secret_words(value: str) -> list[str]:
    """Return the words of a value without its scheme (such as Bearer), the names of cookies, and numbers."""
    words = re.split(r"[\s;,]+", value.strip())
    if len(words) > 1 and words[0].isalpha():
        words = words[1:]
    values = [re.sub(r"^[\w.-]+=(?=[^=])", "", word) for word in words]
    return [word for word in values if word and not word.isdecimal()]


class Secrets:
    """Finds these secrets in texts, and removes them. Ignores those shorter than SHORTEST."""

    def __init__(self, values: Iterable[str]) -> None:
        secrets = sorted({value for value in values if len(value) >= SHORTEST}, key=len, reverse=True)
        self._lower = "\n".join(secrets).lower()
        self._plain = re.compile("|".join(map(re.escape, secrets)) or "(?!)")
        self._encoded = _EncodedSearch(secrets)
        self._encoded_prefix = _EncodedSearch([value[:PART_LENGTH] for value in secrets])

    def occur_in(self, data: bytes) -> bool:
        """Return whether these bytes contain one of the secrets, as it is or encoded."""
        return self._encoded.finds_in(data)

    def redact(self, text: str) -> str:
        """Return a text without the secrets, and without anything that looks like one.

        If the text contains an encoded secret, none of it is returned.
        """
        text = self._plain.sub(_REDACTED, text)
        return _REDACTED if self.occur_in(text.encode(errors="replace")) else redact_likely(text)

    def redact_truncated(self, text: str, *, may_quote: bool = False) -> str:
        """Redact a text that may quote a part of a secret: also remove words with PART_LENGTH characters of one.

        With `may_quote`, or if the text is about a key, it may contain any part of one, masked in some way: then only
        plain words and short numbers are kept.
        """
        text = _without_words(self._plain.sub(_REDACTED, text), lambda word: self._has_part(word, PART_LENGTH))
        if self._encoded_prefix.finds_in(text.encode(errors="replace")):
            return _REDACTED
        text = redact_likely(text)
        if may_quote or _ABOUT_A_KEY.search(text):
            text = _without_words(text, lambda word: not self._is_plain(word))
        return text

    def _has_part(self, word: str, length: int) -> bool:
        """Return whether a word contains so many characters of a secret in a row, in any case."""
        lower = word.lower()
        return any(lower[at : at + length] in self._lower for at in range(len(lower) - length + 1))

    def _is_plain(self, word: str) -> bool:
        """Return whether a word cannot be a part of a secret."""
        core = word.strip("\"'`()[]{}<>,.;:!?")
        if core == "secret" or re.fullmatch(r"\d{0,3}", core):
            return True
        is_word = len(core) <= _LONGEST_WORD and re.fullmatch(r"[^\W\d_]+(?:[\W_]{1,3}[^\W\d_]+)*", core)
        if not is_word or re.search(r"[*•…]|\.{2}|x{4}", core):
            return False
        return not self._has_part(core, _QUOTED_PART)


def _without_words(text: str, is_secret: Callable[[str], bool]) -> str:
    """Return a text with [secret] instead of each word for which `is_secret` returns true."""
    return re.sub(r"\S+", lambda found: _REDACTED if is_secret(found[0]) else found[0], text)


class _EncodedSearch:
    """Finds values in bytes, as they are or encoded."""

    def __init__(self, values: Iterable[str]) -> None:
        # Removing the escapes of a text also removes those that belong to a value, so both forms are searched for.
        forms = {form for value in values for form in _unescaped(value.encode())}
        self._forms = [form for form in forms if len(form) >= SHORTEST]
        # Base64 is the shortest of the encodings: it makes four characters out of three.
        self._shortest_run = min(map(len, self._forms), default=0) * 4 // 3

    def finds_in(self, data: bytes) -> bool:
        decodings = _decodings(data, self._shortest_run, _ENCODING_LAYERS) if self._forms else ()
        return any(form in decoding for decoding in decodings for form in self._forms)


def _decodings(data: bytes, shortest_run: int, layers: int) -> Iterator[bytes]:
    """Yield the bytes as they are and as they decode. Runs of base64 or hex have at least `shortest_run` characters."""
    unescaped = data
    for unescaped in _unescaped(data):
        yield unescaped
    # Few texts have a run of this length. The test takes a sixth of the time of splitting the text into runs.
    if layers and b"x" * shortest_run in unescaped.translate(_MARK_RUNS):
        for decoded in _decoded_runs(unescaped, shortest_run):
            yield from _decodings(decoded, shortest_run, layers - 1)


_OCTAL: Final = re.compile(rb"\\(1[0-7][0-7]|0[4-7][0-7]|[4-7][0-7])")


def _unescaped(data: bytes) -> Iterator[bytes]:
    """Yield the bytes as they are, and then without one more layer of escapes each time."""
    yield data
    for _ in range(_ESCAPE_LAYERS):
        before = data
        if b"\\" in data:
            while b"\\\\" in data:
                data = data.replace(b"\\\\", b"\\")
            # \u0041, \U00000041 and \x41 become %41, which is decoded below.
            data = re.sub(rb"\\(?:U000000|u00|x)(?=[0-7][0-9a-fA-F])", b"%", data.replace(rb"\/", b"/"))
            data = _OCTAL.sub(lambda found: b"%c" % int(found[1], 8), data)
        if b"&" in data:
            data = re.sub(rb"&#?\w{1,12};?", lambda found: _html_unescape(found[0]), data)
        if b"%" in data:
            data = unquote_to_bytes(data)
        if data == before:
            return
        yield data


@lru_cache(1024)
def _html_unescape(entity: bytes) -> bytes:
    return unescape(entity.decode()).encode()


_BASE64: Final = {*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"}
_URL_FORM: Final = {ord("-"): ord("+"), ord("_"): ord("/")}
"""The characters of base64, and of its form for URLs. Those of hex are among them."""

_RUNS: Final = bytes(_URL_FORM.get(code, code if code in _BASE64 else ord(" ")) for code in range(256))
_MARK_RUNS: Final = bytes(ord(" " if code == ord(" ") else "x") for code in _RUNS)
_HEX_RUNS: Final = bytes(code if code in b"0123456789abcdefABCDEF" else ord(" ") for code in range(256))
"""Translate every byte to a blank but the characters of base64, which become those of its standard form or x, and
those of hex."""


def _decoded_runs(data: bytes, shortest_run: int) -> Iterator[bytes]:
    """Decode the long runs as base64 and as hex, once for each offset at which a group of characters may begin."""
    runs = [run for run in data.translate(_RUNS).split() if len(run) >= shortest_run]
    for start in range(4):
        yield a2b_base64(b"".join(run[start:] + b"A" * ((start - len(run)) % 4) for run in runs))
    digits = [run for run in b" ".join(runs).translate(_HEX_RUNS).split() if len(run) >= shortest_run]
    for start in range(2):
        yield unhexlify(b"".join(run[start : len(run) - (len(run) - start) % 2] for run in digits))
