"""``seawall purge``: which URLs a release changed, and how each kind of cache is told."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from seawall.errors import ExitCode, InputError
from seawall.listing import END, FIRST_PAGE, PAGE_SIZES, Shape, page_names
from seawall.media_type import ACCEPT
from seawall.purging import changed_paths
from seawall.reference import list_tag
from unit.fake_registry import FakeRegistry, make_artifact, make_image
from unit.tool_site import Site, entry

APP = "up.example/team/app"
BASE = f"/v2/{APP}"
LISTS = [f"{BASE}/tags/list", f"{BASE}/tags/list?n=100", f"{BASE}/tags/list?n=1000"]
CATALOG = ["/v2/_catalog", "/v2/_catalog?n=100", "/v2/_catalog?n=1000"]


def publish(site: Site, registry: FakeRegistry, *tags: str, generation: str = "") -> None:
    for tag in tags:
        registry.add_image("team/app", tag, make_image(f"{tag} {generation}"))
    site.publish(entry(registry, "team/app", *tags))


def test_a_tag_that_moved_changed_itself_and_no_list(site: Site, registry: FakeRegistry) -> None:
    publish(site, registry, "1", "2")
    assert changed_paths(site.tree, 1) == ()
    registry.add_image("team/app", "2", make_image("moved"))
    site.publish(entry(registry, "team/app", "1", "2"))
    assert changed_paths(site.tree, 1) == (f"{BASE}/manifests/2",)


def test_a_tag_that_came_changed_the_list_and_a_repository_that_came_the_catalog(
    site: Site, registry: FakeRegistry
) -> None:
    publish(site, registry, "1")
    assert changed_paths(site.tree, 0) == tuple(sorted([f"{BASE}/manifests/1", *LISTS, *CATALOG]))
    publish(site, registry, "1", "2")
    assert changed_paths(site.tree, 1) == tuple(sorted([f"{BASE}/manifests/2", *LISTS]))
    assert changed_paths(site.tree, 0) == tuple(sorted([*(f"{BASE}/manifests/{n}" for n in (1, 2)), *LISTS, *CATALOG]))
    site.run("rm", site.root, f"{APP}:1")
    assert changed_paths(site.tree, 2) == tuple(sorted([f"{BASE}/manifests/1", *LISTS]))


def test_what_was_there_for_a_moment_may_be_in_a_cache(site: Site, registry: FakeRegistry) -> None:
    publish(site, registry, "1")
    publish(site, registry, "1", "2")
    assert site.run("rollback", site.root, "1").code == 0
    assert changed_paths(site.tree, 1) == tuple(sorted([f"{BASE}/manifests/2", *LISTS]))


def test_a_signature_changed_the_lists_of_what_it_signs(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1")
    wanted = entry(registry, "team/app", "1") | {"referrers": True}
    site.publish(wanted)
    registry.add_referrer("team/app", make_artifact("signature", image))
    site.publish(wanted)
    assert changed_paths(site.tree, 1) == (
        f"{BASE}/manifests/{list_tag(image.digest)}",
        f"{BASE}/referrers/{image.digest}",
    )


def test_what_is_private_is_in_no_catalog(site: Site, registry: FakeRegistry) -> None:
    site.root.mkdir()
    (site.root / "private").write_text("up.example/team\n")
    publish(site, registry, "1")
    assert changed_paths(site.tree, 0) == tuple(sorted([f"{BASE}/manifests/1", *LISTS]))


def test_clients_of_a_mirror_ask_by_other_names(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("library/alpine", "3")
    site.publish(entry(registry, "library/alpine", "3", name="docker.io/library/alpine"))
    found = changed_paths(site.tree, 0, (), ("docker.io", "ghcr.io"))
    assert found == (
        "/v2/_catalog",
        "/v2/docker.io/library/alpine/manifests/3",
        "/v2/docker.io/library/alpine/tags/list",
        "/v2/library/alpine/manifests/3",
        "/v2/library/alpine/manifests/3?ns=docker.io",
        "/v2/library/alpine/tags/list",
        "/v2/library/alpine/tags/list?ns=docker.io",
    )


def walk(site: Site, asked: int | None) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return what an origin answers who follows Link from page to page, as nginx finds it on the disk."""
    folder, shape = site.tree.tag_list_path(APP), Shape.of_tags(APP)
    found = {}
    last = ""
    while True:
        query = "&".join(([f"n={asked}"] if asked else []) + ([f"last={last}"] if last else []))
        at = folder / FIRST_PAGE
        for size in PAGE_SIZES:
            link = folder / shape.after(last, size)
            if (asked is None or size <= asked) and link.exists():
                at = link
        page = at.resolve().relative_to(folder.resolve())
        names = page_names(at.read_text())
        end = page.name.rpartition(":")[0]
        found[f"?{query}" if query else ""] = (names, end)
        if end == END:
            return found
        last = names[-1]


