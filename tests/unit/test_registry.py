"""The docker:// source against a registry that behaves, and one that does not."""

import base64
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock, create_autospec

import pytest
import trustme
from urllib3.connection import HTTPConnection

from seawall import http_session
from seawall.authorization import _check_realm
from seawall.credentials import Credentials
from seawall.digest import Digest
from seawall.errors import CredentialsError, InputError, SeawallError, SourceError, TransientError
from seawall.http_session import PIECE_BYTES, RETRY_AFTER_MAX, HttpSession, is_loopback, same_origin
from seawall.manifest import MANIFEST_MAX_BYTES
from seawall.media_type import ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX
from seawall.reference import RegistryLocation
from seawall.registry import RegistrySource
from seawall.source import Source
from unit.fake_registry import (
    AMD64,
    ARM64,
    FakeImage,
    FakeRegistry,
    Fault,
    make_docker_list,
    make_image,
    make_index,
    make_layer,
)

USER = Credentials("wally", "s3cret-pass")
SECRETS = ("s3cret-pass", base64.b64encode(b"wally:s3cret-pass").decode(), "token-1-of-", "identity-s3cret")


class Scene(NamedTuple):
    """A registry with one image, team/app:1.0, and a source that pulls from it."""

    registry: FakeRegistry
    image: FakeImage
    source: RegistrySource
    pauses: list[float]

    @property
    def layer(self) -> Digest:
        return self.image.layers[0].digest

    def pull_layer(self) -> bytes:
        return b"".join(self.source.blob(self.image.layers[0]))


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that were waited between tries, instead of waiting."""
    return []


@pytest.fixture
def http(pauses: list[float]) -> Iterator[HttpSession]:
    session = HttpSession(connect_timeout=2, read_timeout=0.3, sleep=pauses.append)
    yield session
    session.close()


@pytest.fixture
def scene(http: HttpSession, pauses: list[float]) -> Iterator[Scene]:
    with FakeRegistry() as registry:
        image = registry.add_image("team/app", "1.0")
        yield Scene(registry, image, open_source(registry, http), pauses)


def open_source(registry: FakeRegistry, http: HttpSession, credentials: Credentials | None = None) -> RegistrySource:
    return RegistrySource(RegistryLocation(registry.host, "team/app"), credentials=lambda _host: credentials, http=http)


def failure(action: Callable[[], object]) -> SeawallError:
    """Return the error that *action* raises, having seen that it is one line that gives no secret away."""
    with pytest.raises(SeawallError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line
    assert not [secret for secret in SECRETS if secret in line]
    return caught.value


def test_it_is_a_source(scene: Scene) -> None:
    source: Source = scene.source
    assert source.requests == 0


# What a registry serves


def test_a_tag_resolves_to_type_digest_and_size_by_one_head(scene: Scene) -> None:
    assert scene.source.resolve("1.0") == scene.image.descriptor
    (asked,) = scene.registry.requests
    assert (asked.method, asked.path) == ("HEAD", "/v2/team/app/manifests/1.0")
    assert asked.headers["Accept"] == ACCEPT


@pytest.mark.parametrize(
    "image",
    [
        make_image(),
        make_image(kind=DOCKER_MANIFEST),
        make_index([make_image(), make_image(platform=ARM64)]),
        make_docker_list([make_image(kind=DOCKER_MANIFEST)]),
    ],
    ids=lambda image: str(image.manifest.kind),
)
def test_a_manifest_of_each_kind_comes_as_it_is(scene: Scene, image: FakeImage) -> None:
    scene.registry.add_image("team/app", "kind", image)
    assert scene.source.resolve("kind") == image.descriptor
    assert scene.source.manifest(image.digest) == (image.content, image.manifest.kind.media_type)


def test_made_images_are_the_same_each_time() -> None:
    assert make_index([make_image(), make_image(platform=ARM64)]) == make_index(
        [make_image(), make_image(platform=ARM64)]
    )
    assert make_index([make_image()]).manifest.kind == OCI_INDEX
    assert make_docker_list([make_image()]).manifest.kind == DOCKER_LIST
    assert make_image(platform=AMD64).digest != make_image(platform=ARM64).digest


def test_a_blob_comes_whole_in_pieces_of_at_most_one_mebibyte(scene: Scene) -> None:
    layer = make_layer("large", 2 * PIECE_BYTES + 5)
    image = scene.registry.add_image("team/app", "large", make_image(layers=[layer]))
    pieces = list(scene.source.blob(image.layers[0]))
    assert b"".join(pieces) == layer
    assert max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize("chunked", [False, True])
def test_an_empty_blob_comes_empty(scene: Scene, chunked: bool) -> None:
    image = scene.registry.add_image("team/app", "empty", make_image(layers=[b""]))
    scene.registry.misbehave(Fault(on="/blobs/", chunked=chunked))
    assert b"".join(scene.source.blob(image.layers[0])) == b""


def test_a_chunked_blob_comes_whole(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", chunked=True))
    assert Digest.of(scene.pull_layer()) == scene.layer


def test_bodies_are_asked_for_as_they_are(scene: Scene) -> None:
    scene.pull_layer()
    assert scene.registry.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_blob_that_is_called_encoded_is_not_decoded(scene: Scene) -> None:
    # Plain web servers call a .tar.gz so; its digest is that of the bytes on the wire.
    scene.registry.misbehave(Fault(on="/blobs/", headers={"Content-Encoding": "gzip"}))
    assert Digest.of(scene.pull_layer()) == scene.layer


def test_every_request_is_counted(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/manifests/", status=503, times=1))
    scene.source.manifest(scene.source.resolve("1.0").digest)
    scene.pull_layer()
    assert scene.source.requests == len(scene.registry.requests) == 4


def test_connections_are_used_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = create_autospec(HTTPConnection.connect, side_effect=HTTPConnection.connect)
    monkeypatch.setattr(HTTPConnection, "connect", connect)
    for _ in range(3):
        scene.source.manifest(scene.source.resolve("1.0").digest)
        scene.pull_layer()
        failure(lambda: scene.source.resolve("2.0"))
    connect.assert_called_once()


def test_cookies_are_neither_kept_nor_sent(scene: Scene) -> None:
    scene.registry.misbehave(Fault(headers={"Set-Cookie": "track=me"}))
    scene.source.resolve("1.0")
    scene.source.resolve("1.0")
    assert scene.registry.requests[-1].headers["Cookie"] is None


# What it lacks


def test_a_tag_that_is_not_there_is_named_in_full(scene: Scene) -> None:
    error = failure(lambda: scene.source.resolve("2.0"))
    assert isinstance(error, SourceError)
    assert not isinstance(error, TransientError)
    assert error.where == f"docker://{scene.registry.host}/team/app:2.0"
    assert error.what.startswith("no such tag")


def test_a_manifest_that_is_not_there_is_named_in_full(scene: Scene) -> None:
    digest = Digest.of(b"nothing")
    error = failure(lambda: scene.source.manifest(digest))
    assert error.where == f"docker://{scene.registry.host}/team/app@{digest}"
    assert error.what.startswith("no such manifest")


def test_a_blob_that_is_not_there_is_named_in_full(scene: Scene) -> None:
    missing = replace(scene.image.layers[0], digest=Digest.of(b"nothing"))
    error = failure(lambda: list(scene.source.blob(missing)))
    assert error.where == f"docker://{scene.registry.host}/team/app@{missing.digest}"
    assert error.what.startswith("no such blob")
    assert not isinstance(error, TransientError)


# Answers that lack something


@pytest.mark.parametrize("status", [404, 405, 400])
def test_a_registry_that_does_not_know_head_is_asked_by_get(scene: Scene, status: int) -> None:
    scene.registry.misbehave(Fault(method="HEAD", status=status))
    assert scene.source.resolve("1.0") == scene.image.descriptor


@pytest.mark.parametrize("header", ["Docker-Content-Digest", "Content-Type", "Content-Length"])
def test_what_a_head_does_not_say_is_taken_from_the_manifest(scene: Scene, header: str) -> None:
    scene.registry.misbehave(Fault(method="HEAD", without=(header,)))
    assert scene.source.resolve("1.0") == scene.image.descriptor


def test_a_manifest_without_its_digest_header_is_digested(scene: Scene) -> None:
    scene.registry.misbehave(Fault(without=("Docker-Content-Digest",)))
    assert scene.source.resolve("1.0") == scene.image.descriptor


@pytest.mark.parametrize("value", ["sha512:" + "0" * 128, "sha256:short", "nonsense"])
def test_a_digest_header_that_is_none_is_left_out(scene: Scene, value: str) -> None:
    scene.registry.misbehave(Fault(headers={"Docker-Content-Digest": value}))
    assert scene.source.resolve("1.0") == scene.image.descriptor


def test_a_charset_on_the_type_of_a_manifest_is_left_out(scene: Scene) -> None:
    typed = scene.image.manifest.kind.media_type
    scene.registry.misbehave(Fault(headers={"Content-Type": f"{typed}; charset=utf-8"}))
    assert scene.source.resolve("1.0") == scene.image.descriptor
    assert scene.source.manifest(scene.image.digest)[1] == typed


def test_the_type_of_a_manifest_comes_from_itself_where_the_server_says_another(scene: Scene) -> None:
    scene.registry.misbehave(Fault(headers={"Content-Type": "text/plain"}))
    assert scene.source.resolve("1.0") == scene.image.descriptor


# Answers that are wrong


def test_a_wrong_digest_header_leads_to_no_manifest(scene: Scene) -> None:
    other = Digest.of(b"another")
    scene.registry.misbehave(Fault(headers={"Docker-Content-Digest": str(other)}))
    pinned = scene.source.resolve("1.0")
    assert pinned.digest == other
    assert failure(lambda: scene.source.manifest(other)).what.startswith("no such manifest")


def test_a_manifest_that_is_not_what_its_own_header_says_is_refused(scene: Scene) -> None:
    other = Digest.of(b"another")
    scene.registry.misbehave(Fault(method="HEAD", status=405))
    scene.registry.misbehave(Fault(headers={"Docker-Content-Digest": str(other)}))
    error = failure(lambda: scene.source.resolve("1.0"))
    assert f"sent other bytes than the {other}" in error.what


def test_a_manifest_of_other_bytes_is_refused(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/manifests/sha256", wrong_bytes=True))
    error = failure(lambda: scene.source.manifest(scene.image.digest))
    assert f"sent other bytes than {scene.image.digest}" in error.what
    assert not isinstance(error, TransientError)


def test_a_manifest_that_is_encoded_unasked_is_refused_with_the_reason(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/manifests/sha256", gzip=True))
    assert "encoded them as gzip" in failure(lambda: scene.source.manifest(scene.image.digest)).what


def test_an_html_page_is_no_manifest(scene: Scene) -> None:
    page = Fault(body=b"<html>Welcome!</html>", headers={"Content-Type": "text/html"})
    scene.registry.misbehave(replace(page, without=("Docker-Content-Digest",)))
    assert "manifest is not JSON" in failure(lambda: scene.source.resolve("1.0")).what
    assert "sent other bytes" in failure(lambda: scene.source.manifest(scene.image.digest)).what


def test_a_manifest_over_four_mebibytes_is_refused(scene: Scene) -> None:
    scene.registry.misbehave(Fault(body=bytes(MANIFEST_MAX_BYTES + 1)))
    assert "larger than 4194304 bytes" in failure(lambda: scene.source.resolve("1.0")).what
    assert "larger than 4194304 bytes" in failure(lambda: scene.source.manifest(scene.image.digest)).what


@pytest.mark.parametrize("announce", [-1, 1])
def test_a_manifest_of_another_length_is_refused(scene: Scene, announce: int) -> None:
    scene.registry.misbehave(Fault(method="GET", announce=announce))
    what = failure(lambda: scene.source.manifest(scene.image.digest)).what
    assert ("ended its answer early" if announce > 0 else "sent other bytes") in what


@pytest.mark.parametrize("path", ["/manifests/1.0", "/manifests/sha256"])
def test_an_endless_manifest_is_left_soon(scene: Scene, path: str) -> None:
    scene.registry.misbehave(Fault(method="HEAD", status=405))
    scene.registry.misbehave(Fault(on=path, endless=True))
    ask = (
        (lambda: scene.source.manifest(scene.image.digest)) if "sha" in path else (lambda: scene.source.resolve("1.0"))
    )
    assert "larger than 4194304 bytes" in failure(ask).what
    assert scene.registry.bytes_sent < 4 * MANIFEST_MAX_BYTES


def test_an_endless_error_page_is_left_soon(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=404, endless=True))
    assert "no such tag" in failure(lambda: scene.source.resolve("1.0")).what
    assert scene.registry.bytes_sent < MANIFEST_MAX_BYTES * 2


def test_the_body_of_a_redirect_is_not_read_to_its_end(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", redirect_to=f"/v2/team/app/blobs2/{scene.layer}", endless=True))
    failure(scene.pull_layer)
    assert scene.registry.bytes_sent < MANIFEST_MAX_BYTES * 2


def test_an_endless_blob_is_left_at_its_size(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", endless=True))
    received = bytearray()

    def pull() -> None:
        for piece in scene.source.blob(scene.image.layers[0]):
            received.extend(piece)

    error = failure(pull)
    assert "more than its 1000 bytes" in error.what
    assert not isinstance(error, TransientError)
    assert len(received) <= 1000
    assert scene.registry.bytes_sent < 16 * PIECE_BYTES


@pytest.mark.parametrize("announce", [-1, 1])
def test_a_blob_of_another_length_is_refused_before_it_is_read(scene: Scene, announce: int) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", announce=announce))
    error = failure(scene.pull_layer)
    assert f"announced with {1000 + announce} bytes, not the 1000" in error.what
    assert not isinstance(error, TransientError)


@pytest.mark.parametrize("length", ["abc", "-5", "1000, 7", "1e3"])
def test_a_length_that_is_none_is_refused(scene: Scene, length: str) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", headers={"Content-Length": length}))
    error = failure(scene.pull_layer)
    assert isinstance(error, SourceError)
    assert not isinstance(error, TransientError)


def test_wrong_bytes_of_a_blob_are_left_to_whoever_asked(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", wrong_bytes=True))
    assert len(scene.pull_layer()) == 1000


def test_a_partial_answer_to_a_whole_question_is_refused(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", status=206))
    assert "answered 206" in failure(scene.pull_layer).what


def test_a_server_cannot_write_a_second_line_or_a_book_into_an_error(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=404, body=b"\x1b[2Jfine\r\nall is well " + b"x" * 5000))
    line = str(failure(lambda: scene.source.resolve("1.0")))
    assert "\x1b" not in line
    assert len(line) < 450


# Cuts, stalls and bad days


def test_a_blob_cut_in_the_middle_is_transient(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", die_after=500))
    error = failure(scene.pull_layer)
    assert isinstance(error, TransientError)
    assert "ended its answer early" in error.what
    assert len(scene.registry.asked("GET", "/blobs/")) == 1


def test_a_chunked_blob_that_ends_early_is_transient(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", chunked=True, body=b"short"))
    error = failure(scene.pull_layer)
    assert isinstance(error, TransientError)
    assert "5 of 1000 bytes" in error.what


def test_a_chunked_blob_cut_in_the_middle_is_transient(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", headers={"Transfer-Encoding": "chunked"}, without=("Content-Length",)))
    assert isinstance(failure(scene.pull_layer), TransientError)


def test_a_blob_that_stalls_is_transient(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", die_after=500, stall=10))
    error = failure(scene.pull_layer)
    assert isinstance(error, TransientError)
    assert "sent nothing for 0.3 seconds" in error.what


def test_a_blob_that_drips_is_transient_and_left_soon(scene: Scene) -> None:
    # Each byte comes in time, all of them together would take 20 seconds.
    scene.registry.misbehave(Fault(on="/blobs/", drip=0.02))
    began = time.monotonic()
    error = failure(scene.pull_layer)
    assert isinstance(error, TransientError)
    assert re.search(r"sent only \d+ bytes in 0\.\d seconds", error.what)
    assert time.monotonic() - began < 2


def test_a_slow_disk_is_not_taken_for_a_slow_server(scene: Scene) -> None:
    layer = make_layer("large", 2 * PIECE_BYTES)
    image = scene.registry.add_image("team/app", "large", make_image(layers=[layer]))
    received = b""
    for number, piece in enumerate(scene.source.blob(image.layers[0])):
        received += piece
        time.sleep(0.4 if number < 2 else 0)
    assert received == layer


def test_a_blob_that_is_given_up_leaves_no_connection_behind(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", endless=True))
    pieces = scene.source.blob(replace(scene.image.layers[0], size=100 * PIECE_BYTES))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    scene.registry.behave()
    assert Digest.of(scene.pull_layer()) == scene.layer


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_connection_that_dies_is_tried_again(scene: Scene, method: str) -> None:
    scene.registry.misbehave(Fault(method=method, die_after=-1, times=2))
    assert scene.source.manifest(scene.source.resolve("1.0").digest)[0] == scene.image.content
    assert len(scene.pauses) == 2


def test_a_manifest_cut_in_the_middle_is_read_again(scene: Scene) -> None:
    scene.registry.misbehave(Fault(method="GET", die_after=10, times=2))
    assert scene.source.manifest(scene.image.digest)[0] == scene.image.content


def test_a_manifest_that_is_always_cut_is_given_up_after_three_tries(scene: Scene) -> None:
    scene.registry.misbehave(Fault(method="GET", die_after=10))
    error = failure(lambda: scene.source.manifest(scene.image.digest))
    assert type(error) is SourceError
    assert "3 times in a row" in error.what
    assert len(scene.registry.requests) == 3


def test_a_silent_registry_is_given_up_after_three_tries(scene: Scene) -> None:
    scene.registry.misbehave(Fault(stall=10))
    error = failure(lambda: scene.source.resolve("1.0"))
    assert type(error) is SourceError
    assert "sent nothing for 0.3 seconds" in error.what


def test_a_manifest_that_drips_is_left(scene: Scene) -> None:
    # Each byte comes in time, all of them together do not.
    scene.registry.misbehave(Fault(drip=0.02))
    source = open_source(scene.registry, HttpSession(read_timeout=0.1, tries=1))
    assert "answers too slowly" in failure(lambda: source.manifest(scene.image.digest)).what


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_bad_moment_of_a_registry_is_sat_out(scene: Scene, status: int, method: str) -> None:
    scene.registry.misbehave(Fault(method=method, status=status, times=2))
    assert scene.source.manifest(scene.source.resolve("1.0").digest)[0] == scene.image.content
    assert Digest.of(scene.pull_layer()) == scene.layer


def test_pauses_grow_and_differ(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=503))
    for _ in range(5):
        failure(lambda: scene.source.resolve("1.0"))
    first, second = scene.pauses[::2], scene.pauses[1::2]
    assert all(0.5 <= pause <= 1 for pause in first)
    assert all(1 <= pause <= 2 for pause in second)
    assert len(set(scene.pauses)) > 5


def test_a_registry_that_is_down_is_quoted(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=503))
    error = failure(scene.pull_layer)
    assert type(error) is SourceError
    assert f"{scene.registry.host} answered 503 (FAULT: status 503 on purpose), 3 times in a row" in error.what


def test_a_quota_is_waited_for_as_long_as_the_registry_asks(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=429, headers={"Retry-After": "7"}, times=2))
    assert scene.source.resolve("1.0") == scene.image.descriptor
    assert all(7 <= pause < 8 for pause in scene.pauses)


@pytest.mark.parametrize("status", [429, 503])
def test_nobody_waits_longer_than_a_minute_nor_asks_sooner_than_told(scene: Scene, status: int) -> None:
    scene.registry.misbehave(Fault(status=status, headers={"Retry-After": "86400"}, times=1))
    error = failure(scene.pull_layer)
    assert type(error) is SourceError
    assert "in 86400 seconds" in error.todo
    assert scene.pauses == []
    assert len(scene.registry.requests) == 1


@pytest.mark.parametrize("value", ["soon", "", "-1", "9" * 400])
def test_a_retry_after_that_is_none_is_left_out(scene: Scene, value: str) -> None:
    scene.registry.misbehave(Fault(status=429, headers={"Retry-After": value}, times=1))
    scene.source.resolve("1.0")
    assert scene.pauses[0] < RETRY_AFTER_MAX + 1


def test_a_quota_that_is_used_up_says_when_to_try_again(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=429, headers={"Retry-After": "3600"}))
    error = failure(lambda: scene.source.resolve("1.0"))
    assert isinstance(error, SourceError)
    assert not isinstance(error, TransientError)
    assert "quota of requests is used up" in error.what
    assert "in 3600 seconds" in error.todo


def test_a_registry_that_is_not_there_refuses_the_connection_once_for_both_schemes(http: HttpSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    source = RegistrySource(RegistryLocation(host, "team/app"), http=http)
    error = failure(lambda: source.resolve("1.0"))
    assert type(error) is SourceError
    assert f"{host} refused the connection" in error.what


def test_a_host_that_has_no_address_says_so(http: HttpSession) -> None:
    source = RegistrySource(RegistryLocation("registry.invalid", "team/app"), http=http)
    assert "registry.invalid is not a name that resolves" in failure(lambda: source.resolve("1.0")).what


def test_a_server_that_speaks_something_else_is_no_registry(http: HttpSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(3):
                client, _address = listener.accept()
                with client:
                    client.recv(4096)
                    client.sendall(b"220 mail.example ESMTP\r\n")

        greeter = threading.Thread(target=greet, daemon=True)
        greeter.start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        source = RegistrySource(RegistryLocation(host, "team/app"), plain_http=True, http=http)
        assert "does not answer in HTTP" in failure(lambda: source.resolve("1.0")).what
        greeter.join(2)


# Redirects


@pytest.fixture
def cdn(scene: Scene) -> Iterator[FakeRegistry]:
    """Another host that serves the same blobs."""
    with FakeRegistry(store=scene.registry.store) as registry:
        yield registry


def test_a_blob_is_fetched_from_where_the_registry_sends_us(scene: Scene, cdn: FakeRegistry) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
    assert Digest.of(scene.pull_layer()) == scene.layer
    assert scene.source.requests == 2


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_authorization_does_not_follow_to_another_host(http: HttpSession, auth: str) -> None:
    with FakeRegistry(auth, username=USER.username, password=USER.password) as registry:
        image = registry.add_image("team/app", "1.0")
        with FakeRegistry(store=registry.store) as cdn:
            registry.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
            source = open_source(registry, http, USER)
            source.resolve("1.0")
            assert b"".join(source.blob(image.layers[0]))
            assert registry.asked("GET", "/blobs/")[0].authorization is not None
            (asked,) = cdn.requests
            assert asked.authorization is None


def test_authorization_follows_on_the_same_host(http: HttpSession) -> None:
    with FakeRegistry("basic", username=USER.username, password=USER.password) as registry:
        image = registry.add_image("team/app", "1.0")
        other = image.layers[1].digest
        registry.misbehave(Fault(on=image.layers[0].digest, redirect_to=f"/v2/team/app/blobs/{other}"))
        assert Digest.of(b"".join(open_source(registry, http, USER).blob(image.layers[0]))) == other


def test_another_host_that_asks_for_credentials_gets_none(http: HttpSession) -> None:
    with (
        FakeRegistry("basic", username=USER.username, password=USER.password) as registry,
        FakeRegistry("bearer") as thief,
    ):
        image = registry.add_image("team/app", "1.0")
        registry.misbehave(Fault(on="/blobs/", redirect_to=thief.url))
        source = open_source(registry, http, USER)
        source.resolve("1.0")
        error = failure(lambda: list(source.blob(image.layers[0])))
        assert f"{thief.host} answered 401" in error.what
        assert [asked.authorization for asked in thief.requests] == [None]


def test_a_ring_of_redirects_is_left_after_five(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", redirect_to=scene.registry.url))
    assert "redirects more than 5 times" in failure(scene.pull_layer).what
    assert len(scene.registry.requests) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "https://[::1/x", "http://host:port/x", "mailto:a@b"])
def test_a_redirect_to_what_is_no_url_is_refused(scene: Scene, target: str) -> None:
    scene.registry.misbehave(Fault(on="/blobs/", redirect_to=target, headers={"Location": target}))
    assert isinstance(failure(scene.pull_layer), SourceError)
    assert len(scene.registry.requests) == 1


def test_a_signed_redirect_that_fails_does_not_show_its_signature(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    scene.registry.misbehave(Fault(on="/blobs/", redirect_to=f"http://joe:pw@{host}/blob?X-Signature=abc"))
    line = str(failure(scene.pull_layer))
    assert host in line
    assert not re.search("Signature|abc|joe|pw@", line)


# Who is let in


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials_are_given_when_asked_for_and_open_the_registry(http: HttpSession, auth: str) -> None:
    with FakeRegistry(auth, username=USER.username, password=USER.password) as registry:
        image = registry.add_image("team/app", "1.0")
        source = open_source(registry, http, USER)
        assert source.manifest(source.resolve("1.0").digest)[0] == image.content
        assert Digest.of(b"".join(source.blob(image.layers[0]))) == image.layers[0].digest
        assert registry.requests[0].authorization is None
        assert source.requests == len(registry.requests) == (4 if auth == "basic" else 5)


def test_an_anonymous_token_is_fetched_for_the_repository_and_to_pull_only(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        image = registry.add_image("team/app", "1.0")
        assert open_source(registry, http).resolve("1.0") == image.descriptor
        (asked,) = registry.asked("GET", "/token")
        assert "scope=repository%3Ateam%2Fapp%3Apull" in asked.path
        assert "service=fake+registry%2C+tests" in asked.path
        assert asked.authorization is None


def test_a_token_may_be_called_access_token(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.token_field = "access_token"
        image = registry.add_image("team/app", "1.0")
        assert open_source(registry, http).resolve("1.0") == image.descriptor


def test_an_identity_token_is_traded_for_a_token_by_post(http: HttpSession) -> None:
    with FakeRegistry("bearer", username="nobody", identity_token="identity-s3cret") as registry:
        image = registry.add_image("team/app", "1.0")
        source = open_source(registry, http, Credentials(identity_token="identity-s3cret"))
        assert source.resolve("1.0") == image.descriptor
        (asked,) = registry.asked("POST", "/token")
        assert b"grant_type=refresh_token" in asked.body
        assert b"scope=repository%3Ateam%2Fapp%3Apull" in asked.body


def test_an_identity_token_that_is_refused_is_not_shown(http: HttpSession) -> None:
    with FakeRegistry("bearer", username="nobody", identity_token="another") as registry:
        registry.misbehave(Fault(on="/token", status=400, body=b'{"errors": [{"message": "identity-s3cret is bad"}]}'))
        source = open_source(registry, http, Credentials(identity_token="identity-s3cret"))
        error = failure(lambda: source.resolve("1.0"))
        assert isinstance(error, CredentialsError)
        assert "***" in error.what


def test_an_identity_token_is_of_no_use_where_a_password_is_asked_for(http: HttpSession) -> None:
    with FakeRegistry("basic", username="nobody") as registry:
        source = open_source(registry, http, Credentials(identity_token="identity-s3cret"))
        assert "identity token" in failure(lambda: source.resolve("1.0")).what


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_wrong_credentials_are_refused_with_what_to_do(http: HttpSession, auth: str) -> None:
    with FakeRegistry(auth, username=USER.username, password="another") as registry:
        source = open_source(registry, http, USER)
        error = failure(lambda: source.resolve("1.0"))
        assert isinstance(error, CredentialsError)
        assert f"{registry.host} refuses these credentials" in error.what
        assert f"docker login {registry.host}" in error.todo


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_wrong_credentials_are_not_tried_again_and_again(http: HttpSession, auth: str) -> None:
    with FakeRegistry(auth, username=USER.username, password="another") as registry:
        source = open_source(registry, http, USER)
        with ThreadPoolExecutor(8) as pool:
            errors = list(pool.map(lambda _: failure(lambda: source.resolve("1.0")), range(8)))
        assert {type(error) for error in errors} == {CredentialsError}
        attempts = [asked for asked in registry.requests if (asked.authorization or "").startswith("Basic")]
        assert len(attempts) <= (1 if auth == "bearer" else 8)
        registry.requests.clear()
        failure(lambda: source.resolve("1.0"))
        assert [asked.authorization for asked in registry.requests] == [None]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_registry_that_wants_credentials_says_so(http: HttpSession, auth: str) -> None:
    with FakeRegistry(auth, username=USER.username, password=USER.password) as registry:
        error = failure(lambda: open_source(registry, http).resolve("1.0"))
        assert isinstance(error, CredentialsError)
        assert f"{registry.host} wants credentials" in error.what
        assert f"docker login {registry.host}" in error.todo


@pytest.mark.parametrize("credentials", [None, USER])
def test_access_that_is_denied_is_no_missing_tag(
    scene: Scene, http: HttpSession, credentials: Credentials | None
) -> None:
    scene.registry.misbehave(Fault(status=403))
    error = failure(lambda: open_source(scene.registry, http, credentials).resolve("1.0"))
    assert isinstance(error, CredentialsError)
    assert scene.registry.host in error.what
    assert ("refuses these credentials" if credentials else "wants credentials") in error.what


def test_a_registry_that_refuses_its_own_token_is_believed(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.misbehave(
            Fault(on="/manifests/", status=401, headers={"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})
        )
        assert isinstance(failure(lambda: open_source(registry, http).resolve("1.0")), CredentialsError)
        assert len(registry.asked("GET", "/token")) == 1


def test_a_refusal_without_a_challenge_is_about_credentials(scene: Scene) -> None:
    scene.registry.misbehave(Fault(status=401))
    assert isinstance(failure(lambda: scene.source.resolve("1.0")), CredentialsError)


def test_threads_share_one_token(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        image = registry.add_image("team/app", "1.0")
        source = open_source(registry, http)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: source.resolve("1.0"), range(24)))
        assert found == [image.descriptor] * 24
        assert len(registry.asked("GET", "/token")) == 1


def test_a_token_that_is_no_longer_good_is_replaced(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.add_image("team/app", "1.0")
        source = open_source(registry, http)
        source.resolve("1.0")
        registry.tokens.clear()
        source.resolve("1.0")
        assert len(registry.asked("GET", "/token")) == 2


@pytest.mark.parametrize(("lifetime", "good_for"), [(300, 289), (5, 49), (None, 49)])
def test_a_token_is_replaced_when_its_time_is_over(http: HttpSession, lifetime: int | None, good_for: float) -> None:
    now = [1000.0]
    with FakeRegistry("bearer", token_lifetime=lifetime) as registry:
        registry.add_image("team/app", "1.0")
        source = RegistrySource(RegistryLocation(registry.host, "team/app"), http=http, clock=lambda: now[0])
        source.resolve("1.0")
        now[0] += good_for
        source.resolve("1.0")
        assert len(registry.asked("GET", "/token")) == 1
        now[0] += 2
        source.resolve("1.0")
        assert len(registry.asked("GET", "/token")) == 2
        assert len(registry.asked("HEAD")) == 4  # only the first was refused


def test_a_token_server_on_another_host_gets_the_credentials_and_the_registry_its_token(http: HttpSession) -> None:
    with (
        FakeRegistry(username=USER.username, password=USER.password) as tokens,
        FakeRegistry("bearer", token_server=tokens) as registry,
    ):
        image = registry.add_image("team/app", "1.0")
        assert open_source(registry, http, USER).resolve("1.0") == image.descriptor
        assert tokens.requests[0].authorization == USER.basic
        assert [(asked.authorization or "")[:6] for asked in registry.requests] == ["", "Bearer"]


def test_a_token_server_that_redirects_elsewhere_does_not_take_the_password_along(http: HttpSession) -> None:
    with (
        FakeRegistry(username=USER.username, password=USER.password) as thief,
        FakeRegistry("bearer", username=USER.username, password=USER.password) as registry,
    ):
        registry.misbehave(Fault(on="/token", redirect_to=thief.url))
        failure(lambda: open_source(registry, http, USER).resolve("1.0"))
        assert thief.requests[0].authorization is None


def test_a_token_server_that_redirects_a_post_is_not_followed(http: HttpSession) -> None:
    with FakeRegistry() as thief, FakeRegistry("bearer", identity_token="identity-s3cret") as registry:
        registry.misbehave(Fault(on="/token", redirect_to=thief.url))
        source = open_source(registry, http, Credentials(identity_token="identity-s3cret"))
        assert "answered 307" in failure(lambda: source.resolve("1.0")).what
        assert thief.requests == []


def test_a_bad_moment_of_a_token_server_is_sat_out(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        image = registry.add_image("team/app", "1.0")
        registry.misbehave(Fault(on="/token", status=502, times=1))
        registry.misbehave(Fault(on="/token", die_after=3, times=1))
        assert open_source(registry, http).resolve("1.0") == image.descriptor


def test_a_token_server_that_is_down_is_tried_three_times_and_no_more(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.misbehave(Fault(on="/token", status=502))
        assert type(failure(lambda: open_source(registry, http).resolve("1.0"))) is SourceError
        assert len(registry.asked("GET", "/token")) == 3


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b'"token"', b"{}", b'{"token": 5}', b"[" * 100_000),
        b'{"token": "two\\r\\nX-Header: lines"}',
        b'{"token": "t", "expires_in": "soon"}',
        b'{"token": "t", "expires_in": [1]}',
    ],
)
def test_an_answer_without_a_token_is_refused(http: HttpSession, body: bytes) -> None:
    with FakeRegistry("bearer") as registry:
        registry.misbehave(Fault(on="/token", body=body))
        assert "sent no token" in failure(lambda: open_source(registry, http).resolve("1.0")).what


def test_an_endless_token_is_left_soon(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.misbehave(Fault(on="/token", endless=True))
        assert "sent no token" in failure(lambda: open_source(registry, http).resolve("1.0")).what
        assert registry.bytes_sent < 16 * PIECE_BYTES


@pytest.mark.parametrize(
    "challenge",
    [
        *("Bearer", 'Bearer realm=""', 'Bearer realm="/token"', 'Bearer realm="http://["'),
        'Bearer realm="file:///etc/passwd"',
        'Bearer realm="https://joe:pw@host/token"',
        'Bearer realm="http://host:99999999/"',
    ],
)
def test_a_realm_that_cannot_be_asked_is_refused(http: HttpSession, challenge: str) -> None:
    with FakeRegistry("bearer") as registry:
        registry.challenges = [challenge]
        assert "no token server" in failure(lambda: open_source(registry, http, USER).resolve("1.0")).what
        assert len(registry.requests) == 1


def test_a_scheme_that_is_not_known_is_named(http: HttpSession) -> None:
    with FakeRegistry("basic") as registry:
        registry.challenges = ["Negotiate abc==", 'Digest realm="x", nonce="a,b"']
        error = failure(lambda: open_source(registry, http, USER).resolve("1.0"))
        assert "asks for" in error.what
        assert "negotiate" in error.what


def test_a_token_is_preferred_to_a_password(http: HttpSession) -> None:
    with FakeRegistry("bearer", username=USER.username, password=USER.password) as registry:
        image = registry.add_image("team/app", "1.0")
        registry.challenges = ['Basic realm="x"', f'Bearer realm="{registry.url}/token?account=a",service="s"']
        assert open_source(registry, http, USER).resolve("1.0") == image.descriptor
        assert registry.asked("GET", "/token")[0].path.startswith("/token?account=a&scope=")


def test_credentials_are_looked_up_only_when_they_are_asked_for(scene: Scene, http: HttpSession) -> None:
    asked: list[str] = []

    def lookup(host: str) -> Credentials | None:
        asked.append(host)
        raise InputError("config.json", "is broken", "repair it")

    location = RegistryLocation(scene.registry.host, "team/app")
    RegistrySource(location, credentials=lookup, http=http).resolve("1.0")
    assert asked == []


def test_netrc_is_not_asked(http: HttpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login {USER.username} password {USER.password}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with FakeRegistry("basic", username=USER.username, password=USER.password) as registry:
        assert isinstance(failure(lambda: open_source(registry, http).resolve("1.0")), CredentialsError)
        assert {asked.authorization for asked in registry.requests} == {None}


def test_a_password_that_a_registry_repeats_is_not_repeated(http: HttpSession) -> None:
    with FakeRegistry("basic", username=USER.username, password=USER.password) as registry:
        registry.misbehave(Fault(on="/blobs/", status=404, body=f"what is {USER.basic}? {USER.password}?".encode()))
        source = open_source(registry, http, USER)
        registry.add_image("team/app", "1.0")
        source.resolve("1.0")
        error = failure(lambda: list(source.blob(make_image().layers[0])))
        assert "what is Basic ***? ***?" in error.what


def test_a_token_that_a_registry_repeats_is_not_repeated(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.add_image("team/app", "1.0")
        source = open_source(registry, http)
        source.resolve("1.0")
        registry.misbehave(Fault(status=404, body=f"what is {registry.tokens}?".encode()))
        assert "***" in failure(lambda: source.resolve("1.0")).what


def test_secrets_are_neither_in_reprs_nor_in_logs(http: HttpSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeRegistry("bearer", username=USER.username, password=USER.password) as registry:
        registry.add_image("team/app", "1.0")
        source = open_source(registry, http, USER)
        source.resolve("1.0")
        shown = caplog.text + repr(source) + repr(source.__dict__) + repr(USER)
    assert "/v2/team/app/manifests/1.0" in shown
    assert not [secret for secret in SECRETS if secret in shown]


# HTTP and HTTPS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority, by the variable that requests knows."""
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))


