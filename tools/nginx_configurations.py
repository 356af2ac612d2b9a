#!/usr/bin/env python3
"""Keeps the whole configuration of nginx on its host, numbered, and brings one back.

Run as root by Ansible's role nginx_base; it needs nothing but Python. A configuration is the folder that nginx reads,
with the modes and owners of its files, and single files elsewhere that belong to it. Prints one line of JSON.
"""

import argparse
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Entry = tuple[str, int, int, int, str]
"""Path, mode with file type, owner, group, and what it says: a digest, or where a link leads."""


class ConfigurationsError(Exception):
    """What went wrong, and what to do, in one line."""


@dataclass(frozen=True)
class Configurations:
    """The configurations that are kept in `kept`, and the one that is live."""

    live: Path
    """The folder that nginx reads."""
    kept: Path
    also: tuple[Path, ...] = ()
    """Files elsewhere that belong to the configuration; they may be missing."""

    def numbers(self) -> list[int]:
        """The numbers of those that are kept, the oldest first."""
        if not self.kept.is_dir():
            return []
        return sorted(int(path.name) for path in self.kept.iterdir() if path.name.isdecimal())

    def number_of(self, name: str) -> int:
        """The number that `name` means: one itself, ``newest``, or ``previous``, the newest that is not live."""
        if name.isdecimal():
            return int(name)
        if name not in {"newest", "previous"}:
            raise ConfigurationsError(f"{name} is no configuration: give a number, newest or previous")
        numbers = [n for n in self.numbers() if name == "newest" or not self.is_live(n)]
        if not numbers:
            raise ConfigurationsError(f"there is no {name} configuration in {self.kept}")
        return numbers[-1]

    def is_live(self, number: int) -> bool:
        """Whether configuration `number` is the one that nginx's folder holds, byte by byte."""
        folder = self.kept / str(number)
        return entries(folder / "nginx") == entries(self.live) and all(
            entries(self._copy_of(path, folder)) == entries(path) for path in self.also
        )

    def keep(self, count: int) -> int:
        """Keep the live one as the next, and of all no more than the newest `count`; return its number."""
        number = max(self.numbers(), default=0) + 1
        self._make_folder()
        folder = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.kept))
        try:
            copy(self.live, folder / "nginx")
            for path in self.also:
                if path.exists():
                    target = self._copy_of(path, folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    copy(path, target)
            os.sync()
            folder.rename(self.kept / str(number))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in self.numbers()[:-count]:
            shutil.rmtree(self.kept / str(old))
        for rest in self.kept.glob(".incoming-*"):
            shutil.rmtree(rest)
        return number

    def check(self, number: int, nginx: str) -> None:
        """Raise ConfigurationsError if there is no configuration `number`, or nginx would not read it."""
        if number not in self.numbers():
            there = ", ".join(map(str, self.numbers())) or "none"
            raise ConfigurationsError(f"there is no configuration {number} in {self.kept}: there is {there}")
        main_file = self.kept / str(number) / "nginx/nginx.conf"
        command = [nginx, "-t", "-q", "-c", str(main_file)]
        tested = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        if tested.returncode != 0:
            raise ConfigurationsError(f"nginx refuses configuration {number}: {' '.join(tested.stderr.split())}")

    def restore(self, number: int) -> None:
        """Make configuration `number` the live one, file by file, each by one rename. What is too much goes last."""
        folder = self.kept / str(number)
        put(folder / "nginx", self.live)
        for path in self.also:
            kept = self._copy_of(path, folder)
            if kept.exists():
                put(kept, path)
            else:
                path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        missing = [folder for folder in (self.kept, *self.kept.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            # Others keep things beside it which others read: the sign that a host is drained.
            folder.chmod(0o700 if folder == self.kept else 0o755)

    def _copy_of(self, path: Path, folder: Path) -> Path:
        return folder / "also" / path.relative_to("/")


def entries(top: Path) -> list[Entry]:
    """All that is at `top` and below it, but no times; nothing where there is nothing."""
    if not os.path.lexists(top):
        return []
    paths = [top, *sorted(top.rglob("*"))] if top.is_dir() and not top.is_symlink() else [top]
    return [_entry(path, top) for path in paths]


def _entry(path: Path, top: Path) -> Entry:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        says = str(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        says = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        says = ""
    return str(path.relative_to(top)), status.st_mode, status.st_uid, status.st_gid, says


def copy(source: Path, target: Path) -> None:
    """Copy a file, a link or a folder with all in it, with modes and owners."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        for path in source.iterdir():
            copy(path, target / path.name)
        _like(source, target)
    else:
        shutil.copyfile(source, target, follow_symlinks=False)
        _like(source, target)


def put(source: Path, target: Path) -> None:
    """Make `target` what `source` is: what differs takes its place whole, and what is too much goes last."""
    if entries(source) == entries(target):
        return
    is_folder = source.is_dir() and not source.is_symlink()
    if is_folder and target.is_dir() and not target.is_symlink():
        for path in sorted(source.iterdir()):
            put(path, target / path.name)
        for path in sorted(target.iterdir()):
            if not os.path.lexists(source / path.name):
                _remove(path)
        _like(source, target)
        return
    beside = target.with_name(f".{target.name}.incoming")
    _remove(beside)
    copy(source, beside)
    if is_folder or (target.is_dir() and not target.is_symlink()):
        # rename(2) puts no folder in the place of something that is there, and nothing in a folder's.
        _remove(target)
    beside.replace(target)


def _like(source: Path, target: Path) -> None:
    status = source.lstat()
    os.lchown(target, status.st_uid, status.st_gid)
    if not target.is_symlink():
        target.chmod(stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 0, or 1 with a line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("keep", "restore", "list"))
    parser.add_argument(
        "number",
        nargs="?",
        default="newest",
        help="which one to restore: its number, newest, or previous, the newest that is not live",
    )
    parser.add_argument("--live", type=Path, default=Path("/etc/nginx"), help="the folder that nginx reads")
    parser.add_argument("--kept", type=Path, required=True, help="the folder for those that are kept")
    parser.add_argument("--also", type=Path, action="append", default=[], help="a file elsewhere that belongs to it")
    parser.add_argument("--count", type=int, default=5, help="how many are kept")
    parser.add_argument("--nginx", default="/usr/sbin/nginx", help="the program that tests one before it is restored")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    given = parser.parse_args(arguments)
    # Nobody else looks into a copy before its owner and its mode are right.
    os.umask(0o077)
    configurations = Configurations(given.live, given.kept, tuple(given.also))
    try:
        answer = _do(given.action, configurations, given)
    except (ConfigurationsError, OSError) as error:
        sys.stderr.write(f"nginx_configurations: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _do(action: str, configurations: Configurations, given: argparse.Namespace) -> dict[str, object]:
    numbers = configurations.numbers()
    newest = max(numbers, default=0)
    if action == "list":
        return {"configurations": numbers, "live": [n for n in numbers if configurations.is_live(n)][-1:]}
    if action == "keep":
        if newest and configurations.is_live(newest):
            return {"changed": False, "number": newest}
        return {"changed": True, "number": newest + 1 if given.dry_run else configurations.keep(given.count)}
    number = configurations.number_of(given.number)
    configurations.check(number, given.nginx)
    changed = not configurations.is_live(number)
    if changed and not given.dry_run:
        configurations.restore(number)
    return {"changed": changed, "number": number}


if __name__ == "__main__":
    sys.exit(main())
