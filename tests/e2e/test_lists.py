"""Tag lists and the catalog, page by page, from the real nginx, against a plain sorted list."""

import random
import re
from bisect import bisect_right
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests

from lab.host import Host
from lab.images import Samples

AS_OWNER = ("runuser", "-u", "seawall", "--")
TREE = "/srv/seawall"
REPOSITORY = "lab/many"
TAGS = sorted(
    [f"v{major}.{minor}" for major in range(30) for minor in range(40)]
    + ["latest", "_under", "A", "Z", "a", "v1", "v1-rc.1", "v1.", "v1_", "0", "x" * 128]
)


@pytest.fixture(scope="module")
def listed(url: str, host: Host, samples: Samples) -> Iterator[list[str]]:
    """A repository of many tags; yields all repositories that the catalog is to name."""
    folder = f"{TREE}/v2/{REPOSITORY}"
    source = f"{TREE}/v2/{samples.layers.repository}/manifests"
    script = (
        f"mkdir -p {folder}/manifests && target=$(readlink {source}/{samples.layers.tag}) && "
        f"for tag in {' '.join(TAGS)}; do ln -s $target {folder}/manifests/$tag; done && seawall lists {TREE}"
    )
    host.run(*AS_OWNER, "sh", "-c", script)
    try:
        found = host.run("sh", "-c", f"cd {TREE}/v2 && find . -type d -name manifests").stdout.split()
        yield sorted(path.removeprefix("./").removesuffix("/manifests") for path in found)
    finally:
        host.run(*AS_OWNER, "sh", "-c", f"rm -r {folder} && seawall lists {TREE}")


def get(url: str, **parameters: object) -> requests.Response:
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
    return requests.get(f"{url}?{query}", timeout=10)


def next_page(answer: requests.Response) -> str | None:
    if "Link" not in answer.headers:
        return None
    found = re.fullmatch(r'<(/v2/[^>]+)>; rel="next"', answer.headers["Link"])
    assert found, answer.headers["Link"]
    return found[1]


