"""Repair: what a scrub found broken, made whole again.

Content is fetched anew from the sources of the applied locks; what is made of it (links, tag lists, modification times)
is made again without asking anybody. The plan reads the manifests that are missing, so that it knows of every blob.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from seawall.credentials import CredentialsFrom
from seawall.digest import Digest
from seawall.errors import CredentialsError, InputError, SourceError, TreeError
from seawall.lists import catalog_change, tag_list_change
from seawall.lock import Lock, LockedImage
from seawall.manifest import Descriptor, Manifest, parse_manifest
from seawall.plan import BlobFetch
from seawall.progress import Progress
from seawall.reference import Location, check_tag, list_tag, listed_subject
from seawall.referrer_list import ReferrerList, make_list, row_of
from seawall.releasing import write_catalog
from seawall.scrub import ScrubReport, check_manifest_link, recorded_tags
from seawall.sources import HasSource, Sources
from seawall.sync import fetch_blob, fetch_manifest
from seawall.tree import CATALOG, CATALOG_LINK, LOCKS, V2, StoredManifest, Tree, relative_target
from seawall.writer import TreeWriter

_NO_PLACE = "no applied lock names a source for it; name one that has it with --from"
_UNSERVED = "some of what it needs could not be had"


@dataclass(frozen=True, slots=True)
class Spare:
    """A source beside those of the locks, to be asked last."""

    location: Location
    plain_http: bool = False
    compression: None = None
    credentials: None = None

    @property
    def source(self) -> str:
        """The location as text."""
        return str(self.location)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that makes a tree whole."""

    how: str
    """``fetch``, ``link``, ``unlink``, ``list`` (write one anew), ``unlist`` (take it away), ``time``, ``remove``."""
    path: str
    """Relative to the tree."""
    source: str = ""
    """Where it is fetched from; of a plan, every place that is asked for it, in order."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that cannot be made whole."""

    path: str
    """Relative to the tree."""
    what: str


@dataclass(frozen=True, slots=True)
class BlobRepair:
    """A blob to fetch, and the places that may have it, in the order in which they are asked."""

    blob: Descriptor
    places: tuple[HasSource, ...]


@dataclass(frozen=True, slots=True)
class ManifestRepair:
    """A manifest to store, and where it was read."""

    manifest: Manifest
    source: str


@dataclass(frozen=True, slots=True)
class ManifestLink:
    """A link of *repository* for *target*, a tag or a digest as text."""

    repository: str
    target: str
    manifest: StoredManifest


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair does, in this order."""

    blobs: tuple[BlobRepair, ...]
    manifests: tuple[ManifestRepair, ...]
    blob_links: tuple[tuple[str, Digest], ...]
    manifest_links: tuple[ManifestLink, ...]
    """What an index lists comes before the index, digests before tags."""
    tag_lists: tuple[str, ...]
    """Repositories."""
    catalog: bool
    """Whether the catalog is to be written anew."""
    referrer_lists: tuple[ReferrerList, ...]
    """Lists of what refers to a manifest that are not what they should be."""
    referrer_unlists: tuple[tuple[str, Digest], ...]
    """Lists of a repository about a manifest to which nothing refers."""
    times: tuple[tuple[str, Digest], ...]
    """Content files, by their path in the tree, whose modification time is wrong."""
    blob_unlinks: tuple[tuple[str, Digest], ...]
    """Links of blobs that no manifest of their repository names."""
    removals: tuple[str, ...]
    """Broken content that nothing serves, by its path in the tree."""
    failures: tuple[Failure, ...]
    served: Mapping[Digest, Manifest]
    """Every manifest that the tree serves or is to serve, as far as it could be read."""

    def steps(self, tree: Tree) -> Iterator[Step]:
        """Yield all that it does to *tree*."""
        for fetch in self.blobs:
            yield Step(
                "fetch", _path(tree, tree.blob_path(fetch.blob.digest)), ", else ".join(map(_name, fetch.places))
            )
        for stored in self.manifests:
            yield Step("fetch", _path(tree, _stored_path(tree, stored.manifest)), stored.source)
        yield from (Step("link", _path(tree, tree.blob_link(*link))) for link in self.blob_links)
        for link in self.manifest_links:
            yield Step("link", _path(tree, tree.manifest_link(link.repository, link.target)))
        yield from (Step("list", _path(tree, tree.tag_list_path(repository))) for repository in self.tag_lists)
        if self.catalog:
            yield Step("list", _path(tree, tree.catalog_path))
        for one in self.referrer_lists:
            yield Step("list", _path(tree, tree.referrers_path(one.repository, one.subject)))
        yield from (Step("unlist", _path(tree, tree.referrers_path(*one))) for one in self.referrer_unlists)
        yield from (Step("time", path) for path, _ in self.times)
        yield from (Step("unlink", _path(tree, tree.blob_link(*link))) for link in self.blob_unlinks)
        yield from (Step("remove", path) for path in self.removals)


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did, and what it could not."""

    steps: tuple[Step, ...]
    failures: tuple[Failure, ...]