def test_of_a_long_list_those_pages_changed_that_an_origin_answers_otherwise(
    site: Site, registry: FakeRegistry
) -> None:
    image = make_image()
    for number in range(400):
        registry.add_image("team/app", f"t{number:03}", image)
    site.publish(entry(registry, "team/app", "*"))
    before = {asked: walk(site, asked) for asked in (None, 100, 250)}
    since = site.tree.last_release()
    assert site.run("tag", site.root, f"{APP}:t000", "t201x").code == 0
    assert site.run("rm", site.root, f"{APP}:t350").code == 0
    after = {asked: walk(site, asked) for asked in (None, 100, 250)}
    wanted = {
        f"{BASE}/tags/list{query}"
        for asked in before
        for query in {*before[asked], *after[asked]}
        if before[asked].get(query) != after[asked].get(query)
    }
    found = set(changed_paths(site.tree, since, (100, 250)))
    assert found == wanted | {f"{BASE}/manifests/t201x", f"{BASE}/manifests/t350"}
    assert 3 < len(wanted) < len({query for asked in after for query in after[asked]})


def test_a_release_that_is_to_come_is_refused(site: Site, registry: FakeRegistry) -> None:
    publish(site, registry, "1")
    with pytest.raises(InputError, match="has no release 2"):
        changed_paths(site.tree, 2)
    with pytest.raises(InputError, match="has no pages"):
        changed_paths(site.tree, 0, (20,))


# How caches are told.