def names(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "public, max-age=60, stale-if-error=86400"
    document = answer.json()
    found: list[str] = document["tags"] if "tags" in document else document["repositories"]
    return found


@pytest.mark.parametrize("query", ["", "?n=37", "?n=100", "?n=1000", "?n=100000"])
def test_all_tags_are_found_by_following_the_links(query: str, url: str, listed: list[str]) -> None:
    path: str | None = f"/v2/{REPOSITORY}/tags/list{query}"
    seen: list[str] = []
    while path is not None:
        answer = requests.get(url + path, timeout=10)
        seen += names(answer)
        path = next_page(answer)
    assert seen == TAGS


def test_without_parameters_all_tags_come_at_once(url: str, listed: list[str]) -> None:
    answer = get(f"{url}/v2/{REPOSITORY}/tags/list")
    assert answer.json() == {"name": REPOSITORY, "tags": TAGS}
    assert next_page(answer) is None
    assert get(f"{url}/v2/_catalog").json() == {"repositories": listed}


@pytest.mark.parametrize("seed", range(4))
def test_a_page_begins_after_any_last_and_has_no_more_than_n(seed: int, url: str, listed: list[str]) -> None:
    dice = random.Random(seed)  # noqa: S311
    made_up = ["v1.4x", "v1.", "v1-", "V", "zzz", "0", "00", "-"[1:], "x" * 127, "x" * 127 + "y", "v29.9", "A.", "__"]
    for last in (*made_up, *dice.sample(TAGS, 8)):
        for n in (1, 3, dice.randint(4, 50), dice.randint(51, 2000)):
            answer = get(f"{url}/v2/{REPOSITORY}/tags/list", n=n, last=last)
            rest = TAGS[bisect_right(TAGS, last) :]
            found = names(answer)
            # Short pages are exact; a longer one may end early where a Link leads on.
            assert found == (rest[:n] if n <= 50 else rest[: len(found)]), (n, last)
            assert len(found) <= n
            assert (next_page(answer) is None) == (len(found) == len(rest)), (n, last)


def test_the_catalog_is_paged_the_same_way(url: str, listed: list[str]) -> None:
    for last in ("", *listed, "lab", "lab/", "lab/many-", "lab/man", "zz/z", "0"):
        if not re.fullmatch(r"|.*[a-z0-9]", last):
            continue
        rest = listed[bisect_right(listed, last) :]
        for n in (1, 2, 100):
            answer = get(f"{url}/v2/_catalog", n=n, last=last)
            assert names(answer) == rest[:n]
            assert (next_page(answer) is None) == (len(rest) <= n)


def test_none_are_listed_where_none_are_asked_for(url: str, listed: list[str]) -> None:
    for query in ("n=0", "n=0&last=v1.1", "n=000"):
        answer = requests.get(f"{url}/v2/{REPOSITORY}/tags/list?{query}", timeout=10)
        assert answer.json() == {"name": REPOSITORY, "tags": []}
        assert next_page(answer) is None
    assert get(f"{url}/v2/_catalog", n=0).json() == {"repositories": []}
    assert get(f"{url}/v2/no/such/tags/list", n=0).status_code == 404


@pytest.mark.parametrize("query", ["n=-1", "n=x", "n=1.5", "n=" + "9" * 30, "last=-", "last=a%00", "last=%2Fx"])
@pytest.mark.parametrize("path", [f"/v2/{REPOSITORY}/tags/list", "/v2/_catalog"])
def test_what_is_no_number_or_no_name_is_400(path: str, query: str, url: str, listed: list[str]) -> None:
    answer = requests.get(f"{url}{path}?{query}", timeout=10)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "PAGINATION_NUMBER_INVALID"
    assert answer.headers["Cache-Control"] == "no-store"


def test_head_is_as_get(url: str, listed: list[str]) -> None:
    for query in ("", "?n=3", "?n=100&last=v1.1", "?n=2&last=zzz"):
        path = f"{url}/v2/{REPOSITORY}/tags/list{query}"
        answer, head = requests.get(path, timeout=10), requests.head(path, timeout=10)
        assert head.headers["Content-Length"] == str(len(answer.content))
        assert {name: head.headers.get(name) for name in ("Link", "ETag", "Content-Type")} == {
            name: answer.headers.get(name) for name in ("Link", "ETag", "Content-Type")
        }


def test_a_list_that_is_known_is_not_sent_again_until_it_changes(url: str, host: Host, listed: list[str]) -> None:
    path = f"{url}/v2/{REPOSITORY}/tags/list"
    etag = requests.get(path, timeout=10).headers["ETag"]
    assert requests.get(path, headers={"If-None-Match": etag}, timeout=10).status_code == 304
    old = {"If-Modified-Since": "Fri, 01 Jan 2038 00:00:00 GMT"}
    assert requests.get(path, headers=old, timeout=10).status_code == 200
    host.run(*AS_OWNER, "seawall", "tag", TREE, f"{REPOSITORY}:latest", "extra")
    try:
        changed = requests.get(path, headers={"If-None-Match": etag}, timeout=10)
        assert changed.status_code == 200
        assert "extra" in changed.json()["tags"]
        assert get(path, n=1, last="a").json()["tags"] == ["extra"]
    finally:
        host.run(*AS_OWNER, "seawall", "rm", TREE, f"{REPOSITORY}:extra")
    assert requests.get(path, headers={"If-None-Match": etag}, timeout=10).status_code == 304


def test_what_is_private_is_not_in_the_catalog(url: str, host: Host, listed: list[str]) -> None:
    host.run(*AS_OWNER, "sh", "-c", f"echo {REPOSITORY} > {TREE}/private && seawall lists {TREE}")
    try:
        for query in ("", "?n=1", "?n=100"):
            path: str | None = f"/v2/_catalog{query}"
            while path is not None:
                answer = requests.get(url + path, timeout=10)
                assert REPOSITORY not in names(answer)
                path = next_page(answer)
    finally:
        host.run(*AS_OWNER, "sh", "-c", f"rm {TREE}/private && seawall lists {TREE}")
    assert REPOSITORY in get(f"{url}/v2/_catalog").json()["repositories"]
