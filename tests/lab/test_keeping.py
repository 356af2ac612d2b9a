"""`make lab`: a lab that a person keeps, in the engine that answers or in a sandbox, and that `down` removes whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .base import Image
from .command import run
from .engine import Engine

pytest_plugins = ["lab.fixtures"]

TOP = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Keeping:
    """The program with a state of its own, in an environment with an engine or without one."""

    state: Path
    env: dict[str, str]

    def __call__(self, *arguments: str, check: bool = True) -> str:
        env = {**self.env, "SEAWALL_LAB_STATE": str(self.state), "PYTHONPATH": str(TOP / "tests")}
        done = run([sys.executable, "-m", "lab", *arguments], env=env, check=check, seconds=600)
        return done.stdout + done.stderr

    def ssh(self, name: str, command: str) -> str:
        return self("run", "ssh", "-F", f"{self.state}/ssh_config", name, command)


def everything(engine: Engine) -> list[list[str]]:
    """All that an engine has, by its id."""
    kinds = (("ps", "--all"), ("network", "ls"), ("images",), ("volume", "ls"))
    return [sorted(engine.docker(*kind, "--quiet").split()) for kind in kinds]


@pytest.fixture(params=["engine", "sandbox"])
def lab(
    request: pytest.FixtureRequest, engine: Engine, bare_image: Image, lab_folder: Path, tmp_path: Path
) -> Iterator[Keeping]:
    """A lab of one machine; with an engine, one that lets the engine build its image on Debian's own."""
    if request.param == "sandbox":
        kept = Keeping(tmp_path / "state", {**os.environ, "DOCKER_HOST": "unix:///nowhere"})
        kept("up", "--bare", "--only=origin1")
        yield kept
    else:
        before = everything(engine)
        kept = Keeping(tmp_path / "state", {**engine.env, "SEAWALL_LAB_BASE": bare_image.reference})
        kept("up", "--bare", "--only=origin1")
        yield kept
        assert everything(engine) == before
    assert not kept.state.exists()


def test_a_lab_can_be_kept_entered_and_removed(lab: Keeping) -> None:
    try:
        assert "origin1" in lab("status")
        assert lab.ssh("origin1", "id -un; sudo id -un; hostname").split() == ["deploy", "root", "origin1"]
        lab("up", "--bare", "--only=origin1")
        assert lab.ssh("origin1", "hostname") == "origin1\n"
    finally:
        assert "The lab is gone." in lab("down")
    assert "There is no lab." in lab("down")
    assert "there is no lab: make lab" in lab("status", check=False)