@dataclass
class StandIn:
    """A server that writes down what it is asked, and answers as it is told to."""

    answers: list[tuple[int, object, dict[str, str]]]
    asked: list[tuple[str, str, dict[str, str], object]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    told = StandIn([(200, {"status": "ok", "success": True, "id": "1"}, {})])

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.asked.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
            status, said, headers = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
            content = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PURGE = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def moved(site: Site, registry: FakeRegistry) -> Site:
    """A tree whose release 2 moved one tag and brought another."""
    publish(site, registry, "1", generation="old")
    publish(site, registry, "1", "2", generation="new")
    return site


MOVED = sorted([f"{BASE}/manifests/1", f"{BASE}/manifests/2", *LISTS])
SENT = {"Host", "User-Agent", "Accept-Encoding", "Accept", "Connection"}


def own(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers beside those that every HTTP library sends."""
    return {name: value for name, value in headers.items() if name not in SENT | {"Content-Length"}}


def test_an_edge_is_asked_for_each_url_with_a_header_that_makes_it_ask(moved: Site, stand_in: StandIn) -> None:
    ran = moved.run("purge", moved.root, stand_in.url, "--at", "nginx", "--since", 1, "--host", "images.example")
    assert (ran.code, ran.out) == (0, f"{moved.root}: {len(MOVED)} URLs purged\n")
    assert sorted((method, path, body) for method, path, _, body in stand_in.asked) == [("GET", p, None) for p in MOVED]
    for _, _, headers, _ in stand_in.asked:
        assert own(headers) == {"X-Seawall-Purge": "1"}
        assert (headers["Host"], headers["Accept"]) == ("images.example", ACCEPT)


def test_varnish_is_told_by_its_method(moved: Site, stand_in: StandIn) -> None:
    command = ("purge", moved.root, stand_in.url, "--at", "varnish", "--since", 1, "--host", "images.example")
    assert moved.run(*command).code == 0
    assert sorted((method, path) for method, path, _, _ in stand_in.asked) == [("PURGE", path) for path in MOVED]
    assert {headers["Host"] for _, _, headers, _ in stand_in.asked} == {"images.example"}
    stand_in.answers = [(405, {}, {})]
    ran = moved.run(*command)
    assert (ran.code, ran.err.count("is not allowed from here")) == (ExitCode.CREDENTIALS, len(MOVED))


def test_fastly_is_told_by_its_api(moved: Site, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLY_API_TOKEN", "secret-1")
    command = ("purge", moved.root, "https://images.example", "--at", "fastly", "--since", 1, "--api", stand_in.url)
    ran = moved.run(*command, "--soft")
    assert ran.code == 0, ran.err
    wanted = [("POST", f"/purge/images.example{path}", None) for path in MOVED]
    assert sorted((method, path, body) for method, path, _, body in stand_in.asked) == wanted
    for _, _, headers, _ in stand_in.asked:
        assert own(headers) == {"Fastly-Key": "secret-1", "Fastly-Soft-Purge": "1"}
        assert headers["Accept"] == "application/json"
    stand_in.asked.clear()
    assert moved.run(*command).code == 0
    assert all("Fastly-Soft-Purge" not in headers for _, _, headers, _ in stand_in.asked)
    stand_in.answers = [(200, {"status": "error"}, {})]
    assert moved.run(*command).code == ExitCode.SOURCE


def test_cloudflare_is_told_of_thirty_at_a_time(
    site: Site, registry: FakeRegistry, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a person has there for another purpose must not take the token's place.
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    publish(site, registry, *(f"t{number}" for number in range(60)))
    (tmp_path / "token").write_text("secret-2\n")
    command = ("purge", site.root, "https://images.example", "--at", "cloudflare", "--since", 0, "--jobs", 1)
    more = ("--zone", "0123456789abcdef", "--token-file", tmp_path / "token", "--api", f"{stand_in.url}/client/v4")
    ran = site.run(*command, *more, "--json")
    assert ran.code == 0, ran.err
    files: list[str] = []
    for method, path, headers, body in stand_in.asked:
        assert (method, path) == ("POST", "/client/v4/zones/0123456789abcdef/purge_cache")
        assert own(headers) == {"Authorization": "Bearer secret-2", "Content-Type": "application/json"}
        assert isinstance(body, dict)
        assert list(body) == ["files"]
        assert 0 < len(body["files"]) <= 30
        files += body["files"]
    assert len(stand_in.asked) == 3
    assert files == ran.answer["urls"] == [f"https://images.example{path}" for path in changed_paths(site.tree, 0)]
    stand_in.answers = [(200, {"success": False, "errors": [{"message": "no such zone"}]}, {})]
    ran = site.run(*command, *more)
    assert (ran.code, "no such zone" in ran.err) == (ExitCode.SOURCE, True)
    stand_in.answers = [(403, {}, {})]
    ran = site.run(*command, *more)
    assert (ran.code, "the token is refused (403)" in ran.err) == (ExitCode.CREDENTIALS, True)
    assert "secret-2" not in ran.err + ran.out


def test_who_is_told_to_wait_waits_and_what_fails_stops_nothing_else(
    moved: Site, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("seawall.purge.pause", waited.append)
    fine: tuple[int, object, dict[str, str]] = (200, {}, {})
    stand_in.answers = [(429, {}, {"Retry-After": "7"}), (503, {}, {}), fine, (302, {}, {"Location": "/"}), fine]
    ran = moved.run("purge", moved.root, stand_in.url, "--at", "nginx", "--since", 1, "--jobs", 1, "--json")
    assert waited == [7.0, 2.0]
    assert ran.code == ExitCode.SOURCE
    assert len(ran.answer["failed"]) == 1
    assert f"{BASE}/manifests/2: answered 302" in ran.answer["failed"][0]
    assert len(stand_in.asked) == len(MOVED) + 2


def test_a_cache_that_is_away_is_said_to(moved: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.purge.pause", lambda _: None)
    ran = moved.run("purge", moved.root, "http://127.0.0.1:9", "--at", "varnish", "--since", 1)
    assert ran.code == ExitCode.SOURCE
    assert ran.err.count("got no answer (ConnectionError); check the address") == len(MOVED)


def test_a_rehearsal_prints_the_list_and_asks_nobody(moved: Site, stand_in: StandIn) -> None:
    bases = (stand_in.url, "https://images.example/")
    ran = moved.run("purge", moved.root, *bases, "--at", "fastly", "--since", 1, "--dry-run")
    assert ran.code == 0
    urls = [f"{base.rstrip('/')}{path}" for base in bases for path in MOVED]
    assert ran.out.splitlines() == [*urls, f"{moved.root}: {len(urls)} URLs would be purged"]
    assert stand_in.asked == []
    for url in urls:
        assert not parse_qs(urlsplit(url).query, strict_parsing=bool(urlsplit(url).query)).get("ns")


@pytest.mark.parametrize(
    ("document", "changed"),
    [
        ({"changed": True, "destinations": [{"changed": True, "since": 1}, {"changed": False, "since": 2}]}, True),
        ({"changed": False, "destinations": [{"changed": False, "since": 0}]}, False),
        ({"changed": True, "release": 2}, True),
        ({"changed": False, "release": None}, False),
    ],
)
def test_what_a_publish_said_is_enough(document: dict[str, object], changed: bool, moved: Site, tmp_path: Path) -> None:
    (tmp_path / "said.json").write_text(json.dumps(document))
    command = ("purge", moved.root, "https://images.example", "--at", "varnish", "--dry-run", "--json")
    ran = moved.run(*command, "--published", tmp_path / "said.json")
    assert ran.code == 0, ran.err
    assert ran.answer["urls"] == ([f"https://images.example{path}" for path in MOVED] if changed else [])
    (tmp_path / "said.json").write_text("{}")
    assert moved.run(*command, "--published", tmp_path / "said.json").code == ExitCode.INPUT


def test_what_publish_says_is_what_purge_takes(site: Site, registry: FakeRegistry, tmp_path: Path) -> None:
    command = ("purge", site.root, "https://images.example", "--at", "nginx", "--dry-run", "--json", "--published")
    publish(site, registry, "1", generation="old")
    assert site.run("publish", site.root, tmp_path / "replica").code == 0
    publish(site, registry, "1", "2", generation="new")
    for wanted in (MOVED, []):
        said = site.run("publish", site.root, tmp_path / "replica", "--json")
        assert said.code == 0, said.err
        (tmp_path / "said.json").write_text(said.out)
        ran = site.run(*command, tmp_path / "said.json")
        assert ran.answer["urls"] == [f"https://images.example{path}" for path in wanted]


def test_wrong_words_are_refused_before_anything_is_asked(moved: Site, tmp_path: Path) -> None:
    command = ("purge", moved.root, "https://images.example", "--since", 1)
    for options, code in (
        (("--at", "nginx", "--soft"), ExitCode.USAGE),
        (("--at", "fastly", "--host", "x"), ExitCode.USAGE),
        (("--at", "varnish", "--api", "https://x.example"), ExitCode.USAGE),
        (("--at", "cloudflare"), ExitCode.USAGE),
        (("--at", "cloudflare", "--zone", "../other"), ExitCode.USAGE),
        (("--at", "fastly", "--published", "-"), ExitCode.USAGE),
        (("--at", "fastly", "--token-file", tmp_path / "none"), ExitCode.CREDENTIALS),
        (("--at", "fastly", "--api", "http://api.example"), ExitCode.INPUT),
    ):
        os.environ.pop("FASTLY_API_TOKEN", None)
        (tmp_path / "token").write_text("t")
        more = ("--token-file", tmp_path / "token") if "--api" in options else ()
        assert moved.run(*command, *options, *(more if "fastly" in options else ())).code == code, options
    assert moved.run(*command, "--at", "fastly").code == ExitCode.CREDENTIALS
