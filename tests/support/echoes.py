"""The forms in which a provider, or a layer in front of it, may repeat a key."""

from base64 import b64encode, urlsafe_b64encode
from html import escape
from urllib.parse import quote


def json_escaped(text: str) -> str:
    """Return a text with every character escaped as in JSON."""
    return "".join(f"\\u{ord(c):04x}" for c in text)


def percent_encoded(text: str) -> str:
    """Return a text with every character escaped as in a URL."""
    return "".join(f"%{ord(c):02X}" for c in text)


def html_entities(text: str, form: str = "&#{};") -> str:
    """Return a text with every character escaped as in HTML."""
    return "".join(form.format(ord(c)) for c in text)


def in_base64(text: str) -> str:
    """Return a text in base64."""
    return b64encode(text.encode()).decode()


def in_hex(text: str) -> str:
    """Return a text in hex."""
    return text.encode().hex()


def echoes(key: str) -> dict[str, str]:
    """Return a key in many forms, by name, each as it may be in the bytes of a JSON string."""
    placed = {
        f"base64 after {before!r}": in_base64(f"{before}{key}{after}")
        for before, after in (("", ""), ("Bearer ", ""), ("u:", "\n"), ("user:", " and more"))
    }
    return {
        "plain": key,
        "within": f"Authorization: Bearer {key}.",
        "escaped": json_escaped(key),
        "escaped twice": json_escaped(key).replace("\\", "\\\\"),
        "partly escaped": key[:3] + json_escaped(key[3:6]) + key[6:],
        "with slashes": key.replace("/", "\\/"),
        "quoted": quote(key, safe=""),
        "percent": percent_encoded(key),
        "percent, lower": percent_encoded(key).lower(),
        "percent twice": quote(percent_encoded(key), safe=""),
        "percent, escaped": json_escaped(percent_encoded(key)),
        "Python's": "".join(f"\\\\x{ord(c):02x}" for c in key),
        "Python's, long": "".join(f"\\\\U{ord(c):08x}" for c in key),
        "octal": "".join(f"\\\\{ord(c):03o}" for c in key),
        "octal, short": "".join(f"\\\\{ord(c):o}" for c in key),
        "octal, percent": percent_encoded("".join(f"\\{ord(c):03o}" for c in key)),
        "escaped, percent": percent_encoded(json_escaped(key)),
        "entities": html_entities(key),
        "entities, in hex": html_entities(key, "&#x{:X};"),
        "entities, padded": html_entities(key, "&#{:07};"),
        "entities twice": html_entities(key, "&amp;#{};"),
        "entities, escaped": json_escaped(html_entities(key)),
        "percent, entities": html_entities(percent_encoded(key)),
        "entities, percent": quote(html_entities(key), safe=""),
        "named entities": escape(key).replace("/", "&sol;").replace("+", "&plus;").replace("_", "&lowbar;"),
        "hex": in_hex(key),
        "hex, upper": in_hex(key).upper(),
        "hex, within": "0" + in_hex(f"Bearer {key}."),
        "hex, percent": percent_encoded(in_hex(key)),
        **placed,
        "base64 for URLs": urlsafe_b64encode(f"Bearer {key}".encode()).decode(),
        "base64 within": f"org/ab-{in_base64(key)}",
        "base64, quoted": quote(in_base64(f"Bearer {key}"), safe=""),
        "base64, escaped": json_escaped(in_base64(key)),
        "base64, entities": html_entities(in_base64(key)),
        "base64 twice": in_base64(f"user:{in_base64(key)}"),
        "base64 of hex": in_base64(in_hex(key)),
        "hex of base64": in_hex(in_base64(key)),
        "base64 of percent": in_base64(percent_encoded(key)),
        "base64 of quoted": in_base64(f"key={quote(key, safe='')}"),
        "base64 of escaped": in_base64(json_escaped(key)),
        "base64 of entities": in_base64(html_entities(key)),
        "all at once": json_escaped(html_entities(in_base64(percent_encoded(in_hex(json_escaped(key)))))),
    }
