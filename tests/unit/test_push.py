"""Pushing to another machine: what is sent, what the tree over there becomes, and what is said where it cannot be."""

import shlex
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from seawall.digest import Digest
from seawall.errors import InputError, SeawallError, SourceError, TransientError, TreeHeldError
from seawall.http_session import HttpSession
from seawall.pinning import resolve
from seawall.place import SshPlace
from seawall.progress import Silent
from seawall.pushing import Package, Shipment, gather, plan_push
from seawall.reference import Reference, RegistryLocation
from seawall.registry import RegistrySource
from seawall.ssh_push import compare, send
from seawall.tree import Tree
from seawall.unbundling import take_stream
from seawall.writer import hold
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_image, make_index, make_layer
from unit.fake_ssh import FakeSsh
from unit.tool_site import Site, entry

SEAWALL = f"PYTHONPATH={shlex.quote(str(Path(sys.modules['seawall'].__path__[0]).parent))} {sys.executable} -m seawall"
NAME = Reference("team/app", tag="1.0")


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    return FakeSsh(tmp_path, monkeypatch)


class Pusher:
    """Somebody with images, who pushes them to the tree of a site over ssh."""

    def __init__(self, registry: FakeRegistry, site: Site, command: str = SEAWALL) -> None:
        self.source = RegistrySource(RegistryLocation(registry.host, "app"), plain_http=True, http=HttpSession())
        self.place = SshPlace("tree.example", str(site.root))
        self.command = command

    def package(self, tag: str = "1.0", name: Reference = NAME) -> Package:
        return gather(name, resolve(self.source, tag, tag), self.source, "here")

    def compare(self, tag: str = "1.0") -> Shipment:
        return compare(self.package(tag), self.place)

    def push(self, tag: str = "1.0") -> int | None:
        return send(self.compare(tag), self.place, self.source.blob, Silent(), self.command)


@pytest.fixture
def pusher(registry: FakeRegistry, site: Site, platforms: FakeImage, ssh: FakeSsh) -> Pusher:
    registry.add_image("app", "1.0", platforms)
    return Pusher(registry, site)


def digests(shipment: Shipment) -> set[Digest]:
    return {blob.digest for blob in shipment.blobs}


def test_a_pushed_image_is_served_over_there(pusher: Pusher, site: Site, platforms: FakeImage) -> None:
    assert pusher.push() == 1
    assert site.tags() == {str(NAME): str(platforms.digest)}
    assert site.scrubbed() == []
    (release,) = site.run("releases", site.root, "--json").answer
    assert (release["by"], len(release["moved"])) == ("unbundle", 1)


def test_only_what_the_tree_lacks_is_sent(pusher: Pusher, site: Site, registry: FakeRegistry) -> None:
    pusher.push()
    assert pusher.compare().is_empty
    new = make_layer("new", 3000)
    image = registry.add_image("app", "1.1", make_image("next", layers=[make_layer("shared", 5000), new]))
    shipment = pusher.compare("1.1")
    assert {blob.size for blob in shipment.blobs} == {3000, next(b.size for b in image.manifest.blobs if b.size < 1000)}
    registry.requests.clear()
    assert pusher.push("1.1") == 2
    assert not registry.asked("GET", Digest.of(make_layer("shared", 5000)))
    assert site.tags() == {str(NAME): str(image.digest)}
    assert site.scrubbed() == []


def test_a_blob_of_another_repository_over_there_is_not_sent(
    pusher: Pusher, site: Site, registry: FakeRegistry
) -> None:
    site.publish(entry(registry, "app", "1.0", name="other/name"))
    shipment = pusher.compare()
    assert (shipment.blobs, shipment.manifests, shipment.moves) == ((), (), True)
    pusher.push()
    assert site.scrubbed() == []


def test_names_are_seen_by_no_shell_unquoted(
    registry: FakeRegistry, site: Site, pusher: Pusher, ssh: FakeSsh, tmp_path: Path
) -> None:
    pusher.place = replace(pusher.place, path=f"{site.root}; touch {tmp_path}/hit; 'x $(id)")
    pusher.push()
    assert not (tmp_path / "hit").exists()
    assert Tree(Path(pusher.place.path)).digests([NAME])
    assert {run.host for run in ssh.runs} == {"tree.example"}


def test_a_tag_that_moved_meanwhile_is_not_overrun(pusher: Pusher, site: Site, registry: FakeRegistry) -> None:
    shipment = pusher.compare()
    registry.add_image("app", "2.0")
    pusher.package("2.0")
    send(pusher.compare("2.0"), pusher.place, pusher.source.blob, Silent(), SEAWALL)
    before = site.tags()
    with pytest.raises(InputError, match=r"tree\.example says: standard input: .* team/app:1\.0 is sha256"):
        send(shipment, pusher.place, pusher.source.blob, Silent(), SEAWALL)
    assert site.tags() == before
    assert site.scrubbed() == []


def test_an_immutable_tag_over_there_does_not_move(pusher: Pusher, site: Site, registry: FakeRegistry) -> None:
    registry.add_image("other", "1.0")
    site.publish(entry(registry, "other", "1.0", name="team/app") | {"immutable": True})
    before = site.tags()
    with pytest.raises(InputError, match="is immutable and must not move"):
        pusher.push()
    assert site.tags() == before


