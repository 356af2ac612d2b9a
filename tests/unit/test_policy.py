"""The project's own rules for its playbooks, roles and templates."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from seawall.media_type import MANIFEST_KINDS

TOP = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (TOP / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((TOP / "playbooks").glob("*.yml"))
TIERS = [path for path in PLAYBOOKS if path.stem not in {"preflight", "promote"}]
AT_ONCE = {
    "Want to be told what to go back to",
    "Bring the tags back to how they were",
    "Write down what was proved",
}
"""Plays without batches: a rollback is to take seconds, and the others change no host."""
SERIAL = "{{ rollout_serial | default([1, '25%', '100%']) }}"
TASK_FILES = [
    path
    for folder in ("roles/*/tasks", "roles/*/handlers", "playbooks/tasks")
    for path in sorted(TOP.glob(f"{folder}/*.yml"))
]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(TOP))


def tasks_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return *rows* and all tasks in their blocks."""
    found = []
    for row in rows:
        found.append(row)
        for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            found += tasks_of(row.get(part, []))
    return found


def test_the_top_folder_is_as_the_owner_fixed_it() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=TOP, check=True, capture_output=True, text=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    folders = {"docs", "inventory", "playbooks", "roles", "templates", "tests", "tools"}
    files = {"LICENSE", "Makefile", "README.md", "ansible.cfg", "pyproject.toml", "site.yml"}
    of_the_collection = {"galaxy.yml", "meta"}
    assert top == folders | files | of_the_collection | {"requirements.in", "requirements.txt"}


def test_the_site_holds_imports_only() -> None:
    for play in read(TOP / "site.yml"):
        assert set(play) == {"name", "ansible.builtin.import_playbook"}


def test_every_part_of_the_site_can_be_chosen_by_its_name_as_a_tag() -> None:
    for part in read(TOP / "site.yml"):
        playbook = TOP / part["ansible.builtin.import_playbook"]
        for play in read(playbook):
            assert play.get("tags") == [playbook.stem], f"{playbook}: {play['name']}"


@pytest.mark.parametrize("playbook", TIERS, ids=name_of)
def test_every_tier_is_rolled_out_in_batches_and_fails_fast(playbook: Path) -> None:
    for play in read(playbook):
        assert play["any_errors_fatal"] is True
        if play["name"] not in AT_ONCE:
            assert play["serial"] in (SERIAL, [1, "25%", "100%"])
            rescues = any("rescue" in task for task in tasks_of([play]))
            # Beside it a rescue ends after its first task: docs/decisions/0019-rolling.md.
            assert play.get("max_fail_percentage") == (None if rescues else 0)


@pytest.mark.parametrize("name", ["origin", "edge", "endpoint"])
def test_a_play_imports_the_roles_of_its_handlers_in_the_order_in_which_these_are_to_run(name: str) -> None:
    last: dict[str, int] = {}
    for play in read(TOP / f"playbooks/{name}.yml"):
        for number, task in enumerate(tasks_of([play])):
            role = task.get("ansible.builtin.import_role", {}).get("name")
            last[role] = number
    assert last["rolling"] < last["nginx_base"] < last[name]


@pytest.mark.parametrize("name", ["origin", "edge", "endpoint"])
def test_a_host_goes_back_by_itself_when_its_configuration_does_not_serve(name: str) -> None:
    for play in read(TOP / f"playbooks/{name}.yml"):
        assert [set(task) for task in play["tasks"]] == [{"name", "block", "rescue"}]


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_defaults_and_argument_specs_agree(role: Path) -> None:
    defaults = read(role / "defaults/main.yml") or {}
    for entry, spec in read(role / "meta/argument_specs.yml")["argument_specs"].items():
        options = spec.get("options", {})
        known = {name: option.get("default") for name, option in options.items() if "default" in option}
        assert {name: defaults.get(name) for name in known} == known, entry
        if entry == "main":
            assert set(options) == set(defaults)


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_every_role_says_what_it_is(role: Path) -> None:
    assert (role / "README.md").read_text().startswith(f"# {role.name}\n")
    assert read(role / "meta/main.yml")["galaxy_info"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_public_variables_carry_the_name_of_their_role(role: Path) -> None:
    for name in read(role / "defaults/main.yml") or {}:
        assert name.startswith(f"{role.name}_")
    for path in role.glob("vars/*.yml"):
        assert all(name.startswith(f"__{role.name}_") for name in read(path))


@pytest.mark.parametrize("path", TASK_FILES + PLAYBOOKS, ids=name_of)
def test_no_failure_is_ignored_and_no_shell_is_used(path: Path) -> None:
    for task in tasks_of(read(path)):
        assert "ignore_errors" not in task
        assert "ansible.builtin.shell" not in task
        assert "ansible.builtin.lineinfile" not in task
        assert task.get("name"), task


@pytest.mark.parametrize("path", TASK_FILES, ids=name_of)
def test_tasks_of_a_sub_file_say_where_they_are(path: Path) -> None:
    if path.stem != "main":
        for task in tasks_of(read(path)):
            assert task["name"].startswith(f"{path.stem} | "), task["name"]


def test_roles_know_no_host_groups() -> None:
    for path in TASK_FILES:
        assert not re.search(r"\bgroups\s*\[|\bgroup_names\b", path.read_text()), path


def test_the_media_types_stand_in_one_place() -> None:
    for path in [*(TOP / "templates").rglob("*.j2"), *(TOP / "roles").rglob("*.yml")]:
        assert not any(kind.media_type in path.read_text() for kind in MANIFEST_KINDS), path


def test_every_way_into_a_repository_is_guarded_before_the_tree_is_looked_at() -> None:
    folder = TOP / "templates/nginx"
    ways = [way for way in (folder / "origin.conf.j2").read_text().split("\n    location ") if "/$repo" in way]
    assert len(ways) >= 4
    for way in ways:
        assert 0 < way.find("{% include 'snippets/repository.conf.j2'") < way.index("{{ __origin_tree }}"), way
    snippet = (folder / "snippets/repository.conf.j2").read_text()
    assert 0 < snippet.find("{% include 'snippets/guard.conf.j2'") < snippet.index("{{ __origin_tree }}")


def test_ci_calls_the_readmes_test_command_and_hides_nothing() -> None:
    text = (TOP / ".ci/run").read_text()
    assert "make test" in text
    assert "make test" in (TOP / "README.md").read_text()
    assert "|| true" not in text + (TOP / "Makefile").read_text()


@pytest.mark.parametrize("folder", [".", "tools", "tests"])
def test_requirements_are_pinned_and_hashed_and_name_no_index(folder: str) -> None:
    text = (TOP / folder / "requirements.txt").read_text()
    assert "--hash=sha256:" in text
    assert not re.search(r"index-url|find-links|https?://|file:", text)


def test_the_tool_has_the_same_versions_everywhere() -> None:
    pinned = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (TOP / path / "requirements.txt").read_text(), re.MULTILINE))
        for path in ("tools", ".", "tests")
    ]
    for name, version in pinned[0].items():
        assert {found[name] for found in pinned} == {version}, name
