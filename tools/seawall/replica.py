"""A copy of a tree on this machine or another, brought up to date by rsync: byte for byte, link for link.

Over there only a POSIX shell, rsync and what every GNU system has are wanted. One process holds the tree for the
length of the work, as every command that writes a tree does (``flock`` on ``.held``); when the connection falls, so
does its hold.
"""

import contextlib
import os
import shlex
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from seawall.digest import Digest
from seawall.errors import SourceError, TreeError, TreeHeldError
from seawall.listing import FIRST_PAGE, Entries, ListingChange, Shape, difference, whole
from seawall.lists import is_private, parse_prefixes, private_text
from seawall.place import PathPlace, SshPlace
from seawall.progress import Progress
from seawall.publication import Publication, PublishedList, Standing, TreeObject, Wishes
from seawall.publishing import prepare
from seawall.reference import Reference, listed_subject
from seawall.rsync import Sent, carry
from seawall.shell import Shell
from seawall.ssh import Running
from seawall.tree import CATALOG, CATALOG_LINK, LOCKS, PENDING, PRIVATE, RELEASES, TOP_LEVEL, V2, Tree

_READY = b"seawall is here"
_HEARTBEAT = 15.0
"""Seconds between two signs of life; over there the hold is given up after four that do not come."""
_SILENCE = 60
_MODE = 0o444

_KNOWN = " ".join(f"! -name {shlex.quote(name)}" for name in sorted((*TOP_LEVEL, "lost+found")))
_LOOK = f"""\
umask 022
echo '{_READY.decode()}'
for tool in rsync flock find sha256sum sync timeout xargs stat; do
    command -v "$tool" >/dev/null || {{ echo "lacks $tool"; exit; }}
done
if [ ! -d "$1" ]; then
    [ "$2" = hold ] || {{ echo end; exit; }}
    mkdir -p -- "$1" || exit 1
fi
cd -- "$1" || exit 1
foreign=$(find . -mindepth 1 -maxdepth 1 {_KNOWN} -print -quit) || exit 1
if [ -n "$foreign" ] && ! {{ [ -d content ] && [ -d v2 ]; }}; then echo "foreign ${{foreign#./}}"; exit; fi
if [ "$2" = hold ]; then
    [ -O . ] || {{ echo "owner $(stat -c %U .)"; exit; }}
    exec 9<>.held || exit 1
    chmod 600 .held || exit 1
    flock --nonblock 9 || {{ echo "held $(head -c 20 .held)"; exit; }}
    echo $$ >.held || exit 1
    for folder in content v2 releases locks .incoming; do
        [ -d "$folder" ] || mkdir "$folder" || exit 1
    done
    chmod 700 .incoming || exit 1
    find .incoming -mindepth 1 '(' ! -regex '\\.incoming/[0-9a-f]+\\(\\.part\\)?' -o -ctime +6 ')' -delete || exit 1
    flock --shared --nonblock 9 || {{ echo "held $(head -c 20 .held)"; exit; }}
fi
last=0
for file in releases/*.json; do
    number=${{file#releases/}}
    number=${{number%.json}}
    case $number in
        *[!0-9]*) ;;
        *) [ "$number" -le "$last" ] || last=$number ;;
    esac
done
for file in "releases/$last.json" releases/pending.json locks/*.lock private catalog/private; do
    [ ! -f "$file" ] || {{ echo "file $(stat -c %s "$file") $file"; cat "$file"; }} || exit 1
done
echo end
while [ -n "$(timeout {_SILENCE} head -c 1)" ]; do :; done
"""
_ENTRIES = """\
cd -- "$1" || exit 1
xargs -0 sh -c 'for folder; do
    [ ! -d "$folder" ] || find "$folder" ! -type d -printf "%p\\t%l\\0" || exit 1
done' sh
"""
_LISTED = """\
cd -- "$1" || exit 1
find v2 '(' -name blobs -o -name manifests -o -name referrers -o -name after -o -name to ')' -prune \
    -o -path '*/tags/list' -print0
"""
_TAGS = """\
cd -- "$1" || exit 1
find v2 '(' -name blobs -o -name referrers -o -name tags ')' -prune -o -path '*/manifests/*' ! -name '*:*' -print0
"""
# rsync leaves such a link or file where it was killed between making it and renaming it.
_TIDY = """\
cd -- "$1" || exit 1
xargs -0 sh -c 'for folder; do
    [ ! -d "$folder" ] || find "$folder" -maxdepth 1 -name ".*" ! -type d -delete || exit 1
done' sh
"""
_CHECK = 'cd -- "$1" || exit 1; sha256sum --check --quiet 2>/dev/null || :'
_REMOVE = 'cd -- "$1" && xargs -0 -r rm -f --'
_SETTLE = 'cd -- "$1" && sync --file-system .'