def test_a_push_that_was_cut_goes_on_with_what_is_missing(pusher: Pusher, site: Site, registry: FakeRegistry) -> None:
    layers = [make_layer("first", 3_000_000), make_layer("last", 1_500_000)]
    registry.add_image("app", "2.0", make_image("large", layers=layers))
    registry.misbehave(Fault(on=Digest.of(layers[1]), die_after=5))
    with pytest.raises(TransientError):
        pusher.push("2.0")
    assert site.tags() == {}
    registry.behave()
    assert Digest.of(layers[0]) not in digests(pusher.compare("2.0"))
    assert pusher.push("2.0") == 1
    assert site.scrubbed() == []


def test_a_source_that_lies_gets_nothing_served(pusher: Pusher, site: Site, registry: FakeRegistry) -> None:
    registry.add_image("other", "1.0")
    site.publish(entry(registry, "other", "1.0"))
    before = site.tags()
    registry.misbehave(Fault(on=pusher.compare().blobs[0].digest, wrong_bytes=True))
    with pytest.raises(SourceError, match="does not hold what its name says"):
        pusher.push()
    assert site.tags() == before
    assert site.scrubbed() == []


def test_a_tree_that_is_held_is_told(pusher: Pusher, site: Site) -> None:
    with hold(Tree.possible(site.root)), pytest.raises(TreeHeldError, match="is held by another run"):
        pusher.push()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/nonexistent/seawall", r"has no '/nonexistent/seawall' to run .*install the tool there"),
        ("sh -c 'exit 2'", "the tool of tree.example is another version"),
        ("sh -c 'cat >/dev/null; echo hello'", "answers what is no result"),
        ("sh -c 'echo seawall: /t: no space >&2; exit 6'", "says: /t: no space"),
    ],
)
def test_a_host_that_cannot_take_it_is_one_clear_line(pusher: Pusher, command: str, says: str) -> None:
    pusher.command = command
    with pytest.raises(SeawallError, match=says) as caught:
        pusher.push()
    assert str(caught.value).isprintable()


def test_an_index_without_an_end_is_refused(registry: FakeRegistry, pusher: Pusher) -> None:
    image = make_image("deep")
    for _ in range(5):
        image = make_index([image])
    registry.add_image("app", "deep", image)
    with pytest.raises(SourceError, match="is an index more than 4 deep"):
        pusher.package("deep")


def test_what_is_there_is_not_in_the_plan(pusher: Pusher) -> None:
    package = pusher.package()
    every = {blob.digest for blob in package.blobs}, {manifest.digest for manifest in package.manifests}
    assert plan_push(package, every[1], every[0], package.digest).is_empty
    shipment = plan_push(package, (), (), None)
    assert shipment.blobs[0].size == max(blob.size for blob in package.blobs)
    assert shipment.manifests[-1].digest == package.digest
    children = {child.digest for child in shipment.manifests[-1].children}
    assert children == {manifest.digest for manifest in shipment.manifests[:-1]}


# A bundle that comes through a pipe.


@pytest.fixture
def bundle(site: Site, registry: FakeRegistry, platforms: FakeImage) -> bytes:
    registry.add_image("app", "1.0", platforms)
    site.publish(entry(registry, "app", "1.0", name="team/app"))
    file = site.folder / "bundle.tar"
    assert site.run("bundle", site.root, file, "--since", "0").code == 0
    return file.read_bytes()


def test_a_bundle_is_taken_from_standard_input(bundle: bytes, site: Site) -> None:
    other = site.folder / "other"
    process = site.start("unbundle", "-", other, "--json", stdin=True)
    out, err = process.communicate(bundle, timeout=60)
    assert process.returncode == 0, err
    assert b'"changed": true' in out
    site.root = other
    assert list(site.tags()) == ["team/app:1.0"]
    assert site.scrubbed() == []


def test_a_rehearsal_of_a_bundle_from_a_pipe_writes_nothing(bundle: bytes, site: Site) -> None:
    other = site.folder / "other"
    process = site.start("unbundle", "-", other, "--dry-run", stdin=True)
    out, _ = process.communicate(bundle, timeout=60)
    assert b"team/app:1.0" in out
    assert not other.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.9])
def test_a_pipe_that_ends_early_serves_nothing(share: float, bundle: bytes, site: Site) -> None:
    site.root = site.folder / "other"
    with hold(Tree.possible(site.root)) as writer, pytest.raises(SeawallError):
        take_stream(BytesIO(bundle[: int((len(bundle) - 10_240) * share)]), "pipe", writer, Silent())
    assert site.tags() == {}
    assert site.scrubbed() == []
    with hold(Tree.possible(site.root)) as writer:
        assert take_stream(BytesIO(bundle), "pipe", writer, Silent())[1] == 1
    assert site.scrubbed() == []


def test_any_bit_that_turned_in_a_pipe_is_found(bundle: bytes, site: Site) -> None:
    site.root = site.folder / "other"
    for place in range(600, len(bundle) - 11_000, 997):
        damaged = bytearray(bundle)
        damaged[place] ^= 1
        with hold(Tree.possible(site.root)) as writer:
            try:
                take_stream(BytesIO(bytes(damaged)), "pipe", writer, Silent())
            except SeawallError:
                assert site.tags() == {}
        assert site.scrubbed() == []
        if site.tags():
            break
