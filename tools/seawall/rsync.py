"""rsync(1): files of a tree to where another tree lies, by name, whole or not at all.

It compares size and time before it sends; in a tree the time of a file is made from its digest. Links go as links, and
are replaced by a rename. What is taken up after an interruption is compared by checksums.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from seawall.errors import SeawallError, SourceError, TransientError, TreeError
from seawall.shell import Shell, dying_with_us, refused
from seawall.ssh import SSH_FAILED, remote_command
from seawall.tree import CONTENT, HELD, INCOMING

_OPTIONS = (
    "--links",
    "--perms",
    "--times",
    # Those of folders say when something came into them, on each host for itself.
    "--omit-dir-times",
    "--relative",
    "--from0",
    # No name is ever read by a shell.
    "--protect-args",
    "--out-format=%i %n",
)
_SENT = frozenset("<>")
_MADE = frozenset("<>c")
_PROTOCOL, _PARTIAL, _VANISHED, _NOT_FOUND = 12, 23, 24, 127


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run of rsync sent."""

    files: frozenset[str] = frozenset()
    """Files of which bytes were sent."""
    links: frozenset[str] = frozenset()
    """Links that were made or moved."""

    def __or__(self, other: "Sent") -> "Sent":
        """Return what both sent."""
        return Sent(self.files | other.files, self.links | other.links)

    @property
    def is_empty(self) -> bool:
        """True where it was nothing."""
        return not (self.files or self.links)


def carry(
    source: Path,
    names: Iterable[str],
    shell: Shell,
    sent: Callable[[str], None],
    *,
    dry_run: bool = False,
) -> Sent:
    """Carry the files and links *names* of the folder *source* to the place of *shell*; return what was sent.

    Of content, what is interrupted is kept in the destination's ``.incoming/`` for the next run.

    Args:
        source: a tree, or a folder with some files of one.
        names: paths below it.
        shell: leads to the destination, which is held.
        sent: hears of each file of which bytes were sent, when it has arrived.
        dry_run: only compare.

    Raises:
        SeawallError: it did not come to its end.
    """
    with tempfile.TemporaryFile() as listed:
        names = tuple(names)
        if not names:
            return Sent()
        listed.write(b"".join(f"{name}\0".encode() for name in names))
        listed.seek(0)
        command = ["rsync", *_OPTIONS, "--files-from=-"]
        if all(name.startswith(f"{CONTENT}/") for name in names):
            # Not for links: with a folder of its own for what is on its way, rsync unlinks a link before it makes it
            # anew, and readers find none in between.
            incoming = f"{shell.path.rstrip('/')}/{INCOMING}"
            command += [f"--temp-dir={incoming}", f"--partial-dir={incoming}", "--no-whole-file"]
        if dry_run:
            command.append("--dry-run")
        # Whoever outlives the run that held the tree (a cut connection is not noticed at once) still keeps others out.
        guard = () if dry_run else ("flock", "--shared", "--nonblock", f"{shell.path.rstrip('/')}/{HELD}")
        remote_shell = shell.remote_shell
        if remote_shell is not None:
            command += [f"--rsh={remote_shell}", f"--rsync-path={remote_command('', *guard, 'rsync').strip()}"]
        else:
            command = [*guard, *command]
        return _run(tuple(command), f"{source}/", listed.fileno(), shell, sent)


def _run(command: tuple[str, ...], source: str, listed: int, shell: Shell, sent: Callable[[str], None]) -> Sent:
    files, links = set(), set()
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell sees it
                (*dying_with_us(command), source, shell.rsync_target),
                stdin=listed,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            raise SourceError("rsync", f"cannot be run here ({error.strerror})", "install rsync") from None
        with process:
            try:
                for line in process.stdout or ():
                    change, _, name = line.decode("utf-8", "surrogateescape").rstrip("\n").partition(" ")
                    if change[0] in _SENT and change[1:2] == "f":
                        files.add(name)
                        sent(name)
                    elif change[0] in _MADE and change[1:2] == "L":
                        links.add(name.partition(" -> ")[0])
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            said.seek(0)
            raise _failure(process.returncode, said.read().decode("utf-8", "replace"), source, shell)
    return Sent(frozenset(files), frozenset(links))


def _failure(code: int, said: str, source: str, shell: Shell) -> SeawallError:
    lines = [line.strip() for line in said.splitlines() if line.strip() and "rsync error:" not in line]
    first = lines[0] if lines else f"rsync ended with {code}"
    if code == _VANISHED or (code == _PARTIAL and source in said and "failed: No such file" in said):
        return TreeError(source.rstrip("/"), "lost files while they were carried (prune took them)", "run again")
    if code == _NOT_FOUND or "rsync: not found" in said or "rsync: command not found" in said:
        return SourceError(shell.where, "has no rsync to run", "install rsync there")
    if code < 0:
        return TransientError(shell.where, "rsync was ended by a signal", "run again")
    if code in {_PROTOCOL, SSH_FAILED} and "No space left" not in said:
        return TransientError(shell.where, f"the connection broke ({first})", "run again to go on")
    spaceless = [line for line in lines if "No space left on device" in line or "Disk quota exceeded" in line]
    return refused(shell.where, (spaceless or [first])[0])
