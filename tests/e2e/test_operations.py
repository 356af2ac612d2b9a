"""A host that looks after its tree by itself, tells monitoring what it is at, and lets in who is wanted."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from e2e.exposure import assert_exposed_as_stated
from e2e.rollout import TOP, Rollout, Run
from lab.command import run
from lab.host import Host
from lab.network import Namespace, Network

ADDRESS = "198.18.0.11"
MONITORING = "198.18.0.201"
PLAYBOOKS = ("playbooks/maintenance.yml", "playbooks/monitoring.yml", "playbooks/firewall.yml")
FILES = TOP / "roles/monitoring/files"
VARIABLES = {
    "monitoring_enabled": True,
    "monitoring_listen_address": "0.0.0.0",
    "maintenance_prune_in_use": ["/etc/seawall/in-use"],
    "firewall_state": "present",
    "firewall_tcp_ports": [80],
    "firewall_monitoring_from": [MONITORING],
}
SERVICES = (
    "seawall-prune.service",
    "seawall-verify.service",
    "seawall-firewall.service",
    "prometheus-node-exporter.service",
    "prometheus-nginx-exporter.service",
)


def play(rollout: Rollout, *options: str, **variables: Any) -> Run:
    return rollout.play(*PLAYBOOKS, "--extra-vars", json.dumps(VARIABLES | variables), *options)


@pytest.fixture(scope="module")
def operated(provisioned: Run, rollout: Rollout, host: Host) -> Iterator[Run]:
    host.run("tee", "/etc/seawall/in-use", stdin="# nothing\n")
    # What others made has to stay as it is.
    others = "table inet others { chain input { type filter hook input priority 10; tcp dport 23 drop; }; }"
    rehearsal = play(rollout, "--check", "--diff")
    assert rehearsal.code == 0, rehearsal.output
    assert rehearsal.changed > 0
    assert "seawall-firewall" not in host.run("ls", "/etc/systemd/system").stdout, "it is to do nothing"
    ran = play(rollout)
    assert ran.code == 0, ran.output
    host.run("nft", others)
    yield ran
    ran = play(rollout, maintenance_state="absent", firewall_state="absent")
    assert ran.code == 0, ran.output
    left = host.run("sh", "-c", "ls /etc/systemd/system /etc/nftables.d /var/lib/prometheus/node-exporter").stdout
    assert "seawall-" not in left
    assert "seawall.nft" not in left
    tables = host.run("nft", "list", "tables").stdout
    assert "inet others" in tables
    assert "inet seawall" not in tables
    host.run("nft", "delete", "table", "inet", "others")
    # The host is everybody's: it is left as the site has it.
    assert rollout.play("playbooks/maintenance.yml").code == 0


@pytest.fixture(scope="module")
def monitoring(lab_network: Network) -> Iterator[Namespace]:
    """A machine from which monitoring asks."""
    namespace = Namespace.attach("monitoring", MONITORING, lab_network)
    yield namespace
    namespace.detach()


def test_a_second_run_changes_nothing(operated: Run, rollout: Rollout) -> None:
    assert play(rollout).changed == 0


# --- timers ---------------------------------------------------------------------------------------------------------


def metrics(host: Host, job: str) -> dict[str, float]:
    text = host.run("cat", f"/var/lib/prometheus/node-exporter/seawall_{job}.prom").stdout
    return {name: float(value) for name, value in re.findall(r"^seawall_\w+?_(\w+)\{.*\} (\S+)$", text, re.MULTILINE)}


def start(host: Host, job: str) -> int:
    """Run the service of *job* now; return the code that it ended with."""
    host.run("systemctl", "start", f"seawall-{job}.service", check=False, seconds=120)
    shown = host.run("systemctl", "show", "--property=ExecMainStatus", f"seawall-{job}.service").stdout
    print(host.run("journalctl", "--no-pager", "--lines=10", f"--unit=seawall-{job}").stdout)
    return int(shown.strip().partition("=")[2])


def test_timers_wait_for_their_time(operated: Run, host: Host) -> None:
    for job in ("prune", "verify"):
        timer = f"seawall-{job}.timer"
        assert host.run("systemctl", "is-active", timer).stdout == "active\n"
        assert host.run("systemctl", "is-enabled", timer).stdout == "enabled\n"
        assert "n/a" not in host.run("systemctl", "show", "--property=NextElapseUSecRealtime", timer).stdout


def test_a_prune_says_how_it_went(operated: Run, host: Host) -> None:
    assert start(host, "prune") == 0
    said = metrics(host, "prune")
    # The tree is everybody's here, and all of it is young.
    assert (said["exit_code"], said["freed_bytes"]) == (0, 0)
    assert said["last_success_timestamp_seconds"] == said["last_run_timestamp_seconds"]


def test_a_prune_that_fails_is_seen(operated: Run, host: Host) -> None:
    well = metrics(host, "prune")
    host.run("truncate", "--size=0", "/etc/seawall/in-use")
    assert start(host, "prune") == 3
    said = metrics(host, "prune")
    assert said["exit_code"] == 3
    assert said["last_success_timestamp_seconds"] == well["last_success_timestamp_seconds"]
    assert host.run("systemctl", "is-failed", "seawall-prune.service").stdout == "failed\n"
    host.run("tee", "/etc/seawall/in-use", stdin="# nothing\n")
    assert start(host, "prune") == 0


def test_a_broken_file_is_counted(operated: Run, host: Host) -> None:
    assert start(host, "verify") == 0
    assert metrics(host, "verify")["faults"] == 0
    blob = host.run("sh", "-c", "find /srv/seawall/content/blobs -type f | head -n 1").stdout.strip()
    host.run("cp", "--preserve=all", blob, "/root/whole")
    host.run("sh", "-c", f"echo >> {blob}")
    try:
        assert start(host, "verify") == 1
        said = metrics(host, "verify")
    finally:
        host.run("mv", "/root/whole", blob)
    assert said["faults"] > 0
    assert start(host, "verify") == 0


# --- monitoring -----------------------------------------------------------------------------------------------------


def ask(monitoring: Namespace, url: str) -> str:
    enter = ("ip", "netns", "exec", monitoring.name)
    return run([*enter, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", url]).stdout


def told(text: str) -> set[str]:
    """The names of the metrics in *text*."""
    return set(re.findall(r"^([a-z_0-9]+)(?:\{.*\})? \S+$", text, re.MULTILINE))


def expressions() -> list[str]:
    """What the alerts and the dashboard ask of Prometheus."""
    groups = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    asked = [rule["expr"] for group in groups for rule in group["rules"]]
    return asked + [target["expr"] for panel in panels for target in panel["targets"]]


def test_alerts_and_dashboard_ask_for_what_the_exporters_tell(operated: Run, host: Host, monitoring: Namespace) -> None:
    for job in ("prune", "verify"):
        assert start(host, job) == 0
    said = told(ask(monitoring, f"http://{ADDRESS}:9100/metrics")) | told(
        ask(monitoring, f"http://{ADDRESS}:9113/metrics")
    )
    asked = {name for text in expressions() for name in re.findall(r"\b(?:nginx|node|seawall)_[a-z_0-9]+", text)}
    asked -= {"seawall_origins"}
    assert len(asked) > 10
    assert asked <= said
    assert "nginx_up 1" in ask(monitoring, f"http://{ADDRESS}:9113/metrics").splitlines()


def test_nginx_tells_nobody_else(operated: Run, host: Host) -> None:
    assert "127.0.0.1:8406" in host.run("ss", "-Hltn").stdout
    answer = requests.get(f"http://{ADDRESS}/status", timeout=10)
    assert answer.status_code == 404


def test_promtool_holds_the_rules_to_be_right(tmp_path: Path) -> None:
    run(["promtool", "check", "rules", str(FILES / "alerts.yml")])
    run(["promtool", "test", "rules", str(TOP / "tests/e2e/alerts.yml")])
    # The dashboard's expressions, as rules: promtool reads no dashboards.
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run(["promtool", "check", "rules", str(file)])


# --- firewall -------------------------------------------------------------------------------------------------------


def is_open(port: int) -> bool:
    try:
        socket.create_connection((ADDRESS, port), timeout=2).close()
    except TimeoutError:
        return False
    return True


def test_only_who_is_wanted_gets_in(operated: Run, host: Host, monitoring: Namespace) -> None:
    assert is_open(22)
    assert requests.get(f"http://{ADDRESS}/v2/lab/layers/manifests/1.0", timeout=10).status_code == 200
    assert "node_load1" in ask(monitoring, f"http://{ADDRESS}:9100/metrics")
    # They listen on every address; this machine is not monitoring.
    assert not is_open(9100)
    assert not is_open(9113)


def test_what_others_made_is_left_and_nothing_waits_to_be_taken_back(operated: Run, host: Host) -> None:
    host.run("systemctl", "reload", "seawall-firewall")
    assert {"table inet seawall", "table inet others"} <= set(host.run("nft", "list", "tables").stdout.splitlines())
    assert "seawall-firewall-undo" not in host.run("systemctl", "list-timers", "--all", "--no-pager").stdout


def test_rules_that_nft_refuses_never_take_their_place(operated: Run, rollout: Rollout, host: Host) -> None:
    before = host.run("cat", "/etc/nftables.d/seawall.nft").stdout
    ran = rollout.play(
        "playbooks/firewall.yml",
        "--extra-vars",
        json.dumps(VARIABLES | {"firewall_clients": ["10.0.0.0/99"]}),
    )
    assert ran.code != 0
    assert host.run("cat", "/etc/nftables.d/seawall.nft").stdout == before


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_are_exposed_no_more_than_is_said(service: str, operated: Run, host: Host) -> None:
    assert_exposed_as_stated(host, service)