@dataclass(frozen=True, slots=True)
class Carried:
    """What came of publishing to one replica."""

    publication: Publication
    sent: Sent
    size: int
    """Bytes of contents that were sent."""
    removed: int
    """How many links were taken away."""

    @property
    def changed(self) -> bool:
        """True where anything was sent or taken away."""
        return bool(self.removed) or not self.sent.is_empty


def publish(
    tree: Tree,
    place: PathPlace | SshPlace,
    progress: Progress,
    wishes: Wishes,
) -> Carried:
    """Bring the replica at *place* to the last release of *tree*.

    Killed at any moment it leaves a replica that serves all that it served, and the next run finishes.

    Args:
        tree: the source, which may be written meanwhile.
        place: the replica.
        progress: hears of the bytes that are sent.
        wishes: what else is wanted.

    Raises:
        TreeHeldError: something else writes the replica.
        SeawallError: the replica is not one of *tree*, cannot be reached or cannot be written.
    """
    if isinstance(place, PathPlace) and place.path.resolve() == tree.root.resolve():
        raise TreeError(str(place), "is the tree itself", "name another folder")
    with tempfile.TemporaryDirectory(prefix="seawall-") as folder:
        shell = Shell(place, Path(folder))
        with _held(shell, dry_run=wishes.dry_run) as standing:
            publication = prepare(tree, standing, shell.where, everything=wishes.everything)
            if publication.is_empty and standing.catalog_private == (standing.private or ""):
                return Carried(publication, Sent(), 0, 0)
            work = _Work(tree, publication, standing, shell, progress, Path(folder) / "tree", dry_run=wishes.dry_run)
            work.do()
            return Carried(publication, work.sent, work.size, work.removed)


@contextlib.contextmanager
def _held(shell: Shell, *, dry_run: bool) -> Iterator[Standing]:
    """Hold the tree of *shell*, made where it is missing; yield what it says of itself. A dry run only looks."""
    process = shell.start(_LOOK, shell.path, "look" if dry_run else "hold")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_HEARTBEAT):
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(b".")
                process.stdin.flush()

    beater = threading.Thread(target=beat, name="heartbeat", daemon=True)
    try:
        standing = _standing(process, shell)
        beater.start()
        yield standing
    except BaseException:
        process.kill()
        raise
    finally:
        over.set()
        process.end()


def _standing(process: Running, shell: Shell) -> Standing:
    files: dict[str, bytes] = {}
    line = process.stdout.readline().rstrip(b"\n")
    if line != _READY:
        code = process.end()
        if code:
            raise shell.failure(process, code)
        what = f"its shell says {line.decode('utf-8', 'replace')[:80]!r} before anything else"
        raise SourceError(shell.where, what, "let what it says there depend on a terminal")
    while True:
        line = process.stdout.readline()
        said, _, rest = line.decode("utf-8", "replace").rstrip("\n").partition(" ")
        if said == "end":
            return _parsed(files)
        if said == "file":
            size, _, name = rest.partition(" ")
            files[name] = process.stdout.read(int(size))
        elif line:
            raise _unusable(said, rest, shell)
        else:
            raise shell.failure(process, process.end())


