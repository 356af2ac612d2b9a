"""The plan: pure, and in an order that a reader of the tree can trust."""

from dataclasses import replace

from seawall.digest import Digest
from seawall.lock import Lock, LockedImage, Pin
from seawall.manifest import Descriptor, Manifest
from seawall.media_type import OCI_INDEX, OCI_MANIFEST, ManifestKind
from seawall.plan import Plan, TreeState, make_plan
from seawall.reference import Reference
from seawall.release import Release, TagMove, repositories_of

EMPTY = TreeState(
    tags={},
    linked_manifests=frozenset(),
    linked_blobs=frozenset(),
    stored_blobs=frozenset(),
    stored_manifests=frozenset(),
    applied={},
)


def blob(seed: str, size: int = 10) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(seed.encode()), size)


def manifest(
    seed: str, *layers: Descriptor, children: tuple[Manifest, ...] = (), kind: ManifestKind = OCI_MANIFEST
) -> Manifest:
    return Manifest(
        kind,
        Digest.of(seed.encode()),
        seed.encode(),
        tuple(child.descriptor for child in children),
        None if children else blob(f"{seed} config", 5),
        layers,
    )


def locked(repository: str, **tags: Manifest) -> LockedImage:
    pins = {tag: Pin(digest=m.digest, media_type=m.kind.media_type, size=len(m.content)) for tag, m in tags.items()}
    return LockedImage(name=repository, source=f"docker://h.example/{repository}", tags=pins)


SHARED = blob("shared", 30)
AMD64 = manifest("amd64", SHARED, blob("only amd64", 20))
ARM64 = manifest("arm64", SHARED, blob("only arm64", 40))
INDEX = manifest("index", children=(AMD64, ARM64), kind=OCI_INDEX)
OTHER = manifest("other", SHARED)
KNOWN = {m.digest: m for m in (AMD64, ARM64, INDEX, OTHER)}
LOCK = Lock(name="site", images=(locked("a", one=INDEX, two=INDEX), locked("b", one=OTHER)))


def plan_for(lock: Lock, state: TreeState) -> Plan:
    return make_plan(lock, state, KNOWN)


def test_each_blob_is_fetched_once_however_many_need_it_and_the_largest_first() -> None:
    sizes = [fetch.blob.size for fetch in plan_for(LOCK, EMPTY).fetches]
    assert sizes == [40, 30, 20, 5, 5, 5]


def test_what_an_index_lists_is_linked_before_the_index() -> None:
    links = {links.repository: [stored.digest for stored in links.manifests] for links in plan_for(LOCK, EMPTY).links}
    assert links == {"a": [AMD64.digest, ARM64.digest, INDEX.digest], "b": [OTHER.digest]}


def test_a_repository_links_only_what_its_own_manifests_name() -> None:
    by_name = {links.repository: set(links.blobs) for links in plan_for(LOCK, EMPTY).links}
    assert by_name["b"] == {blob.digest for blob in OTHER.blobs}


def test_a_blob_that_the_tree_has_is_linked_not_fetched() -> None:
    plan = plan_for(LOCK, replace(EMPTY, stored_blobs=frozenset({SHARED.digest})))
    assert SHARED.digest not in {fetch.blob.digest for fetch in plan.fetches}
    assert all(SHARED.digest in links.blobs for links in plan.links)


def test_a_manifest_that_the_repository_serves_needs_nothing_but_its_tag() -> None:
    state = replace(EMPTY, linked_manifests=frozenset({("a", INDEX.digest)}))
    plan = make_plan(Lock(name="site", images=(locked("a", one=INDEX),)), state, {})
    assert not plan.fetches
    assert not plan.manifests
    assert not plan.links
    assert plan.moves == (TagMove("a", "one", None, INDEX.digest),)


def after(lock: Lock, **more: object) -> TreeState:
    """Return a tree to which *lock* has been applied."""
    return replace(
        EMPTY,
        tags={reference: pin.digest for reference, pin in lock.pins.items()},
        linked_manifests=frozenset((r.repository, digest) for r in lock.pins for digest in KNOWN),
        applied={lock.name: lock},
        **more,  # type: ignore[arg-type]
    )


def test_a_lock_that_is_applied_leaves_nothing_to_do() -> None:
    assert plan_for(LOCK, after(LOCK)).is_empty


def test_what_the_lock_names_no_more_is_withdrawn() -> None:
    smaller = Lock(name="site", images=(locked("a", one=INDEX),))
    assert plan_for(smaller, after(LOCK)).moves == (
        TagMove("a", "two", INDEX.digest, None),
        TagMove("b", "one", OTHER.digest, None),
    )


def test_what_another_lock_names_stays() -> None:
    state = after(LOCK)
    other = Lock(name="other", images=(locked("b", one=OTHER),))
    state = replace(state, applied={**state.applied, "other": other})
    assert plan_for(Lock(name="site", images=()), state).moves == (
        TagMove("a", "one", INDEX.digest, None),
        TagMove("a", "two", INDEX.digest, None),
    )


def test_what_a_person_moved_since_stays() -> None:
    state = after(LOCK)
    state = replace(state, tags={**state.tags, Reference("b", "one"): AMD64.digest})
    moved = {move.reference for move in plan_for(Lock(name="site", images=()), state).moves}
    assert Reference("b", "one") not in moved


def test_a_lock_of_another_name_withdraws_nothing() -> None:
    assert plan_for(Lock(name="other", images=()), after(LOCK)).moves == ()


def test_what_an_interrupted_run_of_this_lock_put_there_is_withdrawn_too() -> None:
    pending = Release(3, "2026-01-01T00:00:00Z", "sync", "site", (TagMove("c", "x", None, OTHER.digest),))
    state = replace(after(LOCK), pending=pending)
    state = replace(state, tags={**state.tags, Reference("c", "x"): OTHER.digest})
    plan = plan_for(LOCK, state)
    assert plan.moves == (TagMove("c", "x", OTHER.digest, None),)
    assert repositories_of(plan.moves, plan.pending) == ("c",)


def test_the_repositories_of_an_interrupted_run_get_their_tag_lists_again() -> None:
    pending = Release(3, "2026-01-01T00:00:00Z", "sync", "other", (TagMove("c", "x", None, OTHER.digest),))
    plan = plan_for(LOCK, replace(after(LOCK), pending=pending))
    assert repositories_of(plan.moves, plan.pending) == ("c",)
    assert not plan.is_empty


def test_a_release_over_an_interrupted_one_goes_back_to_before_both() -> None:
    one, two, three = (Digest.of(seed) for seed in (b"1", b"2", b"3"))
    pending = Release(3, "", "sync", "site", (TagMove("a", "x", one, two), TagMove("a", "y", None, two)))
    release = Release(3, "", "sync", "site", (TagMove("a", "x", two, three), TagMove("a", "z", None, one)))
    assert release.over(pending).moves == (
        TagMove("a", "x", one, three),
        TagMove("a", "y", None, two),
        TagMove("a", "z", None, one),
    )
    back = Release(3, "", "sync", "site", (TagMove("a", "x", two, one),))
    assert TagMove("a", "x", one, one) not in back.over(pending).moves
