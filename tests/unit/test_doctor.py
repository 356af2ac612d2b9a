"""Doctor: each fault of a server is found, named, and laid at the door of the right clients, and no other is."""

import base64
import dataclasses
import datetime
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from seawall.clients import BY_FAULT, CLIENTS, Client, Harm
from seawall.diagnosis import Fault as Found
from seawall.diagnosis import diagnose, judge
from seawall.errors import ExitCode
from seawall.media_type import DOCKER_LIST, OCI_INDEX
from seawall.observation import Answer, Hop, Observations, TlsFacts
from unit.fake_registry import FakeImage, FakeRegistry, Fault, Received, make_image
from unit.tool_site import Ran, Site

IMAGE = "team/app:1.0"
SECRET = "s3cret"
CONTAINERD = {"docker-containerd", "containerd", "buildkit"}
CONTAINERS_IMAGE = {"podman", "buildah", "cri-o", "skopeo"}
ALL = {client.name for client in CLIENTS}


@pytest.fixture
def server(platforms: FakeImage) -> Iterator[FakeRegistry]:
    """A server that does everything right."""
    with FakeRegistry() as server:
        server.add_image("team/app", "1.0", platforms)
        yield server


def examine(site: Site, server: FakeRegistry, *options: object) -> Ran:
    return site.run("doctor", server.url, "--image", IMAGE, "--json", *options)


def broken(ran: Ran) -> set[str]:
    return {row["name"] for row in ran.answer["clients"] if row["verdict"] == "breaks"}


def limited(ran: Ran) -> set[str]:
    return {row["name"] for row in ran.answer["clients"] if row["verdict"] == "limited"}


def faults(ran: Ran) -> set[str]:
    return {row["fault"] for row in ran.answer["faults"]}


def accepts_gzip(request: Received) -> bool:
    return request.headers["Accept-Encoding"] == "gzip"


def accepts_in_lines(request: Received) -> bool:
    return len(request.headers.get_all("Accept", [])) > 1


def several_ranges(request: Received) -> bool:
    return "," in (request.range or "")


def beyond(request: Received) -> bool:
    return (request.range or "").endswith("-")


def one_range(request: Received) -> bool:
    return bool(request.range) and not several_ranges(request) and not beyond(request)


def by_digest(request: Received) -> bool:
    return "/manifests/sha256:" in request.path


def by_tag(request: Received) -> bool:
    return "/manifests/1.0" in request.path and "ns=" not in request.path


OTHER_DIGEST = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
PAGE = b"<html><body>Not Found</body></html>"

