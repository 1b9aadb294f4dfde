"""The ways in which a provider, or a layer before it, gives a key back."""

from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote


def escaped(text: str) -> str:
    """Return a text as JSON may write it."""
    return "".join(f"\\u{ord(c):04x}" for c in text)


def percent(text: str) -> str:
    """Return a text as a URL may write it, every character of it."""
    return "".join(f"%{ord(c):02X}" for c in text)


def echoes(key: str) -> dict[str, str]:
    """Return a key in many writings, each as it may stand in the bytes of a JSON text."""
    based = {
        f"base64 after {before!r}": b64encode(f"{before}{key}{after}".encode()).decode()
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
        **based,
        "base64 for URLs": urlsafe_b64encode(f"Bearer {key}".encode()).decode(),
        "base64, quoted": quote(b64encode(f"Bearer {key}".encode()).decode(), safe=""),
        "base64, escaped": escaped(b64encode(key.encode()).decode()),
    }
