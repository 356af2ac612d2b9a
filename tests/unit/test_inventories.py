"""The inventories that the project ships: small, whole, and each of them renders."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from ansible.template import Templar
from ansible.vars.manager import VariableManager

from lab.rendered import read_plugins, render

TOP = Path(__file__).resolve().parents[2]
SHIPPED = ("lab", "local", "production", "staging")
EXAMPLE_PASSWORD = "seawall-example"
MOST_LINES = 20
VARIABLES = 'tree_images_files: ["{{ inventory_dir }}/images.yml"]\n'


def ansible_playbook(*arguments: str, password: Path | None = None) -> subprocess.CompletedProcess[str]:
    vault = {"ANSIBLE_VAULT_PASSWORD_FILE": str(password)} if password else {}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *arguments],
        cwd=TOP,
        env={**os.environ, **vault, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def variables(inventory: Path) -> dict[str, dict[str, Any]]:
    """Return what Ansible knows of each origin of *inventory*, without what roles say."""
    read_plugins()
    loader = DataLoader()
    loader.set_vault_secrets([("default", VaultSecret(EXAMPLE_PASSWORD.encode()))])
    hosts = InventoryManager(loader, sources=str(inventory / "hosts.yml"))
    known = VariableManager(loader, inventory=hosts)
    found = {}
    for host in hosts.get_hosts("origin"):
        row = known.get_vars(host=host)
        templar = Templar(loader, variables=row)
        found[host.name] = {name: templar.template(row[name]) for name in row if name.startswith(("origin_", "nginx_"))}
    return found


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vault") / "password"
    file.write_text(f"{EXAMPLE_PASSWORD}\n")
    return file


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "local"])
def test_an_inventory_is_a_directory_of_few_lines(name: str) -> None:
    """But for the one of `make up`, which says what each of its lines is for."""
    files = [path for path in (TOP / "inventory" / name).rglob("*.yml") if path.name not in {"images.yml", "vault.yml"}]
    assert (TOP / "inventory" / name / "hosts.yml") in files
    assert sum(len(path.read_text().splitlines()) for path in files) <= MOST_LINES


@pytest.mark.parametrize("name", SHIPPED)
def test_the_site_can_be_planned_for_it(name: str, password: Path) -> None:
    listed = ansible_playbook("-i", f"inventory/{name}", "site.yml", "--list-hosts", "--list-tasks", password=password)
    assert listed.returncode == 0, listed.stderr
    assert "WARNING" not in listed.stderr
    for host in InventoryManager(DataLoader(), sources=str(TOP / "inventory" / name / "hosts.yml")).get_hosts("origin"):
        assert host.name in listed.stdout


@pytest.mark.parametrize("name", SHIPPED)
def test_its_origins_can_be_rendered(name: str, tmp_path: Path) -> None:
    found = variables(TOP / "inventory" / name)
    assert found
    for host, row in found.items():
        render(tmp_path / host, tmp_path, row)
        for path in (tmp_path / host).rglob("*.conf"):
            assert "{{" not in path.read_text(), path


def test_the_example_of_a_vault_wants_its_password() -> None:
    inventory = TOP / "inventory/production"
    assert (inventory / "group_vars/all/vault.yml").read_text().startswith("$ANSIBLE_VAULT;")
    refused = ansible_playbook("-i", str(inventory), "playbooks/verify.yml", "--connection=local", "--check")
    assert "no vault secrets found" in refused.stdout + refused.stderr
    assert f"`{EXAMPLE_PASSWORD}`" in (TOP / "docs/inventories.md").read_text()
    assert len(variables(inventory)["origin1.example.com"]["origin_token_secret"]) >= 32


def test_what_the_example_hides_stands_nowhere_else() -> None:
    secret = next(iter(variables(TOP / "inventory/production").values()))["origin_token_secret"]
    found = subprocess.run(["git", "grep", "-l", secret], cwd=TOP, capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_a_new_environment_is_one_directory_of_twenty_lines(tmp_path: Path) -> None:
    hosts = ["all:", "  children:", "    origin:", "      hosts:", "        new1.example.com:"]
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "hosts.yml").write_text("\n".join(hosts))
    (tmp_path / "group_vars/all.yml").write_text(VARIABLES)
    (tmp_path / "images.yml").write_text("version: 1\nname: new\nimages: []\n")
    listed = ansible_playbook("-i", str(tmp_path), "site.yml", "--list-hosts", "--list-tasks")
    assert listed.returncode == 0, listed.stderr
    assert "new1.example.com" in listed.stdout
    assert "WARNING" not in listed.stderr