@pytest.mark.usefixtures("trusted")
def test_a_registry_on_this_machine_that_speaks_https_is_asked_so(http: HttpSession, authority: trustme.CA) -> None:
    with FakeRegistry(tls=tls_context(authority, "127.0.0.1")) as registry:
        image = registry.add_image("team/app", "1.0")
        source = open_source(registry, http)
        assert source.resolve("1.0") == image.descriptor
        assert Digest.of(b"".join(source.blob(image.layers[0]))) == image.layers[0].digest


def test_a_certificate_of_nobody_known_is_no_reason_to_do_without(http: HttpSession, authority: trustme.CA) -> None:
    with FakeRegistry(tls=tls_context(authority, "127.0.0.1")) as registry:
        error = failure(lambda: open_source(registry, http).resolve("1.0"))
        assert f"the certificate of {registry.host} is not trusted" in error.what
        assert "unable to get local issuer certificate" in error.what
        assert "REQUESTS_CA_BUNDLE" in error.todo
        assert not isinstance(error, TransientError)
        assert registry.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_is_not_trusted(http: HttpSession, authority: trustme.CA) -> None:
    with FakeRegistry(tls=tls_context(authority, "another.example")) as registry:
        assert "mismatch" in failure(lambda: open_source(registry, http).resolve("1.0")).what


