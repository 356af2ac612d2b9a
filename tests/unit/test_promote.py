"""Promotion: production gets the lock that staging has proved, and no other. It touches no host."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
LOCK = """\
version: 1
name: site
images:
- source: docker://registry.example/app
  name: app
  tags:
    '1':
      digest: sha256:{digit}
      mediaType: application/vnd.oci.image.manifest.v1+json
      size: 500
"""
IMAGES = "version: 1\nname: site\nimages:\n- {source: 'docker://registry.example/app', name: app, tags: ['1']}\n"


class Sites:
    """Two inventories."""

    def __init__(self, folder: Path) -> None:
        self.staging, self.production = folder / "staging", folder / "production"
        for path in (self.staging, self.production):
            path.mkdir()
        (self.staging / "images.yml").write_text(IMAGES)
        self.pin("a")

    def pin(self, digit: str) -> None:
        (self.staging / "images.lock").write_text(LOCK.format(digit=digit * 64))

    def prove(self) -> None:
        digest = hashlib.sha256((self.staging / "images.lock").read_bytes()).hexdigest()
        says = {"lock": f"sha256:{digest}", "result": "holds", "by": "anna", "time": "2026-11-21T21:00:00Z"}
        (self.staging / "images.verified.yml").write_text(yaml.safe_dump(says))

    def promote(self, *options: str, target: Path | None = None) -> tuple[int, str]:
        command = [Path(sys.executable).with_name("ansible-playbook"), "playbooks/promote.yml", *options]
        command += ["-e", f"from={self.staging}", "-e", f"to={target or self.production}"]
        ran = subprocess.run(
            list(map(str, command)),
            cwd=TOP,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        print(ran.stdout)
        return ran.returncode, " ".join(ran.stdout.split())


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def test_what_nobody_proved_is_refused_and_so_is_another_lock_than_the_proved_one(sites: Sites) -> None:
    code, said = sites.promote()
    assert code != 0
    assert "nobody has proved" in said
    sites.prove()
    sites.pin("b")
    code, said = sites.promote()
    assert code != 0
    assert "what anna proved at 2026-11-21T21:00:00Z was sha256:" in said
    assert list(sites.production.iterdir()) == []


def test_a_proved_lock_is_taken_along_with_its_images_file_and_shown(sites: Sites) -> None:
    sites.prove()
    code, said = sites.promote("--check")
    assert (code, list(sites.production.iterdir())) == (0, []), said
    code, said = sites.promote()
    assert code == 0, said
    assert f"the first lock of {sites.production}" in said
    for name in ("images.yml", "images.lock"):
        assert (sites.production / name).read_bytes() == (sites.staging / name).read_bytes()
    sites.pin("b")
    sites.prove()
    code, said = sites.promote()
    assert code == 0, said
    assert "app:1" in said
    assert "bbbbbb" in said
    code, said = sites.promote()
    assert "changed=0" in said


def test_an_inventory_is_not_promoted_to_itself(sites: Sites) -> None:
    code, said = sites.promote(target=sites.staging)
    assert code != 0
    assert "give two folders" in said
