"""Find the provider's own words in the body of an error, in every format that APIs, frameworks and gateways use. Pure.

The formats are OpenAI's and Azure's error objects, RFC 9457 (problem+json), JSON:API, FastAPI, Django, Spring,
ASP.NET, NestJS, Rails, AJV and Zod, the clouds of Amazon, Google and Alibaba, Kong, Apigee, LiteLLM, OpenRouter, lists
of any of these, and also plain text, XML and web pages. Members are found by their names, at any of a few levels,
because these formats differ only in how they nest them.
"""

import json
import re
from collections.abc import Mapping
from html import unescape
from typing import Any, Final, Literal, NamedTuple, TypeGuard

LONGEST_WORDS: Final = 1000
"""Characters. Longer words are cut off; they are shortened again when their secrets have been removed."""

_MARKUP_CHARACTERS: Final = 8000
"""The most characters of a web page, or of XML, in which words are searched for. The search takes long in many tags."""

_MOST_STATEMENTS: Final = 3
_DEEPEST: Final = 6
"""The levels of nested objects and lists that are searched."""

_TEXT_NAMES: Final = (
    "message", "msg", "errormessage", "errmsg", "errormsg", "statusmsg", "errordescription", "detail", "faultstring",
    "defaultmessage", "description", "reason", "title",
)  # fmt: skip
"""The names of members that contain words, the best first. In all tables of names, case and _ - . @ are ignored."""

_CODE_NAMES: Final = ("code", "type", "errorcode", "errcode", "errortype", "faultcode", "status", "reason")
_PLACE_NAMES: Final = ("loc", "param", "parameter", "field", "path", "instancepath", "pointer", "property", "name")
"""The names of members that say which parameter or field the words are about."""

_CONTAINER_NAMES: Final = frozenset(
    {
        "error", "errors", "message", "detail", "details", "fault", "innererror", "response", "responsemetadata",
        "baseresp", "odataerror", "issues", "fieldviolations", "violations", "validationerrors", "invalidparams",
        "exception",
    }
)  # fmt: skip
"""The names of members that contain another object, or a list of objects, with words."""

_JSON_START: Final = re.compile(r"[\[{]")
_HTML: Final = re.compile(r"<(?:!doctype\s+html|html|head|body|title|h1)\b", re.IGNORECASE)
_HEADING: Final = re.compile(r"<(title|h[123])\b[^>]{0,200}>(.{0,2000}?)</\1", re.IGNORECASE | re.DOTALL)
_XML_MEMBER: Final = re.compile(r"<(?:\w{1,30}:)?(\w{1,30})(?:\s[^<>]{0,200})?>([^<>]{1,2000})</", re.DOTALL)

Kind = Literal["json", "xml", "html", "text", "none"]


class Statement(NamedTuple):
    """One sentence of an error, what it is about, and the largest value that it allows there."""

    place: str
    """The parameter or field, such as `query.limit`; an empty text if it is not stated."""
    text: str
    at_most: int | None = None

    def __str__(self) -> str:
        is_named = re.search(rf"\b{re.escape(self.place.rpartition('.')[2])}\b", self.text)
        return self.text if is_named or not self.place else f"{self.place}: {self.text}"


class Words(NamedTuple):
    """What an error says. `kind` is the form of its body; `none` if the body is empty or binary."""

    kind: Kind
    code: str = ""
    """The code or type of the error itself; an empty text if it has none."""
    codes: frozenset[str] = frozenset()
    """All codes and types, also those of inner errors and numbers, in lower case."""
    statements: tuple[Statement, ...] = ()

    @property
    def text(self) -> str:
        """The words as one line of at most LONGEST_WORDS characters; an empty text if there are none."""
        said = "; ".join(str(statement) for statement in self.statements[:_MOST_STATEMENTS])
        code = "" if self.code == said else self.code
        return " ".join(part for part in (code, said) if part)[:LONGEST_WORDS]


def words_of(body: bytes) -> Words:
    """Return what the body of an error says. Never raises."""
    text = body.decode("utf-8-sig", "replace").strip()
    try:
        return words_in(json.loads(text))
    except (ValueError, RecursionError):
        pass
    if _HTML.search(text[:2000]):
        found = _HEADING.search(text[:_MARKUP_CHARACTERS])
        heading = _line(unescape(re.sub(r"<[^<>]*>", " ", found[2]))) if found else ""
        return Words("html", statements=(Statement("", heading),) if heading else ())
    if text.startswith("<"):
        members = {
            name: unescape(value)
            for name, value in _XML_MEMBER.findall(text[:_MARKUP_CHARACTERS].replace("<![CDATA[", ""))
        }
        return words_in(members)._replace(kind="xml")
    first_line = next(iter(text.splitlines()), "")
    if not first_line or "\0" in text or text.count("\ufffd") > len(text) // 20:
        return Words("none")
    return Words("text", statements=(Statement("", _line(first_line)),))


def words_in(value: object) -> Words:
    """Return what an error says that is given as JSON, decoded. Never raises."""
    collector = _Collector()
    collector.read(value, "", 0)
    return Words("json", collector.code, frozenset(collector.codes), tuple(collector.statements))