def plan_repair(
    report: ScrubReport, tree: Tree, sources: Sources, spares: Sequence[Spare] = (), jobs: int = 1
) -> RepairPlan:
    """Return what makes *tree* whole again, having read the manifests that it lost.

    Args:
        report: what a scrub of the tree found, which nobody has changed since.
        tree: the tree.
        sources: answer for the places.
        spares: places to ask after those that the applied locks name.
        jobs: manifests that are asked for at a time.

    Raises:
        TreeError: the disk refuses to answer.
    """
    locks, failures = _readable_locks(tree)
    images = tuple(image for lock in locks for image in lock.images)
    tags, heads = _heads(tree)
    # A list of referrers is made, and never fetched.
    derived = {one.index.digest: one.index for one in _referrer_lists(heads, report.whole_manifests)}
    whole = {**report.whole_manifests, **derived}
    known, fetched, lost = _complete(heads, whole, (images, spares), sources, jobs)
    served = {repository: _below(digests, known) for repository, digests in heads.items()}
    lists = _referrer_lists(served, known)
    lost = {digest: said for digest, said in lost.items() if digest not in {one.index.digest for one in lists}}
    named = {
        repository: {blob.digest: blob for digest in digests if digest in known for blob in known[digest].blobs}
        for repository, digests in served.items()
    }
    blobs: dict[Digest, BlobRepair] = {}
    for repository, needed in named.items():
        for digest, blob in needed.items():
            if digest not in report.whole_blobs and digest not in blobs:
                homes = [name for name, others in named.items() if digest in others]
                blobs[digest] = BlobRepair(blob, _places(None, homes or [repository], images, spares))
    links = [
        ManifestLink(repository, target, StoredManifest(digest, known[digest].kind))
        for repository, digests in served.items()
        for target, digest in _targets(digests, tags.get(repository, {}))
        if digest in known
    ]
    links = [link for link in links if not _is_link(tree.manifest_link(link.repository, link.target), tree, link)]
    for digest, (repository, why) in lost.items():
        failures.append(Failure(_path(tree, tree.manifest_link(repository, str(digest))), why))
    needed_blobs = {digest for needed in named.values() for digest in needed}
    return RepairPlan(
        blobs=tuple(blobs.values()),
        manifests=tuple(ManifestRepair(known[digest], source) for digest, source in fetched.items()),
        blob_links=tuple(
            (repository, digest)
            for repository, needed in named.items()
            for digest in needed
            if not _is_blob_link(tree, repository, digest)
        ),
        manifest_links=tuple(links),
        tag_lists=_tag_lists(tree, report, {link.repository for link in links if link.target in tags[link.repository]}),
        catalog=any(finding.path.startswith((f"{CATALOG}/", f"{V2}/{CATALOG_LINK}")) for finding in report.findings),
        referrer_lists=tuple(one for one in lists if not _is_listed(tree, one, report)),
        referrer_unlists=tuple(_unlisted(tree, lists)) if not lost else (),
        times=tuple(_times(report)),
        blob_unlinks=tuple(_unnamed(tree, report, named, lost)),
        # As long as a manifest is not known, what it names is not, and nothing can be said to be nobody's.
        removals=tuple(_removals(tree, report, needed_blobs, known)) if not lost else (),
        failures=tuple(failures),
        served=known,
    )