ONE_FAULT_EACH: dict[str, tuple[list[Fault], set[str]]] = {
    "ping": ([Fault(when=lambda r: r.path == "/v2/", status=404)], CONTAINERS_IMAGE | {"crane", "syft"}),
    "manifest-by-tag": ([Fault(when=by_tag, method="GET", status=404)], ALL),
    "manifest-by-digest": ([Fault(when=by_digest, method="GET", status=404)], ALL),
    "manifest-altered": ([Fault(when=by_digest, method="GET", wrong_bytes=True)], ALL),
    "manifest-head": ([Fault(on="/manifests/", method="HEAD", status=404)], CONTAINERD | {"oras", "pull-through"}),
    "manifest-head-405": ([Fault(on="/manifests/", method="HEAD", status=405)], {"oras"}),
    "head-type": (
        [Fault(on="/manifests/", method="HEAD", headers={"Content-Type": "application/octet-stream"})],
        CONTAINERD | {"docker", "oras", "pull-through"},
    ),
    "head-length-missing": (
        [Fault(on="/manifests/", method="HEAD", without=("Content-Length",))],
        {"docker", "oras", "pull-through"},
    ),
    "head-length-wrong": (
        [Fault(on="/manifests/", method="HEAD", headers={"Content-Length": "0"})],
        CONTAINERD | {"oras"},
    ),
    "type-missing": ([Fault(on="/manifests/", without=("Content-Type",))], ALL - {"python-dxf", "seawall"}),
    "type-wrong": (
        [Fault(when=by_tag, headers={"Content-Type": DOCKER_LIST.media_type})],
        ALL - {"python-dxf", "seawall"},
    ),
    "type-parameters-of-index": (
        [Fault(when=by_tag, headers={"Content-Type": f"{OCI_INDEX.media_type}; charset=utf-8"})],
        {"crane", "syft"},
    ),
    "digest-missing": ([Fault(on="/manifests/", without=("Docker-Content-Digest",))], {"oras"}),
    "digest-wrong": ([Fault(when=by_tag, headers=OTHER_DIGEST)], CONTAINERD | {"oras", "crane"}),
    "manifest-encoded": ([Fault(when=accepts_gzip, gzip=True)], set()),
    "encoded-unasked": (
        [Fault(when=lambda r: by_tag(r) and r.method == "GET" and not accepts_gzip(r), gzip=True)],
        {"python-dxf", "seawall"},
    ),
    "accept-lines": (
        [Fault(when=accepts_in_lines, status=404)],
        CONTAINERS_IMAGE | {"docker", "pull-through"},
    ),
    "blob": ([Fault(on="/blobs/", method="GET", status=404)], ALL),
    "blob-altered": ([Fault(on="/blobs/", method="GET", wrong_bytes=True)], ALL),
    "blob-encoded": ([Fault(when=lambda r: "/blobs/" in r.path and not r.range, method="GET", gzip=True)], ALL),
    "blob-head": ([Fault(on="/blobs/", method="HEAD", status=403)], {"pull-through"}),
    "blob-head-length": ([Fault(on="/blobs/", method="HEAD", without=("Content-Length",))], {"pull-through"}),
    "range-ignored": ([Fault(on="/blobs/", without_ranges=True)], set()),
    "range-wrong": ([Fault(when=one_range, headers={"Content-Range": "bytes 0-1/9"})], set()),
    "ranges-refused": ([Fault(when=several_ranges, status=416)], set()),
    "range-beyond": ([Fault(when=beyond, status=500)], set()),
    "unknown-manifest": ([Fault(on="unknown-tag", status=403)], set()),
    "unknown-repository": ([Fault(on="seawall-doctor/unknown", status=403)], set()),
    "error-body": ([Fault(on="unknown-tag", status=404, body=PAGE)], set()),
    "tags-list": ([Fault(on="/tags/list", status=404)], set()),
    "referrers": ([Fault(on="/referrers/", status=403)], {"docker-containerd"}),
    "ns-refused": ([Fault(on="ns=docker.io", status=400)], set()),
}
"""Faults of a server, by the name of the one that is to be found; and the clients that it breaks."""


def test_every_client_works_with_a_server_that_does_everything_right(
    site: Site, server: FakeRegistry, platforms: FakeImage
) -> None:
    ran = examine(site, server)
    assert faults(ran) == set()
    assert broken(ran) | limited(ran) == set()
    assert {row["name"] for row in ran.answer["clients"]} == ALL
    assert ran.answer["works"] is True
    assert ran.code == ExitCode.OK
    assert ran.answer["requests"] == len(server.requests) < 30
    assert server.asked("GET", f"/referrers/{platforms.digest}")


@pytest.mark.parametrize("name", ONE_FAULT_EACH)
def test_a_fault_is_found_and_breaks_whom_it_breaks(name: str, site: Site, server: FakeRegistry) -> None:
    made, breaks = ONE_FAULT_EACH[name]
    for fault in made:
        server.misbehave(dataclasses.replace(fault))
    ran = examine(site, server)
    assert faults(ran) == {name}
    assert broken(ran) == breaks
    assert broken(ran) | limited(ran) == {client for effect in BY_FAULT[name].effects for client in effect.clients}
    assert ran.code == (ExitCode.DOES_NOT_HOLD if broken(ran) else ExitCode.OK)


def test_a_charset_hurts_less_where_no_index_is(site: Site, server: FakeRegistry) -> None:
    image = server.add_image("team/app", "1.0", make_image())
    told = f"{image.manifest.kind.media_type}; charset=utf-8"
    server.misbehave(Fault(on="/manifests/", headers={"Content-Type": told}))
    ran = examine(site, server)
    assert faults(ran) == {"type-parameters"}
    assert (broken(ran), limited(ran)) == (set(), {"crane", "syft"})


def test_referrers_of_another_type_are_none(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="/referrers/", status=200, body=b'{"manifests":[]}'))
    ran = examine(site, server)
    assert faults(ran) == {"referrers-type"}
    assert limited(ran) == {"docker-containerd", "oras", "crane"}


