"""Diff: a lock against another one, a tree and a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.digest import Digest
from seawall.errors import ExitCode
from seawall.lock import differences
from seawall.reference import Reference
from unit.fake_registry import FakeRegistry, Fault, make_image
from unit.tool_site import Ran, Site, entry

NAME = "up.example/team/app"
OLD, NEW = make_image("old"), make_image("new")


@pytest.fixture
def published(site: Site, registry: FakeRegistry) -> Site:
    """A site whose tree serves its lock: 1.0, 2.0 and latest, all OLD."""
    for tag in ("1.0", "2.0", "latest"):
        registry.add_image("team/app", tag, OLD)
    site.publish(entry(registry, "team/app", "1.0", "2.0", "latest"))
    return site


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    """A server that serves 1.0 as the lock has it, latest otherwise, and no 2.0."""
    with FakeRegistry() as server:
        server.add_image(NAME, "1.0", OLD)
        server.add_image(NAME, "latest", NEW)
        server.add_image(NAME, "more", NEW)
        yield server


def later_lock(site: Site, registry: FakeRegistry) -> Path:
    """Return a lock that has moved latest, dropped 2.0 and added 3.0."""
    before = site.folder / "before.lock"
    before.write_bytes(site.lock_file.read_bytes())
    registry.add_image("team/app", "latest", NEW)
    registry.add_image("team/app", "3.0", NEW)
    site.declare(entry(registry, "team/app", "1.0", "3.0", "latest"))
    assert site.lock("--upgrade").code == 0
    return before


def different(ran: Ran) -> dict[str, tuple[str | None, str | None]]:
    assert ran.code == (ExitCode.DOES_NOT_HOLD if ran.answer["different"] else ExitCode.OK), ran.err
    assert ran.answer["equal"] is not bool(ran.answer["different"])
    rows = ran.answer["different"]
    return {row["reference"].removeprefix(f"{NAME}:"): (row["before"], row["after"]) for row in rows}


def test_two_locks_differ_in_what_came_went_and_moved(published: Site, registry: FakeRegistry) -> None:
    before = later_lock(published, registry)
    assert different(published.run("diff", before, published.lock_file, "--json")) == {
        "latest": (str(OLD.digest), str(NEW.digest)),
        "2.0": (str(OLD.digest), None),
        "3.0": (None, str(NEW.digest)),
    }
    assert different(published.run("diff", before, before, "--json")) == {}


def test_the_difference_is_a_table(published: Site, registry: FakeRegistry) -> None:
    before = later_lock(published, registry)
    shown = published.run("diff", before, published.lock_file).out.splitlines()
    assert shown[0].split() == ["REFERENCE", str(before), str(published.lock_file)]
    assert shown[1].split() == [f"{NAME}:2.0", f"sha256:{OLD.digest.hex[:12]}", "(none)"]
    assert shown[-1] == f"{published.lock_file}: 3 of 4 tags differ"
    assert published.run("diff", before, before).out == f"{before}: no difference\n"


def test_a_tree_is_compared_by_the_tags_that_the_lock_names(published: Site, registry: FakeRegistry) -> None:
    assert different(published.run("diff", published.lock_file, published.root, "--json")) == {}
    published.run("tag", published.root, f"{NAME}:1.0", "mine")
    published.run("rm", published.root, f"{NAME}:2.0")
    missing = {"2.0": (str(OLD.digest), None)}
    assert different(published.run("diff", published.lock_file, published.root, "--json")) == missing
    assert different(published.run("diff", published.lock_file, published.root, "--all", "--json")) == {
        **missing,
        "mine": (None, str(OLD.digest)),
    }


def test_a_server_is_asked_for_heads_of_the_tags_that_the_lock_names(published: Site, server: FakeRegistry) -> None:
    assert different(published.run("diff", published.lock_file, server.url, "--json")) == {
        "latest": (str(OLD.digest), str(NEW.digest)),
        "2.0": (str(OLD.digest), None),
    }
    assert [request.path for request in server.asked("GET")] == [f"/v2/{NAME}/manifests/2.0"]
    for tag in ("2.0", "latest"):
        server.add_image(NAME, tag, OLD)
    asked = len(server.requests)
    assert published.run("diff", published.lock_file, f"{server.url}/").code == ExitCode.OK
    assert {request.method for request in server.requests[asked:]} == {"HEAD"}


def test_a_server_that_fails_is_no_difference_but_an_error(published: Site, server: FakeRegistry) -> None:
    server.misbehave(Fault(on="/manifests/", status=403))
    assert published.run("diff", published.lock_file, server.url).code == ExitCode.CREDENTIALS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["images.lock", "none.lock"], "none.lock: cannot be read"),
        (["none.lock", "tree"], "none.lock: cannot be read"),
        (["images.lock", "images.lock", "--all"], "leave --all out"),
        (["images.lock", "http://127.0.0.1:1", "--all"], "leave --all out"),
        (["images.lock", "http://127.0.0.1:1/path"], "has a path"),
        (["images.lock", "http://a:secret@h.example"], "has credentials in it"),
    ],
)
def test_a_mistake_is_named(published: Site, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published.folder)
    ran = published.run("diff", *arguments)
    assert ran.code == ExitCode.INPUT
    assert says in ran.err
    assert "secret" not in ran.err


_places = st.dictionaries(
    st.builds(Reference, st.sampled_from("ab"), st.sampled_from("xyz")),
    st.sampled_from([Digest.of(b"1"), Digest.of(b"2")]),
)


@given(_places, _places)
def test_the_differences_lead_from_one_place_to_the_other(
    before: dict[Reference, Digest], after: dict[Reference, Digest]
) -> None:
    found = differences(before, after)
    changed = {row.reference: row.new for row in found}
    merged = {**before, **changed}
    assert {reference: digest for reference, digest in merged.items() if digest is not None} == after
    assert all(row.old != row.new and row.old == before.get(row.reference) for row in found)
    assert differences(after, after) == ()