def repair(plan: RepairPlan, writer: TreeWriter, sources: Sources, progress: Progress, jobs: int) -> Repaired:
    """Do what *plan* says, as far as the sources have it: content first, pointers last.

    A broken file is replaced by one rename. Killed at any moment, it leaves a tree that is no more broken than it was.

    Raises:
        TreeError: the disk refuses.
    """
    tree = writer.tree
    writer.require_space(sum(fetch.blob.size for fetch in plan.blobs))
    steps, failures = _fetch(plan.blobs, writer, sources, progress, jobs)
    gone = {Path(failure.path).name for failure in failures}
    for stored in plan.manifests:
        writer.add_manifest(stored.manifest, over=True)
        steps.append(Step("fetch", _path(tree, _stored_path(tree, stored.manifest)), stored.source))
    writer.settle()
    for repository, digest in plan.blob_links:
        if digest.hex not in gone:
            writer.link_blob(repository, digest)
            steps.append(Step("link", _path(tree, tree.blob_link(repository, digest))))
    writer.settle()
    for link in plan.manifest_links:
        done = _link(link, plan, writer, gone)
        if isinstance(done, Step):
            steps.append(done)
        else:
            failures.append(done)
    for repository in plan.tag_lists:
        change = tag_list_change(tree, repository, _tags_there(tree, repository), anew=True)
        writer.write_lists((change,) if change else ())
        steps.append(Step("list", _path(tree, tree.tag_list_path(repository))))
    write_catalog(catalog_change(tree, come=plan.tag_lists, anew=plan.catalog), writer)
    steps += [Step("list", _path(tree, tree.catalog_path))] if plan.catalog else []
    for one in plan.referrer_lists:
        writer.add_manifest(one.index, over=True)
        steps.append(Step("list", _path(tree, tree.referrers_path(one.repository, one.subject))))
    writer.write_referrers(plan.referrer_lists)
    for repository, subject in plan.referrer_unlists:
        writer.remove_referrers(repository, subject)
        steps.append(Step("unlist", _path(tree, tree.referrers_path(repository, subject))))
    for name, digest in plan.times:
        writer.set_time(tree.root / name, digest)
        steps.append(Step("time", name))
    for repository, digest in plan.blob_unlinks:
        writer.unlink_blob(repository, digest)
        steps.append(Step("unlink", _path(tree, tree.blob_link(repository, digest))))
    for name in plan.removals:
        writer.remove_content(tree.root / name)
        steps.append(Step("remove", name))
    writer.settle()
    return Repaired(tuple(steps), (*plan.failures, *failures))


def _link(link: ManifestLink, plan: RepairPlan, writer: TreeWriter, gone: set[str]) -> Step | Failure:
    """Link a manifest if all that it needs is there, but for the blobs *gone*, given as hexadecimal digits."""
    path = writer.tree.manifest_link(link.repository, link.target)
    if path.is_dir() and not path.is_symlink():
        return Failure(_path(writer.tree, path), "a folder is in its place: move it away")
    if not _is_whole(link.manifest.digest, plan.served, gone):
        return Failure(_path(writer.tree, path), _UNSERVED)
    writer.link_manifest(link.repository, link.target, link.manifest)
    return Step("link", _path(writer.tree, path))


def _readable_locks(tree: Tree) -> tuple[list[Lock], list[Failure]]:
    locks: list[Lock] = []
    failures: list[Failure] = []
    for path in sorted((tree.root / LOCKS).glob("*.lock")):
        try:
            lock = tree.applied_lock(path.name.removesuffix(".lock"))
        except TreeError as error:
            failures.append(Failure(_path(tree, path), f"{error.what}; move it away and sync its lock again"))
        else:
            locks += [lock] if lock else []
    return locks, failures