class _Collector:
    """Collects codes and statements from nested objects and lists."""

    def __init__(self) -> None:
        self.code = ""
        self.codes: set[str] = set()
        self.statements: list[Statement] = []
        self._has_unpacked = False

    def read(self, value: object, place: str, depth: int, name: str = "") -> None:
        """Read the value of a member `name` that may contain words; `place` is what an outer value is about."""
        if depth > _DEEPEST:
            return
        if isinstance(value, str):
            self._read_text(Statement(place, value))
        elif isinstance(value, list):
            for entry in value[:_MOST_STATEMENTS]:
                self.read(entry, place, depth + 1)
        elif isinstance(value, dict):
            before = len(self.statements)
            self._read_object({_normalise(key): member for key, member in value.items()}, place, depth)
            if len(self.statements) == before and (not name or name in _CONTAINER_NAMES):
                self._read_fields(value, has_texts=bool(name))

    def _read_object(self, members: Mapping[str, Any], place: str, depth: int) -> None:
        before = len(self.statements)
        own_place = _place_of(members)
        is_inner = depth > 2 or (depth == 2 and own_place != "")
        self._read_codes(members, is_inner=is_inner)
        place = own_place or place
        if text := next((members[name] for name in _TEXT_NAMES if _is_text(members.get(name))), ""):
            title = members.get("title")
            if _is_text(title) and text == members.get("detail"):
                text = f"{title}: {text}"
            self._read_text(Statement(place, text, _at_most(members)))
        for name, member in members.items():
            if name in _CONTAINER_NAMES and isinstance(member, dict | list):
                self.read(member, place, depth + 1, name)
        metadata = members.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str | dict):  # the error that OpenRouter got
            self.read(metadata["raw"], place, depth + 1, "raw")
        for name in ("error", "value"):  # {"error": "…"}, and OData's {"message": {"lang": …, "value": …}}
            if _is_text(members.get(name)) and len(self.statements) == before:
                self._read_text(Statement(place, members[name]))
            elif name == "error" and _is_code(members.get(name)):
                self._add_code(members[name], is_inner=is_inner)

    def _read_fields(self, members: Mapping[str, Any], *, has_texts: bool) -> None:
        """Read an object without known members: the names of fields, each with what is wrong with it.

        That is a list of texts or, if it `has_texts`, a text.
        """
        for field, member in members.items():
            if _normalise(field) in _CODE_NAMES:
                continue
            for text in member[:_MOST_STATEMENTS] if isinstance(member, list) else [member] if has_texts else []:
                if _is_text(text):
                    self._read_text(Statement(_line(field), text))

    def _read_text(self, statement: Statement) -> None:
        """Add a statement. If it contains an error as JSON, as gateways forward one, that error is read instead."""
        start = _JSON_START.search(statement.text)
        if start and not self._has_unpacked:
            try:
                inner, _ = json.JSONDecoder().raw_decode(statement.text, start.start())
            except (ValueError, RecursionError):
                inner = None
            if isinstance(inner, dict) or (isinstance(inner, list) and inner and isinstance(inner[0], dict)):
                self._has_unpacked = True
                before = len(self.statements)
                self.read(inner, statement.place, 0)
                if len(self.statements) > before:
                    return
        text = _line(statement.text)
        if text and not any(text in known.text for known in self.statements):
            self.statements.append(statement._replace(text=text))

    def _read_codes(self, members: Mapping[str, Any], *, is_inner: bool) -> None:
        for name in _CODE_NAMES:
            code = members.get(name)
            if isinstance(code, int) and not isinstance(code, bool):
                self.codes.add(str(code)[:20])
            elif _is_code(code):
                self._add_code(code, is_inner=is_inner)

    def _add_code(self, code: str, *, is_inner: bool) -> None:
        code = code.rpartition("#")[2]  # Amazon: com.amazonaws.service#ThrottlingException
        self.codes.add(code.lower())
        is_name = not code.isdecimal() and code.lower() not in {"none", "null"}
        if is_name and not self.code and not is_inner:
            self.code = code


def _place_of(members: Mapping[str, Any]) -> str:
    """Return which parameter or field an object is about, with dots between its parts, or an empty text."""
    source = members.get("source")
    if isinstance(source, dict):  # JSON:API
        members = {_normalise(name): member for name, member in source.items()}
    for name in _PLACE_NAMES:
        found = members.get(name)
        if isinstance(found, list):
            parts = [part for part in found[:5] if isinstance(part, str | int)]
            return ".".join(_line(str(part)) for part in parts)
        # The path of a URL is not a parameter. Nor is the name of a class of exceptions.
        if isinstance(found, str) and re.fullmatch(r"[#/]?[A-Za-z_][\w.\[\]-]{0,60}(/[\w-]+)*", found):
            is_field = name not in {"path", "name"} or not (found.startswith("/") or found.endswith("Error"))
            return found.strip("#/").replace("/", ".") if is_field else ""
    return ""


def _at_most(members: Mapping[str, Any]) -> int | None:
    """Return the largest value that a validation error states in a member of its own, or None."""
    context = next((members[name] for name in ("ctx", "params") if isinstance(members.get(name), dict)), members)
    for name, excess in (("le", 0), ("lt", 1), ("limit_value", 0), ("maximum", 0), ("max", 0)):
        found = context.get(name)
        if isinstance(found, int) and not isinstance(found, bool):
            is_strict = "not_lt" in str(members.get("type")) or context.get("inclusive") is False
            return found - max(excess, int(is_strict))
    if context.get("comparison") in ("<=", "<") and isinstance(found := context.get("limit"), int):  # AJV
        return found - int(context["comparison"] == "<")
    return None


def _normalise(name: str) -> str:
    return re.sub(r"[_.@-]", "", name[:60]).lower()


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _is_code(value: object) -> TypeGuard[str]:
    """Return whether a value is a code, and not a sentence or the address of a document about the error."""
    is_short = isinstance(value, str) and 0 < len(value) <= 80 and value.isprintable()
    return is_short and not re.search(r"\s|://|^about:", str(value))


def _line(text: str) -> str:
    """Return a text as one line without control characters, of at most LONGEST_WORDS characters."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * LONGEST_WORDS])
    return " ".join(printable.split())[:LONGEST_WORDS]