def _unusable(said: str, rest: str, shell: Shell) -> Exception:
    where = shell.where
    if said == "lacks":
        return SourceError(where, f"has no {rest} to run", f"install {rest} there")
    if said == "foreign":
        return TreeError(where, f"is not a tree and not empty (it holds {rest!r})", "give an empty folder")
    if said == "owner":
        return TreeError(where, f"belongs to {rest}", f"publish as {rest}")
    if said == "held":
        what = f"is held by another run (process {rest.strip() or 'unknown'})"
        return TreeHeldError(where, what, "wait until it ends, then try again")
    return SourceError(where, f"says {said[:80]!r} where its state was expected", "see what its shell prints")


def _parsed(files: dict[str, bytes]) -> Standing:
    records = {name: content for name, content in files.items() if name.startswith(f"{RELEASES}/")}
    is_pending = records.pop(f"{RELEASES}/{PENDING}", None) is not None
    name, record = next(iter(records.items()), (f"{RELEASES}/0.json", b""))
    texts = {name: content.decode(errors="replace") for name, content in files.items()}
    return Standing(
        release=int(name.removeprefix(f"{RELEASES}/").removesuffix(".json")),
        record=Digest.of(record),
        locks={
            name.removeprefix(f"{LOCKS}/").removesuffix(".lock"): content
            for name, content in files.items()
            if name.startswith(f"{LOCKS}/")
        },
        private=texts.get(PRIVATE),
        catalog_private=texts.get(f"{CATALOG}/{PRIVATE}"),
        is_pending=is_pending,
    )


