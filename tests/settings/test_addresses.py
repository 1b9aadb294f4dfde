"""Addresses with a part too many: what is refused, and what is accepted because its meaning is certain."""

from collections.abc import Callable

import pytest

from checkpointd.provider.formats.presets import PRESETS
from checkpointd.settings.model import Settings

SOURCE = '[[sources]]\nname = "a"\napi_key = "THE_KEY"\n'
ROOT = "https://h.example/api/v1"

Load = Callable[..., Settings]
LoadError = Callable[..., str]


def _beginnings(kind: str) -> list[str]:
    """Return the paths of the lists of a kind, and the beginnings of these paths."""
    found = []
    for listed in PRESETS[kind].format.lists:
        parts = listed.path.split("/")
        found += ["/".join(parts[:length]) for length in range(2, len(parts) + 1)]
    return found


@pytest.mark.parametrize("kind", PRESETS)
def test_no_address_ends_with_a_list(load: Load, load_error: LoadError, kind: str) -> None:
    """A base URL that ends with the path of a list of its kind, or with its beginning, is refused: it says with what.

    Without that end it is accepted.
    """
    source = f"{SOURCE}kind = '{kind}'\n"
    assert ROOT == load(f"{source}base_url = '{ROOT}/'").sources[0].base_url
    for path in _beginnings(kind):
        for end in (path.replace("{}", "job-1"), path.replace("{}", "job-1") + "/"):
            expected = f"must end before the path of a list: remove {path.replace('{}', 'ID')} from its end"
            assert f"source a: base_url: {expected}" == load_error(f"{source}base_url = '{ROOT}{end}'")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("coreweave", "/models"),
        ("tinker", "/training_runs"),
        ("together", "/fine-tunes"),
        ("foundry", "/fine_tuning/sessions"),
        ("openai", "/fine_tuning"),
        ("azure", "/fine_tuning/jobs"),
        ("compatible", "/fine_tuning/jobs/ID/checkpoints"),
        ("bedrock", "/models"),
    ],
)
def test_which_end_is_removed(load_error: LoadError, kind: str, path: str) -> None:
    """The message names the whole path that is too long."""
    text = f"{SOURCE}kind = '{kind}'\nbase_url = '{ROOT}{path}'"
    assert load_error(text).endswith(f": remove {path} from its end")


@pytest.mark.parametrize(
    "base_url", ["https://models", "https://models.example/fine_tuning.v1", "https://h.example/models/v1"]
)
def test_similar_addresses(load: Load, base_url: str) -> None:
    """A host, or a part in another place, is not the path of a list."""
    assert base_url == load(f"{SOURCE}base_url = '{base_url}'").sources[0].base_url


def test_the_variable(load_error: LoadError) -> None:
    """The address of OPENAI_BASE_URL has the same rule."""
    expected = "OPENAI_BASE_URL: must end before the path of a list: remove /fine_tuning/jobs from its end"
    assert expected == load_error(OPENAI_API_KEY="k", OPENAI_BASE_URL=f"{ROOT}/fine_tuning/jobs")


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("https://acme.openai.azure.com", "https://acme.openai.azure.com/openai/v1"),
        ("https://acme.openai.azure.com/openai", "https://acme.openai.azure.com/openai/v1"),
        ("https://acme.openai.azure.com/openai/v1", "https://acme.openai.azure.com/openai/v1"),
        ("https://acme.openai.azure.com/openai/v1/", "https://acme.openai.azure.com/openai/v1"),
        ("https://h.example/api/projects/p/openai/v1", "https://h.example/api/projects/p/openai/v1"),
        ("https://h.example/api/projects/openai", "https://h.example/api/projects/openai/openai/v1"),
        ("https://h.example/api/projects/openai/openai/v1", "https://h.example/api/projects/openai/openai/v1"),
        ("https://openai", "https://openai/openai/v1"),
    ],
)
def test_urls_of_resources(load: Load, resource: str, expected: str) -> None:
    """The URL of a resource or of a project may end with the path of its API. A project may have the name openai."""
    assert expected == load(f"{SOURCE}kind = 'azure'\nresource = '{resource}'").sources[0].base_url


def test_a_resource_with_a_list(load_error: LoadError) -> None:
    """The URL of a resource that ends with the path of a list is refused."""
    expected = "source a: resource must end before the path of a list: remove /fine_tuning/jobs from its end"
    resource = "https://acme.openai.azure.com/openai/v1/fine_tuning/jobs"
    assert expected == load_error(f"{SOURCE}kind = 'azure'\nresource = '{resource}'")
