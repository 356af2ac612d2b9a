"""Configurations of nginx are kept whole, and come back whole."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "tools/nginx_configurations.py"
REFUSES_BROKEN = """#!/bin/sh
while [ $# -gt 1 ]; do shift; done
if grep -rqs broken "$(dirname "$1")"; then echo "nginx: unknown directive" >&2; exit 1; fi
"""


class Host:
    """A host's folder of nginx, a file elsewhere, and the program that keeps them."""

    def __init__(self, folder: Path) -> None:
        self.live = folder / "etc/nginx"
        self.also = folder / "tree/private"
        self.kept = folder / "state/kept"
        self.nginx = folder / "nginx"
        (self.live / "seawall").mkdir(parents=True)
        self.also.parent.mkdir()
        self.write("one")
        self.nginx.write_text(REFUSES_BROKEN)
        self.nginx.chmod(0o755)

    def write(self, text: str) -> None:
        (self.live / "nginx.conf").write_text(text)
        (self.live / "seawall/origin.conf").write_text(text)

    def run(self, *words: str, code: int = 0) -> Any:
        options = (f"--live={self.live}", f"--kept={self.kept}", f"--also={self.also}", f"--nginx={self.nginx}")
        command = [sys.executable, "-I", str(PROGRAM), *words, *options]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ran.returncode == code, ran.stderr
        return json.loads(ran.stdout) if code == 0 else ran.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_one_that_is_kept_already_is_not_kept_again(host: Host) -> None:
    assert host.run("keep", "--dry-run") == {"changed": True, "number": 1}
    assert not host.kept.exists()
    assert host.run("keep") == {"changed": True, "number": 1}
    assert host.run("keep") == {"changed": False, "number": 1}
    (host.live / "nginx.conf").touch()
    assert host.run("keep") == {"changed": False, "number": 1}, "its time says nothing"
    host.write("two")
    assert host.run("keep") == {"changed": True, "number": 2}
    assert host.kept.stat().st_mode & 0o777 == 0o700
    assert host.kept.parent.stat().st_mode & 0o777 == 0o755, "others keep there what workers read"


def test_all_of_it_comes_back_with_modes_and_links(host: Host) -> None:
    secrets = host.live / "seawall-private"
    secrets.mkdir(mode=0o710)
    (secrets / "tokens.conf").write_text("secret")
    (secrets / "tokens.conf").chmod(0o600)
    (host.live / "modules").symlink_to("/usr/share/nginx")
    host.also.write_text("team-a\n")
    host.run("keep")
    (secrets / "tokens.conf").unlink()
    secrets.rmdir()
    (host.live / "modules").unlink()
    (host.live / "modules").mkdir()
    (host.live / "modules/more.conf").write_text("more")
    (host.live / "seawall/more.conf").write_text("more")
    host.also.unlink()
    host.write("two")
    assert host.run("restore", "--dry-run") == {"changed": True, "number": 1}
    assert (host.live / "nginx.conf").read_text() == "two"
    assert host.run("restore") == {"changed": True, "number": 1}
    assert (host.live / "nginx.conf").read_text() == "one"
    assert (secrets / "tokens.conf").read_text() == "secret"
    assert (secrets.stat().st_mode & 0o777, (secrets / "tokens.conf").stat().st_mode & 0o777) == (0o710, 0o600)
    assert (host.live / "modules").readlink() == Path("/usr/share/nginx")
    assert not (host.live / "seawall/more.conf").exists()
    assert host.also.read_text() == "team-a\n"
    assert sorted(path.name for path in host.live.rglob(".*")) == []
    assert host.run("restore") == {"changed": False, "number": 1}


def test_a_file_that_was_not_there_is_gone_again(host: Host) -> None:
    host.run("keep")
    host.also.write_text("team-a\n")
    assert host.run("keep") == {"changed": True, "number": 2}
    host.run("restore", "1")
    assert not host.also.exists()
    assert host.run("list") == {"configurations": [1, 2], "live": [1]}


def test_a_mode_is_a_change(host: Host) -> None:
    host.run("keep")
    (host.live / "nginx.conf").chmod(0o600)
    assert host.run("keep") == {"changed": True, "number": 2}
    host.run("restore", "1")
    assert (host.live / "nginx.conf").stat().st_mode & 0o777 == 0o644


def test_only_so_many_are_kept(host: Host) -> None:
    for number in range(1, 6):
        host.write(str(number))
        host.run("keep", "--count=3")
    assert host.run("list") == {"configurations": [3, 4, 5], "live": [5]}


def test_one_that_nginx_refuses_is_not_restored(host: Host) -> None:
    host.write("broken")
    host.run("keep")
    host.write("two")
    assert "nginx refuses configuration 1: nginx: unknown directive" in host.run("restore", "1", code=1)
    assert (host.live / "nginx.conf").read_text() == "two"


def test_one_that_is_not_there_is_refused_with_those_that_are(host: Host) -> None:
    assert "there is no newest configuration" in host.run("restore", code=1)
    host.run("keep")
    assert "there is no previous configuration" in host.run("restore", "previous", code=1)
    assert "yesterday is no configuration" in host.run("restore", "yesterday", code=1)
    host.write("two")
    host.run("keep")
    assert host.run("restore", "previous", "--dry-run") == {"changed": True, "number": 1}
    assert "there is no configuration 7" in host.run("restore", "7", code=1)
    assert "there is 1, 2" in host.run("restore", "7", code=1)


def test_what_a_run_that_was_killed_left_is_no_configuration(host: Host) -> None:
    (host.kept / ".incoming-x").mkdir(parents=True)
    assert host.run("keep") == {"changed": True, "number": 1}
    assert [path.name for path in host.kept.iterdir()] == ["1"]
