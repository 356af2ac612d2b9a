"""A site in a folder, on which the tests run the tool as a person would."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from seawall.cli import main
from seawall.tree import Tree
from unit.fake_registry import FakeRegistry


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


class Site:
    """A folder with an images file, a lock and a tree."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.images_file = folder / "images.yml"
        self.lock_file = folder / "images.lock"
        self.root = folder / "tree"
        self._capsys = capsys

    @property
    def tree(self) -> Tree:
        return Tree(self.root)

    def run(self, *arguments: object) -> Ran:
        """Run the command line in this process."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    def start(self, *arguments: object, stdin: bool = False) -> subprocess.Popen[bytes]:
        """Start the command line in a process of its own."""
        command = [sys.executable, "-m", "seawall", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(Path(sys.modules["seawall"].__path__[0]).parent)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment, stdin=pipe if stdin else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def declare(self, *entries: dict[str, Any], name: str = "site") -> None:
        """Write the images file."""
        document = {"version": 1, "name": name, "images": list(entries)}
        self.images_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def lock(self, *options: str) -> Ran:
        return self.run("lock", self.images_file, "--json", *options)

    def sync(self, *options: str) -> Ran:
        return self.run("sync", self.lock_file, self.root, "--json", *options)

    def publish(self, *entries: dict[str, Any], name: str = "site") -> Ran:
        """Declare, lock with an upgrade, and sync; each must succeed."""
        self.declare(*entries, name=name)
        locked = self.lock("--upgrade")
        assert locked.code == 0, locked.err
        synced = self.sync()
        assert synced.code == 0, synced.err
        return synced

    def scrubbed(self) -> list[dict[str, str]]:
        """Return what ``verify`` finds wrong with the tree."""
        ran = self.run("verify", self.root, "--json")
        findings: list[dict[str, str]] = ran.answer["findings"]
        assert ran.code == (1 if findings else 0)
        return findings

    def tags(self) -> dict[str, str]:
        """Return every tag of the tree with its digest."""
        return {str(reference): str(stored.digest) for reference, stored in self.tree.references() if stored}


def entry(registry: FakeRegistry, repository: str, *tags: Any, name: str = "") -> dict[str, Any]:
    """Return an entry of an images file for *repository* of *registry*."""
    return {
        "source": f"docker://{registry.host}/{repository}",
        "name": name or f"up.example/{repository}",
        "tags": list(tags),
        "plain_http": True,
    }