def test_several_faults_are_all_laid_at_the_right_doors(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(when=lambda r: r.path == "/v2/", status=404))
    server.misbehave(Fault(on="/manifests/", method="HEAD", status=404))
    ran = examine(site, server)
    assert broken(ran) == CONTAINERS_IMAGE | CONTAINERD | {"crane", "syft", "oras", "pull-through"}
    podman = next(row for row in ran.answer["clients"] if row["name"] == "podman")
    assert [effect["fault"] for effect in podman["effects"]] == ["ping"]


def test_a_mirror_finds_its_images_under_ns(site: Site, server: FakeRegistry, platforms: FakeImage) -> None:
    server.add_image("docker.io/library/app", "1.0", platforms)
    server.add_image("library/app", "1.0", platforms)
    image = "docker.io/library/app:1.0"
    ran = site.run("doctor", server.url, "--image", image, "--ns", "docker.io", "--json")
    assert faults(ran) == set()
    assert server.asked("HEAD", "/v2/library/app/manifests/1.0?ns=docker.io")
    server.misbehave(Fault(on="ns=docker.io", status=404))
    ran = site.run("doctor", server.url, "--image", image, "--ns", "docker.io", "--json")
    assert faults(ran) == {"ns-missing"}
    assert broken(ran) == CONTAINERD


def test_where_nobody_says_what_is_mirrored_404_is_an_answer(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="ns=docker.io", status=404))
    ran = examine(site, server)
    assert faults(ran) == set()
    assert ran.answer["facts"]["?ns=docker.io"] == "status 404"


def test_only_the_named_clients_count(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(when=lambda r: r.path == "/v2/", status=404))
    ran = examine(site, server, "--client", "containerd", "--client", "oras")
    assert [row["name"] for row in ran.answer["clients"]] == ["containerd", "oras"]
    assert ran.code == ExitCode.OK
    assert examine(site, server, "--client", "podman").code == ExitCode.DOES_NOT_HOLD
    assert examine(site, server, "--client", "netscape").code == ExitCode.USAGE


def test_without_an_image_one_is_found_in_the_lists(site: Site, server: FakeRegistry) -> None:
    ran = site.run("doctor", server.url, "--json")
    assert ran.answer["reference"] == IMAGE
    assert ran.code == ExitCode.OK


def test_where_none_is_listed_it_asks_for_one(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="_catalog", status=404))
    ran = site.run("doctor", server.url)
    assert ran.code == ExitCode.INPUT
    assert "lists no image (_catalog: status 404); name one with --image REPO:TAG" in ran.err


def test_a_redirect_to_a_cdn_is_followed_without_credentials(site: Site, server: FakeRegistry) -> None:
    with FakeRegistry(store=server.store) as cdn, FakeRegistry("basic", store=server.store, password=SECRET) as front:
        log_in(site, front)
        front.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
        ran = examine(site, front)
        assert faults(ran) == set()
        assert ran.answer["facts"]["redirects of blobs"] == f"to {cdn.host}, absolute"
        assert ran.answer["facts"]["credentials"] == "asked for, and accepted"
        assert cdn.requests
        assert not any(request.authorization for request in cdn.requests)
        assert SECRET not in ran.out + ran.err
        assert base64.b64encode(f"wally:{SECRET}".encode()).decode() not in ran.out + ran.err


def test_a_redirect_to_who_wants_credentials_breaks_everybody(site: Site, server: FakeRegistry) -> None:
    with FakeRegistry("basic", store=server.store) as cdn:
        server.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
        ran = examine(site, server)
        assert {"redirect-credentials", "blob"} <= faults(ran)
        assert broken(ran) == ALL


def test_a_signature_in_a_redirect_is_not_shown(site: Site, server: FakeRegistry) -> None:
    with FakeRegistry(store=server.store) as cdn:
        server.misbehave(Fault(on="/blobs/", redirect_to=f"{cdn.url}/v2/team/app/blobs/x?X-Amz-Signature={SECRET}"))
        ran = examine(site, server)
        assert broken(ran) == ALL
        assert SECRET not in ran.out + ran.err
        people = site.run("doctor", server.url, "--image", IMAGE)
        assert SECRET not in people.out + people.err


