"""The origin's answers, request by request, from the real nginx that the role configured."""

import hashlib
import http.client
import socket
from contextlib import suppress
from pathlib import PurePosixPath

import pytest
import requests

from lab.host import Host
from lab.images import Samples

HOST = "198.18.0.11"
IMMUTABLE = "public, max-age=31536000, immutable"


def get(url: str, path: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, url + path, headers={"Accept-Encoding": "gzip", **headers}, timeout=10)


def error_code(answer: requests.Response) -> str:
    assert answer.headers["Content-Type"] == "application/json"
    # nginx leaves the content's own headers on a 416; caches go by the strictest.
    assert answer.headers["Cache-Control"].endswith("no-store")
    assert "<" not in answer.text
    return str(answer.json()["errors"][0]["code"])


def raw(request: bytes) -> bytes:
    """Send *request* as it is; return the answer up to where the server closes."""
    answer = b""
    # nginx answers a request line that is too long without reading it to its end, and the kernel tells us so.
    with socket.create_connection((HOST, 80), timeout=20) as connection, suppress(ConnectionResetError):
        connection.sendall(request)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_the_ping_is_answered(url: str) -> None:
    for method in ("GET", "HEAD"):
        answer = get(url, "/v2/", method)
        assert answer.status_code == 200
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert get(url, "/v2").url == f"{url}/v2/"


@pytest.mark.parametrize("name", ["layers", "oci_index"])
def test_a_manifest_has_its_type_digest_and_length(name: str, url: str, samples: Samples) -> None:
    sample = getattr(samples, name)
    for target, cache in ((sample.tag, "public, max-age=60, stale-if-error=86400"), (sample.digest, IMMUTABLE)):
        path = f"/v2/{sample.repository}/manifests/{target}"
        answer, head = get(url, path), get(url, path, "HEAD")
        assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == sample.digest
        for response in (answer, head):
            assert response.status_code == 200
            assert response.headers["Content-Type"] == sample.media_type
            assert response.headers["Docker-Content-Digest"] == sample.digest
            assert response.headers["Content-Length"] == str(len(answer.content))
            assert response.headers["Cache-Control"] == cache
            assert "Content-Encoding" not in response.headers
            assert "Last-Modified" not in response.headers
            assert response.headers["Server"] == "nginx"


