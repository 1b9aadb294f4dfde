"""Every way in which an answer is not a page of a checkpoint list, with the class of its failure."""

import json
from collections.abc import Callable
from typing import NamedTuple

from support.provider import Answer, body, checkpoint, error, page, raw


class Fault(NamedTuple):
    """The class of the failure, and a function that makes the answer from the body of a good page."""

    error_class: str
    spoil: Callable[[bytes], Answer]

    @property
    def has_items(self) -> bool:
        """True if the items of the page are read nevertheless: only `has_more` is wrong."""
        return self.error_class == "bad_has_more"

    @property
    def on_a_later_page(self) -> str:
        """The class on a later page. A 404 there means a lost cursor, as the job was listed a moment ago."""
        return "cursor_lost" if self.error_class == "missing" else self.error_class


def _with(**members: object) -> Callable[[bytes], Answer]:
    """Return a function that replaces members of the page. It removes `name` if `name_` is given."""

    def spoil(good: bytes) -> Answer:
        page_members = {**json.loads(good), **members}
        return body(json.dumps({name: value for name, value in page_members.items() if f"{name}_" not in members}))

    return spoil


def _broken_off(good: bytes) -> Answer:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(good)}\r\n\r\n"
    return raw(head.encode() + good[: len(good) // 2])


EVENT = {**checkpoint(1), "object": "fine_tuning.job.event"}

FAULTS = {
    "error with status 200": Fault("error_in_200", lambda _: body('{"error": {"message": "no"}}')),
    "error beside a list": Fault("error_in_200", _with(error={"message": "no"})),
    "data null": Fault("not_a_list", _with(data=None)),
    "data an object": Fault("not_a_list", _with(data={})),
    "no data": Fault("not_a_list", _with(data_=None)),
    "not a list": Fault("not_a_list", _with(object="fine_tuning.job")),
    "has_more as text": Fault("bad_has_more", _with(has_more="false")),
    "no has_more": Fault("bad_has_more", _with(has_more_=None)),
    "HTML": Fault("content_type", lambda _: body("<html>", "text/html")),
    "HTML called JSON": Fault("html", lambda _: body("<html>")),
    "list of events": Fault("other_list", lambda _: page([EVENT])),
    "cut body": Fault("not_json", lambda good: body(good[: len(good) // 2])),
    "cut connection": Fault("network", _broken_off),
    "empty body": Fault("empty_body", lambda _: body("")),
    "empty page with has_more": Fault("empty_page", lambda _: page([], has_more=True)),
    "401": Fault("refused", lambda _: error(401, "invalid_api_key")),
    "403": Fault("forbidden", lambda _: error(403, "not_yours")),
    "404": Fault("missing", lambda _: error(404, "fine_tune_not_found")),
    "429": Fault("throttled", lambda _: error(429, "rate_limit_exceeded")),
    "429 without quota": Fault("quota", lambda _: error(429, "insufficient_quota")),
    "500": Fault("server_error", lambda _: error(500)),
    "503 in HTML": Fault("server_error", lambda _: body("<html>", "text/html", 503)),
    "302": Fault("redirect", lambda _: error(302, Location="/elsewhere")),
}
