"""Trees elsewhere as sources: how they are spelled, and what comes out of a path, a host and a plain web server."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.credentials import Credentials
from seawall.digest import Digest
from seawall.errors import CredentialsError, InputError, NotFoundError, SourceError, TransientError
from seawall.http_files import HttpFiles
from seawall.http_session import HttpSession
from seawall.manifest import Descriptor
from seawall.path_files import PathFiles
from seawall.place import (
    HttpPlace,
    PathPlace,
    Place,
    S3Place,
    SshPlace,
    SwiftPlace,
    parse_destination,
    parse_place,
)
from seawall.reference import TreeLocation, parse_image_source, parse_location
from seawall.ssh_files import SshFiles
from seawall.tree_files import TreeFiles
from seawall.tree_source import TreeSource
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_image
from unit.fake_ssh import FakeSsh
from unit.tool_site import Site, entry

APP = "library/app"


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    return FakeSsh(tmp_path, monkeypatch)


@pytest.fixture
def other(site: Site, registry: FakeRegistry, platforms: FakeImage) -> Path:
    """Another tree, with one image of two platforms under two tags."""
    registry.add_image("app", "1.0", platforms)
    registry.add_image("app", "1.1", make_image("new", layers=[b"x" * 300_000, b"y"]))
    site.publish(entry(registry, "app", "1.0", "1.1", name=APP))
    return site.root.rename(site.folder / "other")


@pytest.fixture
def web(other: Path) -> Iterator[str]:
    """Python's own web server over the tree: it knows no media type of ours, and no ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(other.parent)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/other"
    server.shutdown()
    server.server_close()
    thread.join()


# Spelling.

PARTS = st.from_regex(r"[a-z0-9][a-z0-9._ -]{0,7}", fullmatch=True).filter(lambda part: part != "v2")
PATHS = st.lists(PARTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
HOSTS = st.sampled_from(["tree.example", "build_1", "10.0.0.1", "::1"])


@given(
    st.one_of(
        PATHS.map(lambda path: PathPlace(Path(path))),
        st.builds(SshPlace, HOSTS, PATHS, st.sampled_from(["", "joe", "ci-bot"]), st.none() | st.integers(1, 65535)),
        st.builds(S3Place, st.sampled_from(["images", "my.bucket-1"]), PATHS.map(lambda path: path.strip("/"))),
        st.builds(HttpPlace, st.sampled_from(["https://cdn.example", "http://[::1]:8080/a/b"])),
    ),
    st.sampled_from(["app", "docker.io/library/alpine", "a/v2/b", "v2/x"]),
)
def test_a_repository_of_a_tree_prints_as_it_is_parsed(place: Place, repository: str) -> None:
    location = TreeLocation(place, repository)
    assert parse_location(str(location), "here") == location


@given(st.text(), st.sampled_from(["", "ssh://", "s3://", "https://", "/"]))
def test_any_text_is_a_location_or_a_one_line_error(text: str, scheme: str) -> None:
    for parse in (lambda spelled: parse_location(spelled, "here"), lambda spelled: parse_place(spelled, "here")):
        try:
            said = str(parse(f"{scheme}{text}"))
        except InputError as error:
            said = str(error)
            assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "location", "tag"),
    [
        ("/srv/seawall/v2/app:1.0", TreeLocation(PathPlace(Path("/srv/seawall")), "app"), "1.0"),
        ("../other/v2/a/b", TreeLocation(PathPlace(Path("../other")), "a/b"), "latest"),
        ("./x:y/v2/a", TreeLocation(PathPlace(Path("x:y")), "a"), "latest"),
        ("/v2/app:1", TreeLocation(PathPlace(Path("/")), "app"), "1"),
        ("ssh://joe@h:22/t/v2/app:1", TreeLocation(SshPlace("h", "/t", "joe", 22), "app"), "1"),
        ("ssh://h/v2/app:1", TreeLocation(SshPlace("h", "/"), "app"), "1"),
        ("https://h:8443/v2/app:1", TreeLocation(HttpPlace("https://h:8443"), "app"), "1"),
        ("s3://bucket/v2/app:1", TreeLocation(S3Place("bucket"), "app"), "1"),
        ("s3://bucket/a/b/v2/v2/app:1", TreeLocation(S3Place("bucket", "a/b"), "v2/app"), "1"),
    ],
)
def test_an_image_of_a_tree_is_its_address_and_a_tag(text: str, location: TreeLocation, tag: str) -> None:
    image = parse_image_source(text)
    assert (image.location, image.tag, image.digest) == (location, tag, None)


