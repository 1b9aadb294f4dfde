"""The words of an error are found in every format, and what they say about the page size is used."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkpointd.domain.failure import ErrorClass
from checkpointd.provider.page_size import smaller_page_size
from checkpointd.provider.responses import failure_of, says_quota
from checkpointd.provider.words import LONGEST_WORDS, Statement, Words, words_of

GOOGLE = {
    "code": 400,
    "message": "Request contains an invalid argument.",
    "status": "INVALID_ARGUMENT",
    "details": [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": "page_size", "description": "must be <= 20"}],
        }
    ],
}
PYDANTIC = {
    "type": "less_than_equal",
    "loc": ["query", "limit"],
    "msg": "Input should be less than or equal to 50",
    "input": "100",
    "ctx": {"le": 50},
}
ZOD = {"code": "too_big", "maximum": 50, "inclusive": True, "path": ["limit"], "message": "Too big"}
INNER = json.dumps({"error": {"message": "the real cause", "code": "real"}})

FORMATS: list[tuple[str, object, str]] = [
    ("OpenAI", {"error": {"message": "no", "type": "bad", "code": None, "param": None}}, "bad no"),
    ("OpenAI with a code", {"error": {"message": "no", "type": "bad", "code": "worse"}}, "worse no"),
    ("a text", {"error": "no such thing"}, "no such thing"),
    (
        "Azure",
        {"error": {"code": "BadRequest", "message": "no", "innererror": {"message": "why"}}},
        "BadRequest no; why",
    ),
    ("Azure's service", {"code": "NotFound", "message": "no"}, "NotFound no"),
    ("Azure's gateway", {"statusCode": 401, "message": "Access denied"}, "Access denied"),
    ("OData", {"odata.error": {"code": "A", "message": {"lang": "en", "value": "no"}}}, "A no"),
    ("FastAPI", {"detail": "Not your job"}, "Not your job"),
    ("FastAPI, an object", {"detail": {"error": {"message": "no", "code": "x"}}}, "x no"),
    ("pydantic 1", {"detail": [{"loc": ["query", "limit"], "msg": "too large"}]}, "query.limit: too large"),
    ("pydantic 2", {"detail": [PYDANTIC]}, "query.limit: Input should be less than or equal to 50"),
    ("problem+json", {"type": "about:blank", "title": "Forbidden", "detail": "no", "status": 403}, "Forbidden: no"),
    ("RFC 7807's fields", {"title": "Bad", "invalid-params": [{"name": "n", "reason": "no way"}]}, "Bad; n: no way"),
    ("ASP.NET", {"title": "Bad", "status": 400, "errors": {"limit": ["is bad"]}}, "Bad; limit: is bad"),
    (
        "JSON:API",
        {"errors": [{"title": "T", "detail": "D", "source": {"parameter": "page[size]"}}]},
        "page[size]: T: D",
    ),
    ("a list of texts", {"errors": ["one", "two"]}, "one; two"),
    ("GraphQL", {"errors": [{"message": "no", "path": ["a"]}], "data": None}, "a: no"),
    ("Cloudflare", {"success": False, "errors": [{"code": 1000, "message": "no"}], "result": None}, "no"),
    ("a message", {"message": "no"}, "no"),
    ("Amazon", {"Message": "no", "__type": "com.amazon.coral#ThrottlingException"}, "ThrottlingException no"),
    ("Lambda", {"errorMessage": "no", "errorType": "Boom"}, "Boom no"),
    ("Google", {"error": GOOGLE}, "INVALID_ARGUMENT Request contains an invalid argument.; page_size: must be <= 20"),
    ("Google's stream", [{"error": {"code": 403, "message": "no", "status": "DENIED"}}], "DENIED no"),
    ("gRPC-gateway", {"error": "no", "code": 5, "message": "no", "details": []}, "no"),
    ("Apigee", {"fault": {"faultstring": "no", "detail": {"errorcode": "policies.x"}}}, "policies.x no"),
    ("Spring", {"timestamp": "t", "status": 404, "error": "Not Found", "path": "/v1/x"}, "Not Found"),
    ("Spring with a message", {"status": 400, "error": "Bad Request", "message": "no", "path": "/"}, "no"),
    ("NestJS", {"statusCode": 400, "message": ["n must be 1"], "error": "Bad Request"}, "n must be 1"),
    ("Django", {"limit": ["Ensure this value is less than 51."]}, "limit: Ensure this value is less than 51."),
    ("Rails", {"errors": {"limit": ["is too large"]}}, "limit: is too large"),
    ("express-validator", {"errors": [{"msg": "no", "path": "n", "location": "query"}]}, "n: no"),
    ("Zod", {"success": False, "error": {"name": "ZodError", "issues": [ZOD]}}, "limit: Too big"),
    ("OAuth", {"error": "invalid_token", "error_description": "It has expired"}, "invalid_token It has expired"),
    ("Slack", {"ok": False, "error": "not_authed"}, "not_authed"),
    ("Tencent", {"Response": {"Error": {"Code": "AuthFailure", "Message": "no"}}}, "AuthFailure no"),
    ("MiniMax", {"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "login fail"),
    ("an error in a text", {"error": {"message": INNER, "type": "None", "code": "400"}}, "real the real cause"),
    ("LiteLLM", {"error": {"message": f"OpenAIException - {INNER}", "code": "400"}}, "real the real cause"),
    (
        "OpenRouter",
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": INNER}}},
        "real Provider returned error; the real cause",
    ),
    ("a JSON text", "no such thing", "no such thing"),
    ("an empty object", {}, ""),
    ("no words", {"status": 500, "error": None}, ""),
    ("a number", 5, ""),
    ("three of many", {"errors": list("abcdef")}, "a; b; c"),
]

OTHERS: list[tuple[str, bytes, str, str]] = [
    ("text", b"default backend - 404", "text", "default backend - 404"),
    ("lines", b"upstream failed\nat a.b.c\nat d.e.f", "text", "upstream failed"),
    ("nginx", b"<html><head><title>403 Forbidden</title></head><body></html>", "html", "403 Forbidden"),
    ("a heading", b"<!DOCTYPE html>\n<html><body><h1>Oh <b>no</b> &amp; no</h1>", "html", "Oh no & no"),
    ("an unnamed page", b"<html><body>hello</body></html>", "html", ""),
    ("Amazon S3", b"<?xml version='1.0'?><Error><Code>Denied</Code><Message>no</Message></Error>", "xml", "Denied no"),
    ("SOAP", b"<s:Fault><faultcode>x</faultcode><faultstring>no</faultstring></s:Fault>", "xml", "x no"),
    ("a byte order mark", b'\xef\xbb\xbf{"message": "no"}', "json", "no"),
    ("binary", b"\x00\x01\x02\xff", "none", ""),
    ("empty", b"", "none", ""),
    ("blank", b" \n", "none", ""),
]


@pytest.mark.parametrize(("body", "expected"), [f[1:] for f in FORMATS], ids=[f[0] for f in FORMATS])
def test_each_format(body: object, expected: str) -> None:
    """The words of an error are found in each format of APIs, frameworks and gateways."""
    assert expected == words_of(json.dumps(body).encode()).text


@pytest.mark.parametrize(("body", "kind", "expected"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_bodies_that_are_not_json(body: bytes, kind: str, expected: str) -> None:
    """Of a text the first line is shown, of XML the message, and of a web page only its title or heading."""
    words = words_of(body)
    assert (kind, expected) == (words.kind, words.text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "errors", "code", "loc", "path", "ctx", "raw", "metadata"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=300))
@example(b"[" * 60_000)
@example(b'{"error":' * 20_000)
@example(json.dumps({"message": "[{" * 30_000}).encode())
@example(json.dumps({"message": "x" * 60_000}).encode())
@example(b"<html>" + b"<title" * 10_000)
@example(b"<a " * 20_000)
def test_any_body(body: bytes) -> None:
    """Any body gives one printable line of limited length, and never an exception."""
    words = words_of(body)
    assert len(words.text) <= LONGEST_WORDS
    assert words.text.isprintable()
    assert smaller_page_size(words, 100, 400) in {None, *range(1, 100)}
    assert failure_of(400, "", {}, words, paging=False).message.startswith("HTTP 400 ")


@pytest.mark.parametrize(
    ("reason", "headers", "expected"),
    [
        ("Unprocessable Entity", {}, "HTTP 422 Unprocessable Entity"),
        ("", {}, "HTTP 422 Unprocessable Entity"),
        ("No such limit", {}, "HTTP 422 No such limit"),
        ("", {"Content-Type": "image/png"}, "HTTP 422 Unprocessable Entity (image/png)"),
        ("", {"Content-Type": "application/json"}, "HTTP 422 Unprocessable Entity"),
    ],
)
def test_without_words(reason: str, headers: dict[str, str], expected: str) -> None:
    """A failure without words has the reason beside the status, and the type of its body if that is not JSON."""
    assert expected == failure_of(422, reason, headers, Words("none"), paging=False).message


# Quota


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (402, {"error": {"message": "Insufficient credits", "code": 402}}, ErrorClass.QUOTA),
        (402, {}, ErrorClass.QUOTA),
        (403, {"error": {"code": "insufficient_balance", "message": "no"}}, ErrorClass.QUOTA),
        (403, {"error": {"message": "Billing hard limit has been reached"}}, ErrorClass.QUOTA),
        (403, {"statusCode": 403, "message": "Out of call volume quota."}, ErrorClass.QUOTA),
        (400, {"error": {"message": "Your credit balance is too low to access the API"}}, ErrorClass.QUOTA),
        (400, {"error": {"type": "budget_exceeded", "message": "Current cost: 5"}}, ErrorClass.QUOTA),
        (400, {"code": "Arrearage", "message": "Access denied"}, ErrorClass.QUOTA),
        (429, {"error": {"type": "insufficient_quota"}}, ErrorClass.QUOTA),
        (429, {"error": {"code": "InsufficientQuota"}}, ErrorClass.QUOTA),
        (
            429,
            {"error": {"message": "You exceeded your current quota, check your plan and billing"}},
            ErrorClass.THROTTLED,
        ),
        (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota"}}, ErrorClass.THROTTLED),
        (403, {"error": {"message": "This model needs a plan with fine-tuning"}}, ErrorClass.FORBIDDEN),
        (403, {"detail": "You may not see this job's credit usage"}, ErrorClass.FORBIDDEN),
        (400, {"error": {"message": "token limit exceeded"}}, ErrorClass.BAD_REQUEST),
    ],
)
def test_nothing_left_to_spend(status: int, body: object, expected: ErrorClass) -> None:
    """A 402 is quota; other statuses are if their code or clear words say so, a 429 only by its code."""
    words = words_of(json.dumps(body).encode())
    assert expected is failure_of(status, "", {}, words, paging=False).error_class
    assert expected is not ErrorClass.QUOTA or status == 402 or says_quota(words)


# Page size


TOO_LARGE: list[tuple[str, str, int | None]] = [
    ("query.limit", "ensure this value is less than or equal to 50", 50),
    ("limit", "must be between 1 and 50", 50),
    ("limit", "must be greater than or equal to 1 and less than or equal to 50", 50),
    ("limit", "should be less than 51", 50),
    ("limit", "must be <= 20", 20),
    ("limit", "Too big: expected number to be <=50", 50),
    ("limit", "100 is greater than the maximum of 50", 50),
    ("page[size]", "is too large (max 25)", 25),
    ("page_size", "at most 30 items", 30),
    ("Query.Limit", "Field validation for 'Limit' failed on the 'max' tag", 50),
    ("", "The maximum page size is 20", 20),
    ("", "You can request at most 50 items per page", 50),
    ("", "limit must not be greater than 50", 50),
    ("", "querystring/limit must be <= 50", 50),
    ("", "Invalid 'limit': integer above maximum value. Expected a value <= 64, but got 100 instead.", 64),
    ("", "Requested limit of 100 is over the maximum page size of 25", 25),
    ("", "limit=100 out of range 1..50", 50),
    ("", "limit: expected a value in [1, 50]", 50),
    ("", "limit is too large", 50),
    ("", "page size exceeds the maximum", 50),
    # About something else, or not too large.
    ("", "Rate limit exceeded: limit is 50 requests per minute", None),
    ("", "You have reached your job limit of 20", None),
    ("", "the spending limit must be at most 50", None),
    ("", "id must be at most 64 characters", None),
    ("body.name", "at most 50 characters", None),
    ("", "n must be <= 50", None),
    ("", "The token limit must be below 50", None),
    ("", "the limit of 50 jobs is reached", None),
    ("limit", "must be greater than or equal to 1", None),
    ("limit", "must be between 200 and 1000", None),
    ("limit", "must be at most 1000", None),
    ("limit", "is invalid", None),
]


@pytest.mark.parametrize(("place", "text", "expected"), TOO_LARGE)
def test_page_sizes(place: str, text: str, expected: int | None) -> None:
    """A smaller page size is read from words about the page size, and half is used if they state no number."""
    words = Words("json", statements=(Statement(place, text),))
    assert expected == smaller_page_size(words, 100, 422)
    assert smaller_page_size(words, 1, 422) is None


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ({"ctx": {"le": 50}}, 50),
        ({"ctx": {"lt": 51}}, 50),
        ({"ctx": {"limit_value": 50}, "type": "value_error.number.not_le"}, 50),
        ({"ctx": {"limit_value": 51}, "type": "value_error.number.not_lt"}, 50),
        ({"maximum": 50, "inclusive": True}, 50),
        ({"params": {"comparison": "<=", "limit": 50}}, 50),
    ],
)
def test_a_bound_in_a_member_of_its_own(member: dict[str, object], expected: int) -> None:
    """A bound that a validation error states as a number is used, and not one in its text."""
    body = {"detail": [{"loc": ["query", "limit"], "msg": "no more than 7, please", **member}]}
    assert expected == smaller_page_size(words_of(json.dumps(body).encode()), 100, 422)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 407, 429])
def test_statuses_that_are_not_about_pages(status: int) -> None:
    """The words of a refusal or of a rate limit do not change the page size."""
    assert smaller_page_size(Words("json", statements=(Statement("limit", "at most 50"),)), 100, status) is None
