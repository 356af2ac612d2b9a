"""The specification, row by row: the origin does it, and an edge; docker-registry shows that the rows are right.

`specification.yml` is the table; it says how to read it.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
import yaml

from e2e.edge_site import make_edge, running
from lab.host import Host
from lab.images import Samples
from lab.upstream import Upstream

ROWS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("specification.yml").read_text())["requirements"]
NAME = "lab/specification"
TAGS = ["1.0", "1.1", "edge", "latest"]
PAGES_MAX = 10
TREE = "/srv/seawall"
AS_OWNER = ("runuser", "-u", "seawall", "--")


@dataclass(frozen=True)
class Server:
    """A server of the image that the rows are about."""

    url: str
    words: dict[str, Any]

    def fill(self, value: Any) -> Any:
        """Return *value* with the words of the image in the places of their names."""
        if isinstance(value, dict):
            return {key: self.fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if value in {"{tags}", "{tags[1:]}"}:
            tags: list[str] = self.words["tags"]
            return tags if value == "{tags}" else tags[1:]
        return value.format(**self.words)

    def ask(self, row: dict[str, Any]) -> requests.Response:
        """Send the request of *row*."""
        method, path = self.fill(row["request"]).split(" ")
        headers = {"Accept-Encoding": "identity", "Accept": self.fill(row.get("accept", "*/*"))}
        if "range" in row:
            headers["Range"] = self.fill(row["range"])
        # A body is read only where a row is about it: docker-registry cuts that of its 416 short.
        return requests.request(
            method, self.url + path, headers=headers, timeout=10, allow_redirects=False, stream=True
        )


@pytest.fixture(scope="module")
def image(upstream: Upstream, samples: Samples) -> dict[str, Any]:
    """An image under several tags upstream, and the words for it."""
    sample = samples.oci_index
    accept = {"Accept": sample.media_type}
    index = requests.get(f"{upstream.url}/v2/{sample.repository}/manifests/{sample.digest}", headers=accept, timeout=10)
    first = index.json()["manifests"][0]
    for row in index.json()["manifests"]:
        copy_image(upstream, sample.repository, row)
    for tag in TAGS:
        put_manifest(upstream, tag, index.content, sample.media_type)
    answer = requests.get(
        f"{upstream.url}/v2/{NAME}/manifests/{first['digest']}", headers={"Accept": first["mediaType"]}, timeout=10
    )
    blob = answer.json()["layers"][0]
    return {
        "name": NAME,
        "tags": TAGS,
        "tag": TAGS[0],
        "digest": sample.digest,
        "type": sample.media_type,
        "size": len(index.content),
        "image": first["digest"],
        "image_type": first["mediaType"],
        "image_size": first["size"],
        "blob": blob["digest"],
        "blob_size": blob["size"],
        "none": f"sha256:{'0' * 64}",
    }


def copy_image(upstream: Upstream, repository: str, row: dict[str, Any]) -> None:
    """Copy an image within *upstream*: its blobs are mounted from *repository*."""
    accept = {"Accept": row["mediaType"]}
    answer = requests.get(f"{upstream.url}/v2/{repository}/manifests/{row['digest']}", headers=accept, timeout=10)
    manifest = answer.json()
    for blob in (manifest["config"], *manifest["layers"]):
        query = {"mount": blob["digest"], "from": repository}
        mounted = requests.post(f"{upstream.url}/v2/{NAME}/blobs/uploads/", params=query, timeout=10)
        assert mounted.status_code == 201, mounted.text
    put_manifest(upstream, row["digest"], answer.content, row["mediaType"])


def put_manifest(upstream: Upstream, target: str, content: bytes, media_type: str) -> None:
    answer = requests.put(
        f"{upstream.url}/v2/{NAME}/manifests/{target}", content, headers={"Content-Type": media_type}, timeout=10
    )
    assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def origin(url: str, host: Host, upstream: Upstream, image: dict[str, Any]) -> Iterator[Server]:
    """The real origin, with the image in its tree as long as these tests last."""
    for tag in TAGS:
        source = f"docker://{upstream.address}/{NAME}:{tag}"
        host.run(*AS_OWNER, "seawall", "add", TREE, source, f"{NAME}:{tag}", "--plain-http")
    yield Server(url, image)
    host.run(*AS_OWNER, "seawall", "rm", TREE, *(f"{NAME}:{tag}" for tag in TAGS))


@pytest.fixture(scope="module")
def edge(origin: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An edge before the real origin."""
    with running(make_edge(tmp_path_factory.mktemp("specification") / "edge", 18991, [origin.url])) as started:
        yield Server(started.url, origin.words)