def test_a_digest_counts_more_than_a_tag_beside_it() -> None:
    digest = Digest("a" * 64)
    image = parse_image_source(f"ssh://h/t/v2/app:1@{digest}")
    assert (image.tag, image.digest) == ("1", digest)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/srv/seawall/app", "has no transport"),
        ("ssh://host/srv/seawall", "names no repository of a tree"),
        ("https://host/v2/", "names no repository of a tree"),
        ("ssh://-oProxyCommand=x/t/v2/app", "names no host"),
        ("ssh://-l@host/t/v2/app", "names no host, or no user"),
        ("ssh://host:x/t/v2/app", "is no port"),
        ("ssh://host:70000/t/v2/app", "is no port"),
        ("ssh://host/../t/v2/app", "has no plain absolute path"),
        ("ssh://host/t\n/v2/app", "has no plain absolute path"),
        ("ssh:host/t/v2/app", "is no place"),
        ("s3://Bucket/v2/app", "names no bucket"),
        ("s3://bucket/../x/v2/app", "has no plain prefix"),
        ("https://host/a?b/v2/app", "is no plain URL"),
        ("https://host/t/v2/App", "is not a repository name"),
        ("/t/v2/app/manifests", "which the tree uses itself"),
        ("/t/v2/app:1.0", "has a tag or digest"),
    ],
)
def test_other_spellings_are_refused_and_say_why(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_location(text, "here")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("swift://images", SwiftPlace("images")),
        ("swift://My Images/a/b/", SwiftPlace("My Images", "a/b")),
        ("s3://images/a", S3Place("images", "a")),
    ],
)
def test_a_container_is_a_place_to_publish_to(text: str, place: Place | SwiftPlace) -> None:
    found = parse_destination(text, "here")
    assert found == place
    assert parse_destination(str(found), "here") == place


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("swift:images", "is no place"),
        ("swift:///prod", "names no container"),
        (f"swift://{'x' * 257}", "names no container"),
        ("swift://joe:s3cret@images", "names no container"),
        ("swift://images/a/../b", "has no plain prefix"),
    ],
)
def test_what_names_no_container_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse_destination(text, "here")
    assert "s3cret" not in str(caught.value)


def test_a_container_is_not_read_from() -> None:
    for parse in (parse_image_source, lambda spelled: parse_location(spelled, "here")):
        with pytest.raises(InputError):
            parse("swift://images/v2/app")