def test_a_redirect_that_has_no_end_is_no_answer(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="/blobs/", redirect_to=server.url))
    ran = examine(site, server)
    assert "blob" in faults(ran)
    assert ran.code == ExitCode.DOES_NOT_HOLD


def log_in(site: Site, server: FakeRegistry, password: str = SECRET) -> None:
    server.username = "wally"
    folder = site.folder / "docker"
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"wally:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": auth}}}))


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials_are_those_of_docker_login(auth: str, site: Site, server: FakeRegistry) -> None:
    with FakeRegistry(auth, store=server.store, password=SECRET) as private:
        log_in(site, private)
        ran = examine(site, private)
        assert faults(ran) == set()
        assert ran.code == ExitCode.OK
        log_in(site, private, "wrong")
        ran = examine(site, private)
        assert ran.code == ExitCode.CREDENTIALS
        assert "docker login" in ran.err
        assert "wrong" not in ran.out + ran.err


def test_what_is_refused_beside_the_image_is_an_answer(site: Site, server: FakeRegistry) -> None:
    with FakeRegistry("bearer", store=server.store, password=SECRET) as private:
        log_in(site, private)
        refused = b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}'
        for path in ("seawall-doctor/unknown", "/v2/library/app/"):
            private.misbehave(Fault(on=path, status=401, body=refused))
        image = "docker.io/library/app:1.0"
        private.add_image("docker.io/library/app", "1.0")
        ran = site.run("doctor", private.url, "--image", image, "--ns", "docker.io", "--json")
        assert faults(ran) == {"ns-missing"}
        assert ran.answer["facts"]["?ns=docker.io"] == "status 401"


def test_who_has_no_credentials_is_told_to_log_in(site: Site, server: FakeRegistry) -> None:
    with FakeRegistry("basic", store=server.store) as private:
        ran = examine(site, private)
        assert ran.code == ExitCode.CREDENTIALS
        assert f"run docker login {private.host}" in ran.err


def test_a_server_that_is_not_there_is_one_line(site: Site, server: FakeRegistry) -> None:
    with FakeRegistry() as gone:
        url = gone.url
    ran = site.run("doctor", url, "--image", IMAGE)
    assert ran.code == ExitCode.SOURCE
    assert ran.err.startswith(f"seawall: {url}: does not answer (")
    assert ran.out == ""


def test_a_server_that_falls_silent_is_given_up(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="/team/app/", die_after=-1))
    ran = examine(site, server)
    assert ran.code == ExitCode.SOURCE
    assert "has fallen silent" in ran.err


def test_a_body_without_an_end_is_read_no_further_than_needed(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="/tags/list", endless=True))
    server.misbehave(Fault(on="/blobs/", method="GET", endless=True))
    ran = examine(site, server)
    assert "blob-altered" in faults(ran)
    assert "tags-list" in faults(ran)


def test_what_a_server_writes_moves_no_cursor(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(when=by_tag, headers={"Content-Type": "text/\x1b[31mhtml"}))
    ran = site.run("doctor", server.url, "--image", IMAGE)
    assert "\x1b" not in ran.out + ran.err
    assert "type-wrong" in ran.out


def test_people_read_tables(site: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="/manifests/", method="HEAD", status=404))
    ran = site.run("doctor", server.url, "--image", IMAGE)
    lines = ran.out.splitlines()
    assert lines[0].split() == ["CLIENT", "VERDICT", "FAULT", "WHY"]
    assert any(line.split() == ["podman", "works"] for line in lines)
    assert any(
        line.startswith("containerd ") and "breaks" in line and "resolves a tag by HEAD" in line for line in lines
    )
    assert any(line.startswith("manifest-head ") and "status 404" in line for line in lines)
    assert lines[-1].startswith(f"{server.url}: 9 of 14 clients can pull (1 fault, ")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that is trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    return authority


def context(authority: trustme.CA, name: str = "127.0.0.1", days: int = 90) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    authority.issue_cert(name, not_before=until - datetime.timedelta(days=99), not_after=until).configure_cert(made)
    return made


def test_tls_facts_are_told(site: Site, server: FakeRegistry, authority: trustme.CA) -> None:
    with FakeRegistry(store=server.store, tls=context(authority)) as secured:
        ran = examine(site, secured)
        assert faults(ran) == set()
        assert ran.answer["facts"]["tls"] == "TLSv1.3, certificate valid for 90 days"
        assert ran.answer["facts"]["http/2"] == "not offered"