@pytest.mark.usefixtures("trusted")
def test_nobody_is_sent_from_https_to_plain_http(http: HttpSession, authority: trustme.CA) -> None:
    with FakeRegistry(tls=tls_context(authority, "127.0.0.1")) as registry, FakeRegistry() as cdn:
        image = registry.add_image("team/app", "1.0")
        registry.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
        assert (
            "from https to plain http" in failure(lambda: list(open_source(registry, http).blob(image.layers[0]))).what
        )
        assert cdn.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_bundle_that_is_not_there_says_so(http: HttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/bundle.pem")
    source = RegistrySource(RegistryLocation("registry.invalid", "team/app"), http=http)
    error = failure(lambda: source.resolve("1.0"))
    assert "/nonexistent/bundle.pem" in error.what
    assert "REQUESTS_CA_BUNDLE" in error.todo


def test_whether_https_is_spoken_is_asked_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(wraps=http_session._speaks_tls)
    monkeypatch.setattr(http_session, "_speaks_tls", asked)
    scene.source.resolve("1.0")
    scene.pull_layer()
    asked.assert_called_once()


def test_plain_http_is_not_preceded_by_anything(scene: Scene, http: HttpSession) -> None:
    location = RegistryLocation(scene.registry.host, "team/app")
    assert RegistrySource(location, plain_http=True, http=http).resolve("1.0") == scene.image.descriptor
    assert http.scheme("registry.example", plain_http=True) == "http"


def test_a_registry_elsewhere_is_asked_by_https_only() -> None:
    assert HttpSession().scheme("registry.example:5000", plain_http=False) == "https"


def test_docker_hub_is_asked_where_it_answers(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    http = HttpSession(tries=1, sleep=pauses.append)
    asked: list[str] = []

    def refuse(*args: object, **_kwargs: object) -> None:
        asked.append(str(args[2]))
        raise OSError("not today")

    monkeypatch.setattr("requests.Session.request", refuse)
    source = RegistrySource(RegistryLocation("docker.io", "library/alpine"), http=http)
    error = failure(lambda: source.resolve("3.20"))
    assert asked == ["https://registry-1.docker.io/v2/library/alpine/manifests/3.20"]
    assert error.where == "docker://docker.io/library/alpine:3.20"


def test_a_password_does_not_go_to_a_plain_realm_for_a_registry_elsewhere() -> None:
    with pytest.raises(SourceError, match="fetched over plain http"):
        _check_realm("http://tokens.example/token", "https://registry.example/v2/", "x")
    _check_realm("http://tokens.example/token", "http://registry.example/v2/", "x")
    _check_realm("http://127.0.0.1:5001/token", "https://127.0.0.1:5000/v2/", "x")
    _check_realm("https://tokens.example/token", "https://registry.example/v2/", "x")


def test_a_proxy_of_the_environment_is_used_for_hosts_elsewhere(
    scene: Scene, http: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", scene.registry.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    source = RegistrySource(RegistryLocation("registry.invalid", "team/app"), plain_http=True, http=http)
    source.resolve("1.0")
    assert scene.registry.requests[0].path == "http://registry.invalid/v2/team/app/manifests/1.0"


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    assert scene.source.resolve("1.0") == scene.image.descriptor


def test_a_proxy_that_is_not_there_says_so(http: HttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://joe:s3cret-pass@proxy.invalid:3128")
    monkeypatch.setenv("http_proxy", "http://joe:s3cret-pass@proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    source = RegistrySource(RegistryLocation("registry.example", "team/app"), plain_http=True, http=http)
    assert "through the proxy" in failure(lambda: source.resolve("1.0")).what


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:5000", "::1"]
)
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["docker.io", "localhost.example", "10.0.0.1", "128.0.0.1:5000", "[fe80::1]:5000", "", "[::"]
)
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://host/other?query", True),
        ("https://HOST:443/", True),
        ("http://host/", False),
        ("https://host:8443/", False),
        ("https://host.example/", False),
        ("https://sub.host/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(other: str, same: bool) -> None:
    assert same_origin("https://host/v2/", other) is same


# The list of tags


def test_all_pages_of_the_tag_list_are_read(scene: Scene) -> None:
    tags = {"1.0"} | {f"t{number}" for number in range(25)}
    for tag in tags:
        scene.registry.add_image("team/app", tag, scene.image)
    scene.registry.tags_page = 10
    assert set(scene.source.tags()) == tags
    assert scene.registry.requests[0].path.endswith("/tags/list?n=1000")
    assert len(scene.registry.requests) == 3


def test_a_tag_list_is_asked_with_a_token(http: HttpSession) -> None:
    with FakeRegistry("bearer") as registry:
        registry.add_image("team/app", "1.0")
        assert open_source(registry, http).tags() == ("1.0",)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"name":"team/app","tags":null}', ()),
        (b'{"tags":["b","a","b"]}', ("b", "a")),
        (b'{"tags":["a","../x","-b","c\\nd",""]}', ("a",)),
    ],
)
def test_what_is_no_tag_is_left_out_of_the_list(scene: Scene, body: bytes, found: tuple[str, ...]) -> None:
    scene.registry.misbehave(Fault(on="/tags/list", body=body))
    assert scene.source.tags() == found


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"tags":"a"}', b'{"tags":[1]}', b'{"tags":{"a":1}}', b"[" * 9000]
)
def test_what_is_no_tag_list_is_refused(scene: Scene, body: bytes) -> None:
    scene.registry.misbehave(Fault(on="/tags/list", body=body))
    assert "is not a list of tags" in str(failure(scene.source.tags))