@pytest.mark.parametrize(
    "text",
    [
        "ssh://joe:s3cret@host/t/v2/app",
        "https://joe:s3cret@host/v2/app",
        "https://joe:a/s3cret@host/v2/app",
        f"https://joe:s3cret@host/v2/app@sha256:{'0' * 64}",
        "s3://joe:s3cret@bucket/v2/app",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    for parse in (parse_image_source, lambda spelled: parse_location(spelled, "here")):
        with pytest.raises(InputError) as caught:
            parse(text)
        assert "s3cret" not in str(caught.value)


# A whole tree out of another one.


def spelled(kind: str, other: Path, request: pytest.FixtureRequest) -> str:
    if kind == "ssh":
        request.getfixturevalue("ssh")
        return f"ssh://joe@tree.example:2222{other}"
    return str(request.getfixturevalue("web")) if kind == "http" else str(other)


@pytest.mark.parametrize("kind", ["path", "ssh", "http"])
def test_a_tree_is_filled_from_another(kind: str, other: Path, site: Site, request: pytest.FixtureRequest) -> None:
    place = spelled(kind, other, request)
    site.publish({"source": f"{place}/v2/{APP}", "tags": ["1.*"]})
    assert sorted(site.tags()) == [f"{APP}:1.0", f"{APP}:1.1"]
    assert site.scrubbed() == []
    contents = [sorted(p.relative_to(root) for p in (root / "content").rglob("*")) for root in (other, site.root)]
    assert contents[0] == contents[1]
    again = site.sync()
    assert (again.answer["changed"], again.answer["requests"]) == (False, 0)


@pytest.mark.parametrize("kind", ["path", "ssh", "http"])
def test_one_image_is_added_and_staged_from_another_tree(
    kind: str, other: Path, site: Site, request: pytest.FixtureRequest
) -> None:
    place = spelled(kind, other, request)
    added = site.run("add", site.root, f"{place}/v2/{APP}:1.1", "--json")
    assert added.code == 0, added.err
    assert list(site.tags()) == [f"{APP}:1.1"]
    staged = site.run("stage", site.root, f"{place}/v2/{APP}@{site.tags()[f'{APP}:1.1']}")
    assert staged.out.strip() == f"{APP}@{site.tags()[f'{APP}:1.1']}"
    assert site.scrubbed() == []


@pytest.mark.parametrize("kind", ["path", "ssh", "http"])
def test_what_another_tree_lacks_is_named(kind: str, other: Path, site: Site, request: pytest.FixtureRequest) -> None:
    place = spelled(kind, other, request)
    for name, says in ((f"{APP}:9", "no such tag"), (f"{APP}@sha256:{'0' * 64}", "no such manifest")):
        ran = site.run("add", site.root, f"{place}/v2/{name}", "x:1")
        assert ran.code == 4
        assert f"{place}/v2/{name}: {says}" in ran.err
    site.declare({"source": f"{place}/v2/none/such", "tags": ["1.*"]})
    ran = site.lock()
    assert ran.code == 4
    assert "no such repository" in ran.err


@pytest.mark.parametrize("kind", ["path", "ssh", "http"])
def test_a_damaged_blob_of_another_tree_is_not_taken(
    kind: str, other: Path, site: Site, request: pytest.FixtureRequest
) -> None:
    place = spelled(kind, other, request)
    blob = max((other / "content/blobs").rglob("*"), key=lambda path: path.lstat().st_size)
    blob.chmod(0o644)
    blob.write_bytes(b"z" * blob.stat().st_size)
    ran = site.run("add", site.root, f"{place}/v2/{APP}:1.1")
    assert ran.code == 4
    assert "source sent other bytes" in ran.err
    assert site.tags() == {}


def test_a_path_is_relative_to_the_images_file(other: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    site.publish({"source": f"./{other.name}/v2/{APP}", "name": "mine", "tags": ["1.1"]})
    assert list(site.tags()) == ["mine:1.1"]
    ran = site.run("lock", site.images_file, "--lock", other / "elsewhere.lock")
    assert "has a relative path, and the lock is in another folder" in ran.err


def test_an_address_says_itself_whether_it_is_plain_http(other: Path, site: Site) -> None:
    ran = site.run("add", site.root, f"{other}/v2/{APP}:1.1", "--plain-http")
    assert ran.code == 3
    assert "says itself how it is reached" in ran.err


# A path.


def path_source(other: Path) -> TreeSource:
    place = PathPlace(other)
    return TreeSource(TreeLocation(place, APP), PathFiles(place))


def test_no_link_of_another_tree_is_followed_out_of_its_content(other: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(next((other / "v2" / APP / "manifests").iterdir()).read_bytes())
    for target in (outside, "../../../../../outside", "../../../../releases/1.json", "loop"):
        link = other / "v2" / APP / "manifests" / "loop"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(SourceError, match=r"is not a file of|go round in a circle|cannot be read"):
            path_source(other).resolve("loop")


def test_a_pipe_in_another_tree_is_not_waited_for(other: Path) -> None:
    pipe = other / "content" / "pipe"
    os.mkfifo(pipe)
    (other / "v2" / APP / "manifests" / "pipe").symlink_to(pipe)
    with pytest.raises(SourceError, match="is not a file of"):
        path_source(other).resolve("pipe")


def test_a_folder_that_is_no_tree_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is not a tree; give the folder"):
        path_source(tmp_path).resolve("1.0")


# Over ssh.


def ssh_source(other: Path, timeout: float = 60.0) -> tuple[TreeSource, SshFiles]:
    place = SshPlace("tree.example", str(other), "joe", 2222)
    files = SshFiles(place, timeout)
    return TreeSource(TreeLocation(place, APP), files), files


def big(other: Path) -> Descriptor:
    blob = max((other / "content/blobs").rglob("*"), key=lambda path: path.lstat().st_size)
    return Descriptor("", Digest(blob.name), blob.stat().st_size)


def test_one_connection_serves_all_reads_and_asks_nobody(other: Path, ssh: FakeSsh) -> None:
    source, files = ssh_source(other)
    assert source.tags() == ("1.0", "1.1")
    for tag in source.tags():
        source.manifest(source.resolve(tag).digest)
    assert Digest.of(b"".join(source.blob(big(other)))) == big(other).digest
    files.close()
    (run,) = ssh.runs
    assert (run.host, run.option("-l"), run.option("-p"), run.command) == ("tree.example", "joe", "2222", "sftp")
    assert {"-oBatchMode=yes", "-oClearAllForwardings=yes", "-oRemoteCommand=none", "-s"} <= set(run.arguments)
    assert source.requests > 0


@pytest.mark.parametrize("start", [0, 1, 65_536, 299_999, 300_000])
def test_a_blob_goes_on_over_ssh_from_where_it_stopped(start: int, other: Path, ssh: FakeSsh) -> None:
    ssh.misbehave(short=1000)
    source, files = ssh_source(other)
    assert b"".join(source.blob(big(other), start)) == b"x" * (300_000 - start)
    files.close()


def test_a_cut_connection_is_made_again_and_the_blob_goes_on(other: Path, ssh: FakeSsh, site: Site) -> None:
    ssh.misbehave(cut_after=200_000, once=True)
    ran = site.run("add", site.root, f"ssh://tree.example{other}/v2/{APP}:1.1", "--json")
    assert ran.code == 0, ran.err
    assert len(ssh.runs) == 2
    assert site.scrubbed() == []


def test_a_silent_host_is_not_waited_for(other: Path, ssh: FakeSsh) -> None:
    ssh.misbehave(stall_after=100_000)
    source, files = ssh_source(other, timeout=0.3)
    with pytest.raises(TransientError, match=r"sent nothing for 0\.3 seconds"):
        list(source.blob(big(other)))
    files.close()


def test_a_file_of_another_size_is_refused(other: Path, ssh: FakeSsh) -> None:
    ssh.misbehave(lie=1)
    source, files = ssh_source(other)
    with pytest.raises(SourceError, match="has 300001 bytes, not the 300000"):
        list(source.blob(big(other)))
    files.close()


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        ("Host key verification failed.", SourceError, "has a host key that known_hosts does not have"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", SourceError, "has another host key"),
        ("joe@tree.example: Permission denied (publickey).", CredentialsError, "takes none of the keys"),
        ("ssh: Could not resolve hostname tree.example: Name or service not known", SourceError, "is not a name"),
        ("ssh: connect to host tree.example port 22: Connection refused", SourceError, "refused the connection"),
        ("subsystem request failed on channel 0", SourceError, "has an sshd without sftp"),
        ("something\x1b[31m new", TransientError, r"ended \(something \[31m new\)"),
    ],
)
def test_why_ssh_failed_is_one_clear_line(
    said: str, kind: type[Exception], says: str, other: Path, ssh: FakeSsh
) -> None:
    ssh.misbehave(say=said, code=255)
    source, _ = ssh_source(other)
    with pytest.raises(kind, match=says) as caught:
        source.resolve("1.0")
    assert str(caught.value).isprintable()


def test_a_shell_that_greets_is_told_from_sftp(other: Path, ssh: FakeSsh) -> None:
    ssh.misbehave(noise="Welcome to tree.example!\n")
    source, _ = ssh_source(other)
    with pytest.raises(SourceError, match="does its shell print something"):
        source.resolve("1.0")


def test_a_machine_without_ssh_is_told_so(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    source, _ = ssh_source(other)
    with pytest.raises(SourceError, match="ssh cannot be run"):
        source.resolve("1.0")


def test_no_ssh_outlives_the_tool(other: Path, ssh: FakeSsh, site: Site) -> None:
    process = site.start("add", site.root, f"ssh://tree.example{other}/v2/{APP}:1.0")
    process.communicate(timeout=60)
    assert process.returncode == 0
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", str(site.folder / "ssh")], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Over HTTP.


def http_source(url: str, repository: str = "app", credentials: Credentials | None = None) -> TreeSource:
    place = HttpPlace(url)
    session = HttpSession(sleep=lambda _: None, read_timeout=1.0)
    files: TreeFiles = HttpFiles(place, credentials=lambda _: credentials, http_session=session)
    return TreeSource(TreeLocation(place, repository), files)


def test_no_header_of_a_web_server_is_believed(registry: FakeRegistry) -> None:
    image = registry.add_image("app", "1.0")
    headers = {"Content-Type": "text/html", "Docker-Content-Digest": f"sha256:{'0' * 64}"}
    registry.misbehave(Fault(headers=headers))
    source = http_source(registry.url)
    assert source.resolve("1.0") == image.descriptor
    assert source.manifest(image.digest) == (image.content, "")
    assert {request.method for request in registry.requests} == {"GET"}
    assert not registry.asked(part="/v2/?")


def test_a_blob_goes_on_over_http_from_where_it_stopped(registry: FakeRegistry) -> None:
    layer = registry.add_image("app", "1.0").layers[0]
    whole = b"".join(http_source(registry.url).blob(layer))
    assert b"".join(http_source(registry.url).blob(layer, 400)) == whole[400:]
    registry.misbehave(Fault(without_ranges=True))
    assert b"".join(http_source(registry.url).blob(layer, 400)) == whole[400:]


def test_a_server_that_sends_a_page_for_a_blob_is_refused(registry: FakeRegistry) -> None:
    layer = registry.add_image("app", "1.0").layers[0]
    registry.misbehave(Fault(body=b"<html>not here</html>", headers={"Content-Type": "text/html"}))
    with pytest.raises(SourceError, match="announced with 21 bytes, not the 1000"):
        list(http_source(registry.url).blob(layer))
    with pytest.raises(SourceError, match="manifest is not JSON"):
        http_source(registry.url).resolve("1.0")


def test_an_encoded_file_is_refused(registry: FakeRegistry) -> None:
    registry.add_image("app", "1.0")
    registry.misbehave(Fault(gzip=True))
    with pytest.raises(SourceError, match="encodes the file as gzip, unasked"):
        http_source(registry.url).resolve("1.0")


def test_a_manifest_without_an_end_is_refused(registry: FakeRegistry) -> None:
    registry.add_image("app", "1.0")
    registry.misbehave(Fault(endless=True))
    with pytest.raises(SourceError, match="manifest is larger than"):
        http_source(registry.url).resolve("1.0")


def test_a_server_out_of_order_is_asked_again(registry: FakeRegistry) -> None:
    image = registry.add_image("app", "1.0")
    registry.misbehave(Fault(status=503, times=2))
    assert http_source(registry.url).resolve("1.0") == image.descriptor


def test_a_password_is_sent_once_it_is_asked_for(registry: FakeRegistry) -> None:
    registry.auth, registry.username, registry.password = "basic", "wally", "s3cret"
    image = registry.add_image("app", "1.0")
    source = http_source(registry.url, credentials=Credentials("wally", "s3cret"))
    assert source.resolve("1.0") == image.descriptor
    assert [bool(request.authorization) for request in registry.requests] == [False, True]
    for wrong in (None, Credentials("wally", "other-s3cret")):
        with pytest.raises(CredentialsError) as caught:
            http_source(registry.url, credentials=wrong).resolve("1.0")
        assert "s3cret" not in str(caught.value)


def test_a_password_does_not_follow_a_redirect(registry: FakeRegistry) -> None:
    registry.auth, registry.username, registry.password = "basic", "wally", "s3cret"
    layer = registry.add_image("app", "1.0").layers[0]
    with FakeRegistry(store=registry.store) as cdn:
        registry.misbehave(Fault(on="/blobs/", redirect_to=cdn.url.replace("127.0.0.1", "localhost")))
        source = http_source(registry.url, credentials=Credentials("wally", "s3cret"))
        source.resolve("1.0")
        assert Digest.of(b"".join(source.blob(layer))) == layer.digest
        assert [request.authorization for request in cdn.requests] == [None]


def test_a_registry_that_wants_a_token_is_told_from_a_tree(registry: FakeRegistry) -> None:
    registry.auth = "bearer"
    registry.add_image("app", "1.0")
    with pytest.raises(SourceError, match=f"write docker://{registry.host}/REPOSITORY"):
        http_source(registry.url).resolve("1.0")


def test_a_long_list_is_read_to_its_end_from_a_server_that_knows_only_files(registry: FakeRegistry) -> None:
    pages = {"/tags/list": ["a", "b"], "/tags/after/b:10000": ["c", "d"], "/tags/after/d:10000": ["e"]}
    for path, names in pages.items():
        registry.misbehave(Fault(on=path, status=200, body=json.dumps({"name": "app", "tags": names}).encode()))
    assert http_source(registry.url).tags() == ("a", "b", "c", "d", "e")
    registry.misbehave(Fault(on="/tags/after/e:10000", status=403))
    assert http_source(registry.url).tags() == ("a", "b", "c", "d", "e")


def test_what_is_missing_behind_http_is_missing(registry: FakeRegistry) -> None:
    with pytest.raises(NotFoundError, match="no such tag"):
        http_source(registry.url).resolve("1.0")
    with pytest.raises(NotFoundError, match="no such repository"):
        http_source(registry.url).tags()


def test_a_lock_is_compared_with_a_tree_on_another_host(other: Path, ssh: FakeSsh, site: Site) -> None:
    same = site.run("diff", site.lock_file, f"ssh://tree.example{other}")
    assert (same.code, same.out) == (0, f"ssh://tree.example{other}: no difference\n")
    (other / "v2" / APP / "manifests" / "1.1").unlink()
    assert (
        site.run("diff", site.lock_file, f"ssh://tree.example{other}", "--json").answer["different"][0]["after"] is None
    )
    assert len(ssh.runs) == 2


# A bucket; what a real one serves is tested end to end.


@pytest.fixture
def store_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nobody's own settings take part in a test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def test_a_store_that_is_not_there_is_one_line(site: Site, store_settings: pytest.MonkeyPatch) -> None:
    store_settings.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    store_settings.setenv("AWS_ACCESS_KEY_ID", "somebody")
    store_settings.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-key")
    ran = site.run("add", site.root, "s3://images/prod/v2/app:1")
    assert ran.code == 4
    assert "s3://images/prod/v2/app:1: http://127.0.0.1:1 refused the connection" in ran.err
    assert ran.err.count("\n") == 1
    assert "s3cret" not in ran.err


def test_a_bucket_is_asked_path_style_and_signed_only_by_who_can(
    site: Site, registry: FakeRegistry, store_settings: pytest.MonkeyPatch
) -> None:
    store_settings.setenv("AWS_ENDPOINT_URL_S3", registry.url)
    registry.misbehave(Fault(status=403, body=b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"))
    anonymous = site.run("add", site.root, "s3://images/v2/app:1")
    assert anonymous.code == 5
    assert "wants credentials, or has no such object (AccessDenied: no)" in anonymous.err
    store_settings.setenv("AWS_ACCESS_KEY_ID", "somebody")
    store_settings.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-key")
    named = site.run("add", site.root, "s3://images/v2/app:1")
    assert named.code == 5
    assert "refuses these credentials" in named.err
    assert {request.path for request in registry.requests} == {"/images/v2/app/manifests/1"}
    assert [bool(request.authorization) for request in registry.requests] == [False, True]


def test_other_commands_do_not_wait_for_boto3(site: Site, other: Path) -> None:
    command = ["-X", "importtime", "-m", "seawall", "add", site.root, f"{other}/v2/{APP}:1.1"]
    folder = Path(sys.modules["seawall"].__path__[0]).parent
    ran = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seawall.path_files" in ran.stderr
    assert "boto" not in ran.stderr
    assert "requests" not in ran.stderr
