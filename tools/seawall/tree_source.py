"""The source that is a repository of another tree, wherever that lies.

Only names and bytes are trusted that a digest covers: a blob and a manifest are what their digest says or are
refused, and a manifest's media type is its own. So it does not matter what headers a web server sends, nor where the
links of a foreign tree lead.
"""

from collections.abc import Iterator

from seawall.digest import Digest
from seawall.errors import NotFoundError, SourceError
from seawall.manifest import MANIFEST_MAX_BYTES, Descriptor, parse_manifest
from seawall.reference import TreeLocation, list_tag
from seawall.referrer_list import claimed
from seawall.tree_files import TreeFiles


class TreeSource:
    """Images of one repository of a tree; may be used by several threads.

    Args:
        location: the repository.
        files: reads the tree; give one to all its repositories, so that they share a connection.
        counts: whether the requests for any repository of the tree count as those of this one: true for one of them.
    """

    def __init__(self, location: TreeLocation, files: TreeFiles, *, counts: bool = True) -> None:
        self._location = location
        self._files = files
        self._counts = counts
        self._folder = f"v2/{location.repository}"

    @property
    def requests(self) -> int:
        """How many requests were sent over the network so far; 0 where another repository of the tree counts them."""
        return self._files.requests if self._counts else 0

    def resolve(self, tag: str) -> Descriptor:
        """Return media type, digest and size of the manifest that *tag* names now; it is read for that.

        Raises:
            SourceError: there is no such tag, or it is no image that can be served.
            CredentialsError: access is refused.
        """
        where = f"{self._location}:{tag}"
        content = self._manifest(tag, where, "no such tag", "correct the tag, or publish the image there first")
        return parse_manifest(content, where).descriptor

    def tags(self) -> tuple[str, ...]:
        """Return every tag of the repository, each once.

        Raises:
            SourceError: there is no such repository.
            CredentialsError: access is refused.
        """
        where = f"{self._location} tags"
        try:
            return self._files.tags(self._location.repository, where)
        except NotFoundError:
            raise NotFoundError(where, "no such repository", "correct the source") from None

    def manifest(self, digest: Digest) -> tuple[bytes, str]:
        """Return the bytes of the manifest *digest*, which match it, and ``""``: only they say what they are.

        Raises:
            SourceError: there is no such manifest, it is larger than 4 MiB, or other bytes were sent.
            CredentialsError: access is refused.
        """
        where = f"{self._location}@{digest}"
        content = self._manifest(str(digest), where, "no such manifest", "run seawall lock again to pin what is there")
        if Digest.of(content) != digest:
            raise SourceError(where, "holds other bytes than its name says", "do not trust this tree; verify it there")
        return content, ""

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what the tree's list names that refers to the manifest *subject*: the one behind its tag.

        Raises:
            SourceError: the list is malformed.
            CredentialsError: access is refused.
        """
        where = f"{self._location}@{subject} referrers"
        try:
            content = self._files.read(f"{self._folder}/manifests/{list_tag(subject)}", MANIFEST_MAX_BYTES, where)
        except NotFoundError:
            return ()
        return claimed(content, where)

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of *blob* from *start* on, in pieces of at most 1 MiB, never many more than its size.

        Raises:
            TransientError: the connection is cut, or falls silent.
            SourceError: there is no such blob, or it has another size.
            CredentialsError: access is refused.
        """
        if 0 < blob.size <= start:
            return
        where = f"{self._location}@{blob.digest}"
        try:
            yield from self._files.pieces(f"{self._folder}/blobs/{blob.digest}", blob.size, start, where)
        except NotFoundError:
            raise NotFoundError(where, "no such blob", "publish the image there again") from None

    def _manifest(self, target: str, where: str, missing: str, todo: str) -> bytes:
        try:
            content = self._files.read(f"{self._folder}/manifests/{target}", MANIFEST_MAX_BYTES, where)
        except NotFoundError:
            raise NotFoundError(where, missing, todo) from None
        if len(content) > MANIFEST_MAX_BYTES:
            what = f"manifest is larger than {MANIFEST_MAX_BYTES} bytes"
            raise SourceError(where, what, "check that the tree holds container images")
        return content
