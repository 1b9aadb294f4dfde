"""The forms in which a provider, or a layer in front of it, may repeat a key."""

from base64 import b64encode, urlsafe_b64encode
from html import escape
from urllib.parse import quote


def escaped(text: str) -> str:
    """Return a text with every character escaped as in JSON."""
    return "".join(f"\\u{ord(c):04x}" for c in text)


def percent(text: str) -> str:
    """Return a text with every character escaped as in a URL."""
    return "".join(f"%{ord(c):02X}" for c in text)


def entities(text: str, form: str = "&#{};") -> str:
    """Return a text with every character escaped as in HTML."""
    return "".join(form.format(ord(c)) for c in text)


def based(text: str) -> str:
    """Return a text in base64."""
    return b64encode(text.encode()).decode()


def hexed(text: str) -> str:
    """Return a text in hex."""
    return text.encode().hex()


def echoes(key: str) -> dict[str, str]:
    """Return a key in many forms, by name, each as it may be in the bytes of a JSON string."""
    placed = {
        f"base64 after {before!r}": based(f"{before}{key}{after}")
        for before, after in (("", ""), ("Bearer ", ""), ("u:", "\n"), ("user:", " and more"))
    }
    return {
        "plain": key,
        "within": f"Authorization: Bearer {key}.",
        "escaped": escaped(key),
        "escaped twice": escaped(key).replace("\\", "\\\\"),
        "partly escaped": key[:3] + escaped(key[3:6]) + key[6:],
        "with slashes": key.replace("/", "\\/"),
        "quoted": quote(key, safe=""),
        "percent": percent(key),
        "percent, lower": percent(key).lower(),
        "percent twice": quote(percent(key), safe=""),
        "percent, escaped": escaped(percent(key)),
        "Python's": "".join(f"\\\\x{ord(c):02x}" for c in key),
        "Python's, long": "".join(f"\\\\U{ord(c):08x}" for c in key),
        "octal": "".join(f"\\\\{ord(c):03o}" for c in key),
        "octal, short": "".join(f"\\\\{ord(c):o}" for c in key),
        "octal, percent": percent("".join(f"\\{ord(c):03o}" for c in key)),
        "escaped, percent": percent(escaped(key)),
        "entities": entities(key),
        "entities, in hex": entities(key, "&#x{:X};"),
        "entities, padded": entities(key, "&#{:07};"),
        "entities twice": entities(key, "&amp;#{};"),
        "entities, escaped": escaped(entities(key)),
        "percent, entities": entities(percent(key)),
        "entities, percent": quote(entities(key), safe=""),
        "named entities": escape(key).replace("/", "&sol;").replace("+", "&plus;").replace("_", "&lowbar;"),
        "hex": hexed(key),
        "hex, upper": hexed(key).upper(),
        "hex, within": "0" + hexed(f"Bearer {key}."),
        "hex, percent": percent(hexed(key)),
        **placed,
        "base64 for URLs": urlsafe_b64encode(f"Bearer {key}".encode()).decode(),
        "base64 within": f"org/ab-{based(key)}",
        "base64, quoted": quote(based(f"Bearer {key}"), safe=""),
        "base64, escaped": escaped(based(key)),
        "base64, entities": entities(based(key)),
        "base64 twice": based(f"user:{based(key)}"),
        "base64 of hex": based(hexed(key)),
        "hex of base64": hexed(based(key)),
        "base64 of percent": based(percent(key)),
        "base64 of quoted": based(f"key={quote(key, safe='')}"),
        "base64 of escaped": based(escaped(key)),
        "base64 of entities": based(entities(key)),
        "all at once": escaped(entities(based(percent(hexed(escaped(key)))))),
    }