def test_a_tag_list_of_an_unknown_repository_is_refused(scene: Scene) -> None:
    scene.registry.store.manifests.clear()
    assert "no such repository" in str(failure(scene.source.tags))


def test_a_tag_page_without_end_is_not_read_to_it(scene: Scene) -> None:
    scene.registry.misbehave(Fault(on="/tags/list", endless=True))
    assert "a page is larger than" in str(failure(scene.source.tags))


def test_a_tag_list_that_leads_back_to_itself_is_refused(scene: Scene) -> None:
    link = {"Link": '</v2/team/app/tags/list?n=1000>; rel="next"'}
    scene.registry.misbehave(Fault(on="/tags/list", headers=link))
    assert "the list has no end (1 pages were read)" in str(failure(scene.source.tags))


def test_a_tag_list_has_only_so_many_pages(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.tag_pages._PAGES_MAX", 3)
    for tag in "abcdef":
        scene.registry.add_image("team/app", tag, scene.image)
    scene.registry.tags_page = 1
    assert "the list has no end (3 pages were read)" in str(failure(scene.source.tags))


@pytest.mark.parametrize("link", ["https://127.0.0.1/x", "http://elsewhere.example/x", "http://[/x", "file:///x"])
def test_the_next_tag_page_is_looked_for_on_the_same_server_only(scene: Scene, link: str) -> None:
    scene.registry.misbehave(Fault(on="/tags/list", headers={"Link": f'<{link}>; rel="next"'}))
    assert "the next page is said to be on another server" in str(failure(scene.source.tags))
    assert len(scene.registry.requests) == 1