def _heads(tree: Tree) -> tuple[dict[str, dict[str, Digest]], dict[str, dict[Digest, None]]]:
    """Return of each repository its tags with what they point at, and every digest that it serves or lost."""
    tags: dict[str, dict[str, Digest]] = {}
    digests: dict[str, dict[Digest, None]] = {}
    for repository in tree.repositories():
        folder = tree.repository_path(repository) / "manifests"
        own, by_digest = tags.setdefault(repository, {}), digests.setdefault(repository, {})
        for link in sorted(folder.iterdir()) if folder.is_dir() else ():
            if listed_subject(link.name) is not None:
                continue  # It follows from what refers to the subject.
            stored, finding = check_manifest_link(tree, link, repository)
            if ":" in link.name and _digest_of(link.name) is not None:
                # It is served by its name, wherever its link may lead.
                by_digest.setdefault(Digest.parse(link.name))
            elif stored is not None and (finding is None or finding.kind == "dangling"):
                own[link.name] = stored.digest
                by_digest.setdefault(stored.digest)
    for reference, (_, digest) in recorded_tags(tree).items():
        own, by_digest = tags.setdefault(reference.repository, {}), digests.setdefault(reference.repository, {})
        if str(reference.tag) not in own:
            own[check_tag(str(reference.tag), str(reference))] = digest
            by_digest.setdefault(digest)
    return tags, digests


def _complete(
    heads: Mapping[str, Iterable[Digest]],
    whole: Mapping[Digest, Manifest],
    offers: tuple[Sequence[LockedImage], Sequence[Spare]],
    sources: Sources,
    jobs: int,
) -> tuple[dict[Digest, Manifest], dict[Digest, str], dict[Digest, tuple[str, str]]]:
    """Return the manifests at and below *heads*: all that are known, where the new ones were read, and those lost.

    Of what is lost it says in which repository, and why.
    """
    known: dict[Digest, Manifest] = {}
    fetched: dict[Digest, str] = {}
    lost: dict[Digest, tuple[str, str]] = {}
    homes: dict[Digest, list[str]] = {}
    for repository, digests in heads.items():
        for digest in digests:
            homes.setdefault(digest, []).append(repository)
    with ThreadPoolExecutor(jobs, thread_name_prefix="manifest") as pool:
        while homes:
            known |= {digest: whole[digest] for digest in homes if digest in whole}
            missing = [digest for digest in homes if digest not in known]
            places = [_places(digest, homes[digest], *offers) for digest in missing]
            read = pool.map(_read, missing, places, repeat(sources))
            for digest, (manifest, said) in zip(missing, read, strict=True):
                if manifest is None:
                    lost[digest] = homes[digest][0], said
                else:
                    known[digest], fetched[digest] = manifest, said
            below: dict[Digest, list[str]] = {}
            for digest, repositories in homes.items():
                for child in known[digest].children if digest in known else ():
                    if child.digest not in known and child.digest not in lost:
                        below.setdefault(child.digest, []).extend(repositories)
            homes = below
    return known, fetched, lost


def _read(digest: Digest, places: Sequence[HasSource], sources: Sources) -> tuple[Manifest | None, str]:
    """Return the manifest *digest* with the name of the place that had it, or None with what all of them said."""
    said: list[str] = []
    for place in places:
        try:
            return _read_at(digest, place, sources), place.source
        except (SourceError, CredentialsError, InputError) as error:
            said.append(f"{error.where}: {error.what}")
    return None, "; ".join(said) or _NO_PLACE


def _read_at(digest: Digest, place: HasSource, sources: Sources) -> Manifest:
    if isinstance(place, LockedImage):
        made_from = {pin.digest: pin.source_digest for pin in place.tags.values()}
        return fetch_manifest(digest, "", place, made_from.get(digest), sources)
    content, media_type = sources.of(place).manifest(digest)
    manifest = parse_manifest(content, f"{place.source}@{digest}", media_type)
    if manifest.digest != digest:
        raise SourceError(f"{place.source}@{digest}", "sent another manifest", "do not trust this source")
    return manifest