def test_a_manifest_that_is_known_is_not_sent_again(url: str, samples: Samples) -> None:
    path = f"/v2/{samples.layers.repository}/manifests/{samples.layers.tag}"
    etag = get(url, path).headers["ETag"]
    again = get(url, path, **{"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == etag
    assert "Content-Length" not in again.headers
    assert again.headers["Cache-Control"] == "public, max-age=60, stale-if-error=86400"
    assert again.headers["Docker-Content-Digest"] == samples.layers.digest
    for when in ("Thu, 01 Jan 1970 00:00:01 GMT", "Fri, 01 Jan 2038 00:00:00 GMT"):
        assert get(url, path, **{"If-Modified-Since": when}).status_code == 200
    assert get(url, path, **{"If-None-Match": '"other"'}).status_code == 200


def test_a_blob_is_served_whole_and_in_ranges(url: str, samples: Samples) -> None:
    repository = samples.layers.repository
    manifest = get(url, f"/v2/{repository}/manifests/{samples.layers.tag}").json()
    layer = max(manifest["layers"], key=lambda row: row["size"])
    path = f"/v2/{repository}/blobs/{layer['digest']}"
    whole = get(url, path)
    assert whole.headers["Content-Type"] == "application/octet-stream"
    assert whole.headers["Docker-Content-Digest"] == layer["digest"]
    assert whole.headers["Cache-Control"] == IMMUTABLE
    assert f"sha256:{hashlib.sha256(whole.content).hexdigest()}" == layer["digest"]
    size = layer["size"]
    for asked, start, end in ((f"{size // 2}-", size // 2, size - 1), ("0-0", 0, 0), ("-7", size - 7, size - 1)):
        part = get(url, path, Range=f"bytes={asked}")
        assert part.status_code == 206
        assert part.headers["Content-Range"] == f"bytes {start}-{end}/{size}"
        assert part.content == whole.content[start : end + 1]
    beyond = get(url, path, Range=f"bytes={size}-")
    assert beyond.status_code == 416
    error_code(beyond)
    stale = get(url, path, Range="bytes=0-0", **{"If-Range": '"other"'})
    assert stale.status_code == 200
    head = get(url, path, "HEAD")
    assert (head.headers["Content-Length"], head.headers["Docker-Content-Digest"]) == (str(size), layer["digest"])


def test_a_blob_is_served_in_several_ranges_at_once(url: str, samples: Samples) -> None:
    repository = samples.layers.repository
    layer = get(url, f"/v2/{repository}/manifests/{samples.layers.tag}").json()["layers"][0]
    path = f"/v2/{repository}/blobs/{layer['digest']}"
    whole = get(url, path).content
    several = get(url, path, Range="bytes=0-9,20-29,-5")
    assert several.status_code == 206
    kind, _, boundary = several.headers["Content-Type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = [part.partition(b"\r\n\r\n") for part in several.content.split(f"\r\n--{boundary}".encode())[1:-1]]
    assert [body for _, _, body in parts] == [whole[:10], whole[20:30], whole[-5:]]
    assert all(b"application/octet-stream" in headers for headers, _, _ in parts)


def test_the_tag_that_stands_in_for_referrers_is_a_tag_like_any(url: str, host: Host, samples: Samples) -> None:
    folder = f"/srv/seawall/v2/{samples.layers.repository}/manifests"
    tag = samples.layers.digest.replace(":", "-")
    try:
        host.run("cp", "--no-dereference", f"{folder}/{samples.layers.tag}", f"{folder}/{tag}")
        answer = get(url, f"/v2/{samples.layers.repository}/manifests/{tag}")
        assert answer.headers["Docker-Content-Digest"] == samples.layers.digest
        assert answer.headers["Cache-Control"] == "public, max-age=60, stale-if-error=86400"
    finally:
        host.run("rm", "--force", f"{folder}/{tag}")


def test_a_blob_of_another_repository_is_not_served(url: str, samples: Samples) -> None:
    config = get(url, f"/v2/{samples.layers.repository}/manifests/{samples.layers.tag}").json()["config"]
    answer = get(url, f"/v2/{samples.oci_index.repository}/blobs/{config['digest']}")
    assert answer.status_code == 404
    assert error_code(answer) == "BLOB_UNKNOWN"


def test_tags_are_listed(url: str, samples: Samples) -> None:
    answer = get(url, f"/v2/{samples.layers.repository}/tags/list")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"name": samples.layers.repository, "tags": [samples.layers.tag]}


def test_nothing_refers_to_a_digest_so_far(url: str, samples: Samples) -> None:
    path = f"/v2/{samples.layers.repository}/referrers/{samples.layers.digest}"
    for query in ("", "?artifactType=application/x"):
        answer = get(url, path + query)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
        assert answer.json()["manifests"] == []
    assert get(url, f"/v2/no/such/referrers/{samples.layers.digest}").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/lab/layers/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("/v2/no/such/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/lab/layers/manifests/sha256:{'0' * 64}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/lab/layers/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        ("/v2/no/such/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/lab/layers/blobs/uploads/", 404, "UNSUPPORTED"),
        ("/", 404, "UNSUPPORTED"),
        ("/content/", 404, "UNSUPPORTED"),
        ("/releases/1.json", 404, "UNSUPPORTED"),
        ("/v2/lab/layers/manifests/", 404, "MANIFEST_UNKNOWN"),
        ("/v2/lab/layers", 404, "UNSUPPORTED"),
        ("/v2/lab/layers/manifests/.no-tag", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/lab/layers/manifests/sha512:{'0' * 128}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/lab/layers/blobs/sha512:{'0' * 128}", 404, "BLOB_UNKNOWN"),
        ("/v2/lab/layers/manifests/sha256:0", 400, "DIGEST_INVALID"),
        (f"/v2/lab/layers/manifests/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        ("/v2/lab/layers/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/lab/layers/blobs/sha256%3Aabc?ns=docker.io", 400, "DIGEST_INVALID"),
        ("/v2/lab/layers/referrers/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/lab/layers/referrers/1.0", 400, "DIGEST_INVALID"),
        ("/v2/Lab/layers/manifests/1.0", 400, "NAME_INVALID"),
        (f"/v2/lab_/layers/blobs/sha256:{'0' * 64}", 400, "NAME_INVALID"),
        ("/v2/lab//layers/tags/list?n=1", 400, "NAME_INVALID"),
        ("/v2//manifests/1.0", 400, "NAME_INVALID"),
        ("/v2/-/referrers/1", 400, "NAME_INVALID"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_an_error_in_json(path: str, status: int, code: str, url: str) -> None:
    answer = get(url, path)
    assert (answer.status_code, error_code(answer)) == (status, code)
    assert get(url, path, "HEAD").status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE"])
@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/lab/layers/manifests/1.0", "/v2/lab/layers/blobs/uploads/", "/v2/lab/layers/tags/list", "/"]
)
def test_what_would_write_is_405_in_json(method: str, path: str, url: str) -> None:
    connection = http.client.HTTPConnection(HOST, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 405
    assert b"UNSUPPORTED" in body or method == "TRACE"
    assert b"<" not in body
    assert answer.headers["Allow"] == "GET, HEAD" or method == "TRACE"


def test_an_upload_with_a_large_body_is_405_too(url: str) -> None:
    answer = requests.put(f"{url}/v2/lab/layers/manifests/new", data=bytes(3_000_000), timeout=10)
    assert (answer.status_code, error_code(answer)) == (405, "UNSUPPORTED")


@pytest.mark.parametrize(
    "target",
    [
        b"/v2/../../../etc/passwd",
        b"/v2/lab/layers/manifests/../../../../../etc/passwd",
        b"/v2/lab/layers/manifests/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        b"/v2/lab/layers/blobs/..%2f..%2f..%2f..%2freleases/1.json",
        b"/v2/%2e%2e/releases/1.json",
        b"/v2//lab//layers//manifests//1.0",
        b"/v2/lab/layers/manifests/1.0%00.html",
        b"/v2/lab/layers/manifests/1.0%0a",
        b"/v2/lab/layers/manifests/" + b"a" * 5000,
        b"/v2/" + b"a/" * 9000 + b"manifests/x",
        b"http://elsewhere.example/v2/lab/none/manifests/x",
        b"/v2/lab/layers/manifests/\xff\xfe",
        b"/v2/LAB/layers/manifests/1.0",
    ],
)
def test_nothing_outside_the_tree_is_reachable(target: bytes, url: str) -> None:
    answer = raw(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert 400 <= status < 500, head
    assert b"root:" not in body
    assert b"<html" not in body.lower(), body
    assert b'{"errors":[{"code":"' in body


@pytest.mark.parametrize(
    "request_", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET /v2/ HTTP/9.9\r\n\r\n", b"GET /v2/ HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_request_is_an_error_in_json(request_: bytes, url: str) -> None:
    answer = raw(request_)
    assert b"<html" not in answer.lower()
    assert b"500" not in answer.split(b"\r\n")[0]


def test_a_link_that_leads_out_of_the_tree_is_not_followed(url: str, host: Host) -> None:
    repository = PurePosixPath("/srv/seawall/v2/lab/layers")
    evil = f"sha256:{'e' * 64}"
    links = {repository / "manifests/evil": "/etc/passwd", repository / "blobs" / evil: "/etc/passwd"}
    try:
        for link, to in links.items():
            host.run("ln", "-s", to, str(link))
        assert get(url, "/v2/lab/layers/manifests/evil").status_code == 404
        assert get(url, f"/v2/lab/layers/blobs/{evil}").status_code == 404
    finally:
        host.run("rm", "--force", *map(str, links))


def test_a_tag_that_ends_like_a_web_page_is_still_a_manifest(url: str, host: Host, samples: Samples) -> None:
    folder = f"/srv/seawall/v2/{samples.layers.repository}/manifests"
    try:
        host.run("cp", "--no-dereference", f"{folder}/{samples.layers.tag}", f"{folder}/1.2.html")
        answer = get(url, f"/v2/{samples.layers.repository}/manifests/1.2.html")
        assert answer.headers["Content-Type"] == samples.layers.media_type
        assert answer.headers["Docker-Content-Digest"] == samples.layers.digest
    finally:
        host.run("rm", "--force", f"{folder}/1.2.html")


def test_seawall_verify_agrees(url: str, host: Host, samples: Samples) -> None:
    references = [f"{sample.repository}:{sample.tag}" for sample in (samples.layers, samples.oci_index)]
    ran = host.run("seawall", "verify", url, *references)
    assert "all holds" in ran.stdout
