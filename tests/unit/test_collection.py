"""The roles as a collection: built from the checkout, installed without a network, whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import seawall

TOP = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (TOP / "roles").iterdir() if path.is_dir())


def ansible(program: str, *arguments: str | Path, collections: Path) -> str:
    ran = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=collections,  # where no ansible.cfg lies
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections in which there is ours and nothing else."""
    folder = tmp_path_factory.mktemp("collections")
    ansible("ansible-galaxy", "collection", "build", TOP, "--output-path", folder, collections=folder)
    built = folder / f"seawall-seawall-{seawall.__version__}.tar.gz"
    # What it depends on is in the controller's package of Ansible.
    options = ("--offline", "--no-deps", "-p", folder)
    ansible("ansible-galaxy", "collection", "install", built, *options, collections=folder)
    return folder


@pytest.fixture(scope="module")
def installed(collections: Path) -> Path:
    return collections / "ansible_collections/seawall/seawall"


def test_the_collection_has_all_that_roles_read_and_nothing_of_a_site(installed: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, check=True, capture_output=True, text=True).stdout
    wanted = {name for name in tracked.split("\0") if name.startswith(("roles/", "templates/", "tools/", "playbooks/"))}
    there = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert wanted <= there
    assert {name.split("/")[0] for name in there - wanted} <= {
        *(
            "FILES.json",
            "LICENSE",
            "MANIFEST.json",
            "README.md",
            "docs",
            "meta",
            "roles",
            "templates",
            "tools",
            "playbooks",
        )
    }


def test_every_role_can_be_named_by_its_full_name(collections: Path) -> None:
    play = [
        {
            "name": "Use every role",
            "hosts": "localhost",
            "gather_facts": False,
            "roles": [f"seawall.seawall.{name}" for name in ROLES],
        }
    ]
    (collections / "play.yml").write_text(yaml.safe_dump(play))
    listed = ansible("ansible-playbook", "play.yml", "-i", "localhost,", "--list-tasks", collections=collections)
    for name in ROLES:
        assert f"seawall.seawall.{name} : " in listed


def test_the_collection_has_the_tool_s_version_and_asks_for_what_roles_use() -> None:
    galaxy = yaml.safe_load((TOP / "galaxy.yml").read_text())
    assert galaxy["version"] == seawall.__version__
    files = (*(TOP / "roles").rglob("*.yml"), *(TOP / "playbooks").glob("*.yml"))
    named = r"\b(community\.\w+|ansible\.(?:posix|utils))\.\w"
    used = {name for path in files for name in re.findall(named, path.read_text())}
    assert used == set(galaxy["dependencies"])