def _places(
    digest: Digest | None, repositories: Sequence[str], images: Sequence[LockedImage], spares: Sequence[Spare]
) -> tuple[HasSource, ...]:
    """Return who is asked for what *repositories* serve: who pins the manifest *digest* first, *spares* last."""
    homes = set(repositories)
    pinning = [
        image for image in images if digest is not None and digest in {pin.digest for pin in image.tags.values()}
    ]
    near = [image for image in images if image.name in homes]
    unique: dict[tuple[str, bool, CredentialsFrom | None], HasSource] = {}
    places: tuple[HasSource, ...] = (*pinning, *near, *spares)
    for place in places:
        unique.setdefault((str(place.location), place.plain_http, place.credentials), place)
    return tuple(unique.values())


def _below(heads: Iterable[Digest], known: Mapping[Digest, Manifest]) -> list[Digest]:
    """Return *heads* and all that they list, each after what it lists itself."""
    order: dict[Digest, None] = {}

    def visit(digest: Digest) -> None:
        if digest in order:
            return
        for child in known[digest].children if digest in known else ():
            visit(child.digest)
        order[digest] = None

    for digest in heads:
        visit(digest)
    return list(order)


def _targets(digests: Sequence[Digest], tags: Mapping[str, Digest]) -> list[tuple[str, Digest]]:
    return [(str(digest), digest) for digest in digests] + sorted(tags.items())


def _is_link(link: Path, tree: Tree, wanted: ManifestLink) -> bool:
    return link.is_symlink() and link.readlink() == Path(relative_target(link, tree.manifest_path(wanted.manifest)))


def _is_blob_link(tree: Tree, repository: str, digest: Digest) -> bool:
    link = tree.blob_link(repository, digest)
    return link.is_symlink() and link.readlink() == Path(relative_target(link, tree.blob_path(digest)))


def _tag_lists(tree: Tree, report: ScrubReport, changed: set[str]) -> tuple[str, ...]:
    """Return the repositories whose tag list is to be written: those *changed*, and those that the scrub names."""
    paths = [finding.path.removeprefix(f"{V2}/") for finding in report.findings if finding.path.startswith(f"{V2}/")]
    named = {path.partition("/tags/")[0] for path in paths if "/tags/" in path}
    return tuple(sorted(changed | (named & set(tree.repositories()))))


def _referrer_lists(
    served: Mapping[str, Iterable[Digest]], known: Mapping[Digest, Manifest]
) -> tuple[ReferrerList, ...]:
    """Return the lists of referrers that follow from what every repository serves."""
    referring: dict[tuple[str, Digest], list[Manifest]] = {}
    for repository, digests in served.items():
        for digest in digests:
            subject = known[digest].subject if digest in known else None
            if subject is not None:
                referring.setdefault((repository, subject), []).append(known[digest])
    return tuple(make_list(*about, map(row_of, manifests)) for about, manifests in referring.items())


def _is_listed(tree: Tree, wanted: ReferrerList, report: ScrubReport) -> bool:
    stored = StoredManifest(wanted.index.digest, wanted.index.kind)
    targets = (str(stored.digest), list_tag(wanted.subject))
    links = [ManifestLink(wanted.repository, target, stored) for target in targets]
    path = tree.referrers_path(wanted.repository, wanted.subject)
    return (
        stored.digest in report.whole_manifests
        and all(_is_link(tree.manifest_link(link.repository, link.target), tree, link) for link in links)
        and path.is_file()
        and tree.read(path) == wanted.index.content
    )


def _unlisted(tree: Tree, wanted: Iterable[ReferrerList]) -> Iterator[tuple[str, Digest]]:
    """Yield what there are lists about, and none are *wanted*."""
    about = {(one.repository, one.subject) for one in wanted}
    for repository in tree.repositories():
        folder = tree.repository_path(repository)
        subjects = [_digest_of(path.name) for path in folder.glob("referrers/*")]
        subjects += [listed_subject(path.name) for path in folder.glob("manifests/*")]
        for subject in sorted({subject for subject in subjects if subject is not None}):
            if (repository, subject) not in about:
                yield repository, subject