@pytest.fixture(scope="module")
def docker_registry(upstream: Upstream, image: dict[str, Any]) -> Server:
    """Debian's docker-registry: the distribution project's, from before the specification's latest words."""
    return Server(upstream.url, image)


def rows_of(server: str) -> list[Any]:
    """Return the rows, each that *server* is known to miss marked: it has to fail, or its mark is out of date."""
    return [pytest.param(row, id=row["id"].replace(" ", "-"), marks=marks_of(row, server)) for row in ROWS]


def marks_of(row: dict[str, Any], server: str) -> list[pytest.MarkDecorator]:
    return [
        pytest.mark.xfail(strict=strict, reason=row[key][server], raises=AssertionError)
        for key, strict in (("misses", True), ("varies", False))
        if server in row.get(key, {})
    ]


@pytest.mark.parametrize("row", rows_of("origin"))
def test_the_origin_does_what_is_asked(row: dict[str, Any], origin: Server) -> None:
    check(row, origin)


@pytest.mark.parametrize("row", rows_of("edge"))
def test_an_edge_before_it_does_what_is_asked(row: dict[str, Any], edge: Server) -> None:
    check(row, edge)


@pytest.mark.parametrize("row", rows_of("docker-registry"))
def test_docker_registry_does_what_is_asked(row: dict[str, Any], docker_registry: Server) -> None:
    check(row, docker_registry)


def test_every_row_is_of_a_known_form() -> None:
    known = {"id", "level", "says", "request", "accept", "range", "misses", "varies"} | set(CHECKS)
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row) <= known, row["id"]
        assert {"id", "level", "says", "request", "status"} <= set(row), row["id"]
        assert set(row.get("misses", {})) <= {"origin", "edge", "docker-registry"}, row["id"]


def check(row: dict[str, Any], server: Server) -> None:
    with server.ask(row) as answer:
        for part, look in CHECKS.items():
            if part in row:
                told = f"{answer.request.method} {answer.request.url}: {answer.status_code} {dict(answer.headers)}"
                assert look(answer, server.fill(row[part])), f"{part} of {row['id']} ({row['says']}): {told}"


def has_status(answer: requests.Response, wanted: Any) -> bool:
    return answer.status_code in (wanted if isinstance(wanted, list) else [wanted])


def has_headers(answer: requests.Response, wanted: dict[str, str | None]) -> bool:
    def fits(told: str | None, value: str | None) -> bool:
        if value is not None and value.startswith("/") and value.endswith("/"):
            return told is not None and re.search(value[1:-1], told) is not None
        return told == value

    return all(fits(answer.headers.get(name), value) for name, value in wanted.items())


def has_error(answer: requests.Response, wanted: list[str]) -> bool:
    try:
        return answer.json()["errors"][0]["code"] in wanted
    except (ValueError, LookupError, TypeError):
        return False


def has_content(answer: requests.Response, wanted: str) -> bool:
    if not wanted:
        return answer.content == b""
    return f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == wanted


def has_json(answer: requests.Response, wanted: dict[str, Any]) -> bool:
    try:
        document = answer.json()
    except json.JSONDecodeError:
        return False
    return all(document.get(key) == value for key, value in wanted.items())


def has_pages(answer: requests.Response, wanted: list[str]) -> bool:
    found = list(answer.json()["tags"])
    for _ in range(PAGES_MAX):
        if "next" not in answer.links:
            return found == wanted
        answer = requests.get(urljoin(answer.url, answer.links["next"]["url"]), timeout=10)
        found += answer.json()["tags"]
    return False


CHECKS = {
    "status": has_status,
    "headers": has_headers,
    "error": has_error,
    "content": has_content,
    "json": has_json,
    "pages": has_pages,
}
"""What a row may expect, and who looks whether it is so."""
