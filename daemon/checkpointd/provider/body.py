"""From the bytes of a response to JSON in UTF-8; and what a body is that is not JSON. Pure.

The body decides, not its labels: gateways remove or change Content-Type and Content-Encoding, and add compression and
byte order marks.
"""

import json
import zlib
from typing import Final

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.provider.words import words_of

_GZIP: Final = b"\x1f\x8b"
_ZSTANDARD: Final = b"\x28\xb5\x2f\xfd"
_PREFIXES: Final = (b")]}'", b"while(1);", b"for(;;);", b"while (1);")
"""What some servers put before JSON, so that a web page cannot run it as a script."""

_MOST_PARTS: Final = 100
"""The most parts of a body, each compressed by itself. The rest of the body is copied for each of them."""

_CHARSETS: Final = {"iso-8859-1": "latin-1", "latin1": "latin-1", "windows-1252": "cp1252"}
"""Other charsets than Unicode in which JSON is sent, as servers name them, and as Python does."""


def to_json(body: bytes, encoding: str, content_type: str, limit: int) -> bytes | Failure:
    """Return a body without compression, as UTF-8 without a byte order mark, or why that is not possible.

    `encoding` and `content_type` are the headers. At most `limit` bytes are decompressed.
    """
    if body[:1] != b"{" or body[1:2] == b"\0":
        decompressed = _decompress(body, encoding.lower(), limit)
        if isinstance(decompressed, Failure):
            return decompressed
        body = decompressed
        found = json.detect_encoding(body)
        if found != "utf-8":
            try:
                return body.decode(found).encode()
            except UnicodeError:
                return Failure(ErrorClass.NOT_JSON, f"text in {found} that is damaged or cut off: {len(body)} bytes")
    charset = content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    if charset in _CHARSETS and not _is_utf8(body):
        return body.decode(_CHARSETS[charset], "replace").encode()
    return body


def describe(body: bytes) -> tuple[ErrorClass, str]:
    """Return what a body is that is not JSON: the class of the failure, and the cause in words."""
    start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:100]
    if start.startswith(_PREFIXES):
        prefix = next(prefix for prefix in _PREFIXES if start.startswith(prefix)).decode()
        return ErrorClass.NOT_JSON, f"JSON after the prefix {prefix}, which belongs to an API for web pages"
    if start.startswith((b"data:", b"event:")):
        return ErrorClass.NOT_JSON, "a stream of events, not one JSON document"
    if start.startswith((b"{", b"[")):
        return ErrorClass.NOT_JSON, _damage(body)
    words = words_of(body[:64_000])
    if words.kind in {"html", "xml"}:
        what = "a web page" if words.kind == "html" else "XML"
        return ErrorClass.HTML, f"{what}, not JSON: {words.text or f'{len(body)} bytes'}"
    if words.kind == "text":
        return ErrorClass.NOT_JSON, f"text, not JSON: {words.text}"
    return ErrorClass.NOT_JSON, f"binary data, not JSON: {len(body)} bytes"


def _damage(body: bytes) -> str:
    """Return what is wrong with a text that begins like JSON."""
    text = body.decode("utf-8", "surrogateescape")
    try:
        _, end = json.JSONDecoder().raw_decode(text.lstrip())
    except RecursionError:
        return "JSON nested too deeply"
    except ValueError as e:
        if text.rstrip()[-1:] not in {"}", "]"}:
            return f"JSON that is cut off after {len(body)} bytes"
        at = e.pos if isinstance(e, json.JSONDecodeError) else 0
        return f"JSON that is damaged at character {at + 1}, of {len(body)} bytes"
    rest = text.lstrip()[end:].strip()
    if rest.startswith(("{", "[")):
        return "several JSON documents, such as one per line, and not one list"
    return "a JSON document followed by other text"


def _decompress(body: bytes, encoding: str, limit: int) -> bytes | Failure:
    if body.startswith(_GZIP):
        return _inflate(body, "gzip", 31, limit)
    if "deflate" in encoding:
        # Some servers send it with the header of zlib, as the standard demands, and some without.
        inflated = _inflate(body, "deflate", 15 if body[:1] == b"x" else -15, limit)
        return body if isinstance(inflated, Failure) and _begins_like_json(body) else inflated
    named = next((name for name in ("br", "zstd", "compress") if name in encoding), "")
    if body.startswith(_ZSTANDARD) or (named and not _begins_like_json(body)):
        cause = "which was not asked for: a proxy or gateway in between changes it"
        return Failure(ErrorClass.NOT_JSON, f"the body is compressed with {named or 'zstd'}, {cause}")
    return body


def _inflate(body: bytes, name: str, wbits: int, limit: int) -> bytes | Failure:
    inflated = b""
    for _ in range(_MOST_PARTS):
        if not body:
            return inflated
        stream = zlib.decompressobj(wbits)
        try:
            inflated += stream.decompress(body, limit + 1 - len(inflated))
        except zlib.error:
            return Failure(ErrorClass.NOT_JSON, f"the body is damaged: it is not valid {name}")
        if len(inflated) > limit:
            return Failure(ErrorClass.TOO_LARGE, f"a page of more than {limit} bytes")
        if not stream.eof:
            return Failure(ErrorClass.NOT_JSON, f"the body is cut off within its compression ({name})")
        body = stream.unused_data if stream.unused_data.startswith(_GZIP) else b""
    return Failure(ErrorClass.NOT_JSON, f"the body is compressed in more than {_MOST_PARTS} parts ({name})")


def _begins_like_json(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in {b"{", b"["}


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