@pytest.mark.parametrize(
    ("name", "days", "says"), [("another.example", 90, "mismatch"), ("127.0.0.1", -1, "certificate has expired")]
)
def test_a_bad_certificate_breaks_everybody_and_is_told_nothing(
    name: str, days: int, says: str, site: Site, server: FakeRegistry, authority: trustme.CA
) -> None:
    with FakeRegistry(store=server.store, tls=context(authority, name, days)) as secured:
        ran = examine(site, secured)
        assert faults(ran) == {"tls-untrusted"}
        assert says in ran.answer["faults"][0]["answer"]
        assert broken(ran) == ALL
        assert secured.requests == []
        assert "0 of 14 clients can pull" in site.run("doctor", secured.url).out


def test_a_certificate_that_ends_soon_is_a_warning(site: Site, server: FakeRegistry, authority: trustme.CA) -> None:
    with FakeRegistry(store=server.store, tls=context(authority, days=3)) as secured:
        ran = examine(site, secured)
        assert faults(ran) == {"tls-expires"}
        assert limited(ran) == ALL
        assert ran.code == ExitCode.OK


def test_a_redirect_out_of_tls_is_found(site: Site, server: FakeRegistry, authority: trustme.CA) -> None:
    with FakeRegistry(store=server.store, tls=context(authority)) as secured:
        secured.misbehave(Fault(on="/blobs/", redirect_to=server.url))
        ran = examine(site, secured)
        assert faults(ran) == {"redirect-insecure"}
        assert broken(ran) == {"seawall"}


# The pure part: no server at all.


def test_no_observation_is_no_fault() -> None:
    assert diagnose(Observations("http://x", 0)) == ()


def test_a_relative_redirect_is_no_fault() -> None:
    answer = Answer("GET /v2/", 200, {}, b"{}", (Hop("https://x/v2/", "/other/"),))
    assert not answer.left_home
    assert diagnose(Observations("https://x", 1, ping=answer)) == ()


def test_the_worst_comes_first() -> None:
    found = [Found("tags-list", "GET", "404"), Found("manifest-head", "HEAD", "404")]
    verdict = judge(found, [Client("oras", "oras")])[0]
    assert [fault.name for fault, _ in verdict.effects] == ["manifest-head", "tags-list"]
    assert [effect.harm for _, effect in verdict.effects] == [Harm.BREAKS, Harm.LIMITS]
    assert (verdict.works, verdict.word) == (False, "breaks")


def test_a_certificate_of_a_week_is_enough() -> None:
    for days, expected in ((7.1, []), (6.9, ["tls-expires"])):
        seen = Observations("https://x", 0, TlsFacts("", "TLSv1.3", "h2", days))
        assert [fault.name for fault in diagnose(seen)] == expected


# The table.


def test_every_fault_of_the_table_is_tried_here() -> None:
    elsewhere = {
        "tls-untrusted",
        "tls-expires",
        "type-parameters",
        "referrers-type",
        "redirect-insecure",
        "redirect-credentials",
        "ns-missing",
    }
    assert set(ONE_FAULT_EACH) | elsewhere == set(BY_FAULT)


def test_every_client_stands_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/doctor.md").read_text()
    assert [client for client in CLIENTS if f"| `{client.name}` | " not in page] == []


def test_every_claim_of_the_table_is_whole() -> None:
    for requirement in BY_FAULT.values():
        assert all((requirement.asks, requirement.todo, requirement.source)), requirement.fault
        assert requirement.effects, requirement.fault
        hurt = [client for effect in requirement.effects for client in effect.clients]
        assert len(hurt) == len(set(hurt)), f"{requirement.fault} hurts a client twice"
        assert set(hurt) <= ALL
        assert all(effect.clients and effect.why for effect in requirement.effects)


def test_the_table_names_no_client_or_group_that_is_not_there() -> None:
    import seawall  # noqa: PLC0415

    document = json.loads(Path(seawall.__path__[0], "clients.json").read_text())
    known = ALL | set(document["groups"]) | {"*"}
    for row in document["requirements"]:
        for effect in row["effects"]:
            assert set(effect["clients"]) <= known, row["fault"]
    assert all(set(members) <= ALL for members in document["groups"].values())