def _tags_there(tree: Tree, repository: str) -> list[str]:
    folder = tree.repository_path(repository) / "manifests"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    links = [folder / name for name in names if ":" not in name and listed_subject(name) is None]
    return [link.name for link in links if check_manifest_link(tree, link, repository)[0] is not None]


def _times(report: ScrubReport) -> Iterator[tuple[str, Digest]]:
    for finding in report.findings:
        if finding.kind == "wrong time":
            yield finding.path, Digest(Path(finding.path).name.partition(".")[0])


def _unnamed(
    tree: Tree, report: ScrubReport, named: Mapping[str, Mapping[Digest, Descriptor]], lost: Mapping[Digest, object]
) -> Iterator[tuple[str, Digest]]:
    """Yield the links of blobs that no manifest of their repository names, where all of its manifests are known."""
    for finding in report.findings:
        link = tree.root / finding.path
        repository = str(link.parent.parent.relative_to(tree.root / V2)) if link.parent.name == "blobs" else ""
        digest = _digest_of(link.name)
        if finding.kind not in {"unnamed", "dangling"} or not repository or digest is None:
            continue
        if not lost and digest not in named.get(repository, {}):
            yield repository, digest


def _removals(tree: Tree, report: ScrubReport, needed: set[Digest], served: Mapping[Digest, Manifest]) -> Iterator[str]:
    for digest in sorted(report.broken_blobs - needed):
        yield _path(tree, tree.blob_path(digest))
    for stored in sorted(report.broken_manifests, key=lambda stored: stored.digest):
        if stored.digest not in served or served[stored.digest].kind != stored.kind:
            yield _path(tree, tree.manifest_path(stored))


def _fetch(
    fetches: Sequence[BlobRepair], writer: TreeWriter, sources: Sources, progress: Progress, jobs: int
) -> tuple[list[Step], list[Failure]]:
    """Fetch several blobs at a time; one that cannot be had stops no other."""
    if not fetches:
        return [], []
    progress.expect(sum(fetch.blob.size for fetch in fetches), f"{len(fetches)} blob{'' if len(fetches) == 1 else 's'}")
    stop = threading.Event()
    with ThreadPoolExecutor(jobs, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(_fetch_one, fetch, writer, sources, progress, stop) for fetch in fetches]
        try:
            done = [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    steps = [step for step in done if isinstance(step, Step)]
    return steps, [failure for failure in done if isinstance(failure, Failure)]


def _fetch_one(
    fetch: BlobRepair, writer: TreeWriter, sources: Sources, progress: Progress, stop: threading.Event
) -> Step | Failure:
    path = _path(writer.tree, writer.tree.blob_path(fetch.blob.digest))
    said: list[str] = []
    for place in fetch.places:
        try:
            fetch_blob(BlobFetch(fetch.blob, place), sources.of(place), writer, progress, stop)
        except (SourceError, CredentialsError, InputError) as error:
            said.append(f"{error.where}: {error.what}")
        else:
            return Step("fetch", path, place.source)
    return Failure(path, "; ".join(said) or _NO_PLACE)


def _is_whole(digest: Digest, served: Mapping[Digest, Manifest], gone: set[str]) -> bool:
    """Return whether *digest* and all that it needs is there, but for the blobs *gone*, given as hexadecimal digits."""
    manifest = served.get(digest)
    return (
        manifest is not None
        and not any(blob.digest.hex in gone for blob in manifest.blobs)
        and all(_is_whole(child.digest, served, gone) for child in manifest.children)
    )


def _digest_of(name: str) -> Digest | None:
    try:
        return Digest.parse(name)
    except InputError:
        return None


def _name(place: HasSource) -> str:
    return place.source


def _stored_path(tree: Tree, manifest: Manifest) -> Path:
    return tree.manifest_path(StoredManifest(manifest.digest, manifest.kind))


def _path(tree: Tree, path: Path) -> str:
    return str(path.relative_to(tree.root))