@dataclass(slots=True)
class _Work:
    """One publication on its way to one replica."""

    tree: Tree
    publication: Publication
    standing: Standing
    shell: Shell
    progress: Progress
    folder: Path
    """Where what is small lies as it is to be over there."""
    dry_run: bool
    sent: Sent = field(default_factory=Sent)
    size: int = 0
    removed: int = 0

    def do(self) -> None:
        plan = self.publication
        is_new = self.dry_run and not self.standing.release and not self._paths(_TAGS)
        if is_new:
            # There may be no folder yet that could be compared with.
            self.sent = Sent(frozenset(one.path for one in plan.contents), frozenset(one.path for one in plan.tags))
            self.size = plan.size
            return
        if plan.is_whole:
            self.publication = plan = self._with_withdrawn(plan)
        self.progress.expect(plan.size, f"{len(plan.contents)} files for {self.shell.where}")
        self._tidy()
        self._contents()
        self._carry_links(plan.blob_links)
        for level in plan.manifest_links:
            self._carry_links(level)
        self._carry_links(plan.list_links)
        self._settle()
        self._carry_files(plan.list_files)
        self._tag_lists()
        self._catalog()
        self._carry_links(plan.tags)
        self._remove(f"{V2}/{reference.repository}/manifests/{reference.tag}" for reference in plan.withdrawn)
        self._carry_files(plan.locks)
        self._carry_files(plan.records[:-1])
        self._settle()
        self._carry_files(plan.records[-1:])
        self._settle()
        self.progress.say(f"{self.shell.where}: release {plan.release}")

    # Content.

    def _contents(self) -> None:
        sizes = {one.path: one.size for one in self.publication.contents}

        def arrived(path: str) -> None:
            self.size += sizes.get(path, 0)
            self.progress.advance(sizes.get(path, 0))

        made = [one for one in self.publication.manifests if one.content is not None]
        names = [one.path for one in self.publication.contents if one.content is None]
        sent = carry(self.tree.root, names, self.shell, arrived, dry_run=self.dry_run)
        self._check(sent)
        self.sent |= sent
        self._carry_files(made)
        # What was there already is done as well.
        self.progress.advance(self.publication.size - self.size)

    def _check(self, sent: Sent) -> None:
        """Have the files that were *sent* hashed where they are now, before anything leads there."""
        if self.dry_run or not sent.files:
            return
        lines = "".join(f"{Path(path).name.partition('.')[0]}  {path}\n" for path in sorted(sent.files))
        for line in self.shell.run(_CHECK, self.shell.path, stdin=lines.encode()).decode().splitlines():
            path = line.rpartition(":")[0]
            self._remove([path])
            what = f"arrived with other bytes than its name says at {self.shell.where}"
            raise TreeError(f"{self.tree.root}/{path}", what, f"run seawall verify {self.tree.root}")

    # Links and small files.

    def _carry_links(self, links: Iterable[TreeObject]) -> None:
        self._put({one.path: relpath(one.target, dirname(one.path)) for one in links}, {})

    def _carry_files(self, files: Iterable[TreeObject]) -> None:
        self._put({}, {one.path: one.content for one in files if one.content is not None})

    def _put(self, links: dict[str, str], files: dict[str, bytes]) -> None:
        """Make *links*, by path with where they lead, and *files* over there; what is so already stays."""
        for path, target in links.items():
            at = self._place(path)
            at.symlink_to(target)
            with contextlib.suppress(OSError):
                found = (self.tree.root / path).lstat()
                os.utime(at, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
        for path, content in files.items():
            at = self._place(path)
            at.write_bytes(content)
            at.chmod(_MODE)
            mtime = Digest.of(content).mtime
            os.utime(at, (mtime, mtime))
        self.sent |= carry(self.folder, (*links, *files), self.shell, lambda _: None, dry_run=self.dry_run)

    def _place(self, path: str) -> Path:
        at = self.folder / path
        _make_folder(at.parent)
        at.unlink(missing_ok=True)
        return at

    def _remove(self, paths: Iterable[str]) -> None:
        paths = tuple(paths)
        if paths and not self.dry_run:
            self.shell.run(_REMOVE, self.shell.path, stdin=_zeroed(paths))
        self.removed += len(paths)

    # Lists.

    def _tag_lists(self) -> None:
        known = {f"{V2}/{name}/tags" for name in self.publication.repositories}
        there = self._entries([one.folder for one in self.publication.tag_lists])
        found = [(one, there[one.folder]) for one in self.publication.tag_lists]
        self._write_lists([_Rewriting.of(one, entries) for one, entries in found if entries or one.folder in known])

    def _catalog(self) -> None:
        plan, standing = self.publication, self.standing
        private = standing.private if standing.private is not None else private_text(self.tree)
        prefixes = parse_prefixes(private)
        is_current = standing.catalog_private == private
        come = {name for name in plan.repositories if not is_private(name, prefixes)}
        there = self._entries([CATALOG]).get(CATALOG, {}) if plan.repositories or not is_current else {}
        shape = Shape.of_repositories()
        if is_current and all(shape.to(name) in there for name in come):
            return
        suffix = f"/tags/{FIRST_PAGE}"
        names = {path.removeprefix(f"{V2}/").removesuffix(suffix) for path in self._paths(_LISTED)} | come
        public = tuple(sorted(name for name in names if not is_private(name, prefixes)))
        if standing.private is None and private:
            self._put({}, {PRIVATE: private.encode()})
        there.pop(PRIVATE, None)
        # Without it the catalog is known not to be whole: whoever comes after a killed run writes it anew.
        self._remove([f"{CATALOG}/{PRIVATE}"] if standing.catalog_private is not None else [])
        self._write_lists([_Rewriting.of(PublishedList(CATALOG, shape, public), there)])
        self._put({}, {f"{CATALOG}/{PRIVATE}": private.encode()})
        self._put({f"{V2}/{CATALOG_LINK}": f"../{CATALOG}/{FIRST_PAGE}"}, {})

    def _write_lists(self, lists: "list[_Rewriting]") -> None:
        """Write *lists*, all of them in step, so that a reader sees every name that stays at any moment."""
        self._remove(path for one in lists for path in one.below(one.change.unlinked))
        files = {path: b"" for one in lists for path in one.below(one.change.names)}
        files |= {f"{one.folder}/{at}": page for one in lists for at, page in one.pages.items()}
        self._put({}, files)
        for is_new in (True, False):
            links = {
                f"{one.folder}/{path}": f"{one.folder}/{to}"
                for one in lists
                for path, to in one.change.links.items()
                if (path not in one.there) == is_new
            }
            self._put({path: relpath(to, dirname(path)) for path, to in links.items()}, {})
        self._remove(path for one in lists for path in one.below(one.change.removed))

    def _entries(self, folders: list[str]) -> dict[str, dict[str, str]]:
        """Return by folder the files and links in it over there, with where each link leads (``""``: a file)."""
        found: dict[str, dict[str, str]] = {folder: {} for folder in folders}
        rows = self.shell.run(_ENTRIES, self.shell.path, stdin=_zeroed(folders)) if folders else b""
        for row in filter(None, rows.decode().split("\0")):
            path, _, target = row.partition("\t")
            folder = next(folder for folder in _above(path) if folder in found)
            to = normpath(join(dirname(path), target)) if target else ""
            found[folder][path[len(folder) + 1 :]] = to.removeprefix(f"{folder}/")
        return found

    # The rest.

    def _paths(self, script: str) -> list[str]:
        try:
            answer = self.shell.run(script, self.shell.path)
        except TreeError:
            if self.dry_run:
                return []
            raise
        return [path for path in answer.decode().split("\0") if path]

    def _with_withdrawn(self, plan: Publication) -> Publication:
        """Return *plan* with what has to go besides, where no record says what was withdrawn."""
        known = {one.path for one in plan.tags} | {one.path for one in plan.list_links}
        gone = [path for path in self._paths(_TAGS) if path not in known and not Path(path).name.startswith(".")]
        withdrawn = [_reference(path) for path in gone if listed_subject(Path(path).name) is None]
        lists = {one.folder for one in plan.tag_lists}
        more = sorted({f"{V2}/{one.repository}/tags" for one in withdrawn} - lists)
        empty = (PublishedList(at, Shape.of_tags(at[len(V2) + 1 : -len("/tags")]), ()) for at in more)
        return replace(plan, withdrawn=tuple(withdrawn), tag_lists=(*plan.tag_lists, *empty))

    def _tidy(self) -> None:
        plan = self.publication
        paths = (
            one.path
            for group in (plan.blob_links, *plan.manifest_links, plan.list_links, plan.list_files, plan.tags)
            for one in group
        )
        if not self.dry_run:
            folders = {RELEASES, LOCKS, CATALOG, *map(dirname, paths)}
            self.shell.run(_TIDY, self.shell.path, stdin=_zeroed(folders))

    def _settle(self) -> None:
        if not self.dry_run:
            self.shell.run(_SETTLE, self.shell.path)


@dataclass(frozen=True, slots=True)
class _Rewriting:
    """What to do to a list over there."""

    folder: str
    there: frozenset[str]
    """The paths of all that is in it."""
    pages: dict[str, bytes]
    change: ListingChange

    @classmethod
    def of(cls, wanted: PublishedList, found: dict[str, str]) -> "_Rewriting":
        """Return what makes a list of which *found* is there (links with where they lead) the one that is *wanted*."""
        links = {path: to for path, to in found.items() if to}
        files = frozenset(found) - frozenset(links)
        # What a page says is not known; it is compared on the way.
        pages: dict[str, tuple[str, ...]] = {path: () for path in files if not path.endswith(":")}
        change = difference(Entries(links, pages, files - frozenset(pages)), whole(wanted.names, wanted.shape))
        texts = {path: wanted.shape.page(names).encode() for path, names in change.pages.items()}
        return cls(wanted.folder, frozenset(found), texts, change)

    def below(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield *paths* as they are below the tree."""
        return (f"{self.folder}/{path}" for path in paths)


def _make_folder(folder: Path) -> None:
    """Make *folder* with the mode that rsync is to give it over there, whatever the umask of this run."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _reference(path: str) -> Reference:
    folder, _, tag = path.rpartition("/")
    return Reference(folder.removeprefix(f"{V2}/").removesuffix("/manifests"), tag)


def _above(path: str) -> Iterator[str]:
    while path := dirname(path):
        yield path


def _zeroed(names: Iterable[str]) -> bytes:
    return b"".join(f"{name}\0".encode() for name in sorted(names))
