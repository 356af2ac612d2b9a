"""site.yml on a site of several hosts, over ssh: it rehearses truthfully, does its work once, and then nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.rollout import TOP, Rollout, Run
from lab.command import run
from lab.host import Host
from lab.images import Sample
from lab.load import Wanted, load
from lab.site import ACCOUNT, Site
from sites.rolled import ORIGIN_URLS, Rolled

CONFIGURATION = ("templates/nginx", "roles/origin", "roles/nginx_base")


def test_a_rehearsal_on_bare_hosts_names_what_there_is_to_do(rehearsed: Run) -> None:
    """Runs first: the others ask for hosts that were rolled out to."""
    assert rehearsed.code == 0, rehearsed.output
    assert rehearsed.changed > 0
    assert "would install logrotate, nginx, nginx-common" in rehearsed.output


def test_the_rollout_came_as_an_account_without_rights_of_its_own(rolled: Rolled, site: Site) -> None:
    whoami = ["ssh", "-F", str(site.ssh_config), "origin1", "id -un; sudo id -un"]
    assert subprocess.run(whoami, check=True, capture_output=True, text=True).stdout.split() == [ACCOUNT, "root"]


def test_a_new_environment_of_twenty_lines_is_looked_at_by_preflight(
    rolled: Rolled, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "hosts.yml").write_text("all:\n  children:\n    origin:\n      hosts:\n        origin1:\n")
    ssh = f"ansible_user: {ACCOUNT}\nansible_ssh_common_args: -F {site.ssh_config}\ntree_update_lock: true\n"
    (tmp_path / "group_vars/all.yml").write_text(ssh + 'tree_images_files: ["{{ inventory_dir }}/images.yml"]\n')
    (tmp_path / "images.yml").write_text("version: 1\nname: new\nimages: []\n")
    lines = sum(len(path.read_text().splitlines()) for path in tmp_path.rglob("*.yml") if path.stem != "images")
    assert lines <= 20
    looked = Rollout(tmp_path, rolled.rollout.engine).play("playbooks/preflight.yml")
    assert (looked.code, looked.changed) == (0, 0), looked.output


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkout as it was before the configuration of origins changed last."""
    git = ["git", "-C", str(TOP)]
    last = subprocess.run(
        [*git, "log", "-1", "--format=%H", "--", *CONFIGURATION], capture_output=True, text=True, check=False
    ).stdout.strip()
    folder = tmp_path_factory.mktemp("previous") / "checkout"
    made = subprocess.run(
        [*git, "worktree", "add", "--detach", str(folder), f"{last}^"], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"this checkout has no history: {made.stderr.strip()}")
    yield folder
    subprocess.run([*git, "worktree", "remove", "--force", str(folder)], check=True)


def test_an_upgrade_from_the_previous_configuration_fails_no_pull(
    rolled: Rolled, previous: Path, wanted: list[Wanted], origins: list[Host]
) -> None:
    def configuration() -> list[str]:
        return [host.run("sh", "-c", "cat /etc/nginx/nginx.conf /etc/nginx/seawall/*").stdout for host in origins]

    present = configuration()
    with pytest.MonkeyPatch.context() as environment:
        # Which says where roles are.
        environment.setenv("ANSIBLE_CONFIG", str(previous / "ansible.cfg"))
        # Whatever that commit changed, one value more makes it another configuration.
        older = ("--extra-vars", "origin_tag_max_age=61")
        downgrade = rolled.rollout.play(str(previous / "playbooks/origin.yml"), *older)
    assert downgrade.code == 0, downgrade.output
    assert configuration() != present
    # No balancer may stand between: its checks are for the present configuration.
    with load(ORIGIN_URLS, wanted) as tally:
        upgrade = rolled.rollout.play("playbooks/origin.yml")
    assert upgrade.code == 0, upgrade.output
    assert upgrade.changed > 0
    assert configuration() == present
    assert tally.requests.tried > 100
    assert tally.failed == []


def test_a_second_run_changes_nothing(rolled: Rolled) -> None:
    again = rolled.rollout.play("site.yml", "--diff")
    assert (again.code, again.changed) == (0, 0), again.output


def test_a_rehearsal_on_converged_hosts_finds_nothing_to_do(rolled: Rolled) -> None:
    rehearsal = rolled.rollout.play("site.yml", "--check", "--diff")
    assert (rehearsal.code, rehearsal.changed) == (0, 0), rehearsal.output


def test_the_installed_collection_does_what_the_checkout_does(
    rolled: Rolled, site: Site, tmp_path: Path, images: tuple[Sample, ...]
) -> None:
    galaxy = [str(Path(sys.executable).with_name("ansible-galaxy")), "collection"]
    run([*galaxy, "build", str(TOP), "--output-path", str(tmp_path)])
    run([*galaxy, "install", str(next(tmp_path.glob("*.tar.gz"))), "--offline", "--no-deps", "-p", str(tmp_path)])
    play = {
        "name": "Use the roles alone",
        "hosts": "origin2",
        "become": True,
        "gather_facts": False,
        "roles": [f"seawall.seawall.{name}" for name in ("nginx_base", "origin", "tree")],
        "tasks": [
            {
                "name": "Apply the locks",
                "ansible.builtin.import_role": {"name": "seawall.seawall.tree", "tasks_from": "publish"},
            }
        ],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ANSIBLE_COLLECTIONS_PATH", str(tmp_path))
        environment.setenv("ANSIBLE_ROLES_PATH", str(tmp_path / "none"))
        ran = rolled.rollout.play(str(tmp_path / "play.yml"))
    assert (ran.code, ran.changed) == (0, 0), ran.output
    assert "seawall.seawall.origin : " in ran.output
