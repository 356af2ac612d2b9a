"""The role `client`: the engines of two Debian releases pull from the origin, and from nobody else."""

import json
from collections.abc import Iterator

import pytest
import yaml

from e2e.rollout import Rollout, Run, make_inventory, write_variables
from lab.host import Host
from lab.images import Samples
from lab.upstream import Upstream

ORIGIN = "http://198.18.0.11"
DEAD = "http://198.18.0.1:9"
"""An endpoint at which nobody answers."""
OF_A_PERSON = {"log-level": "warn", "registry-mirrors": ["http://198.18.0.1:10"]}
"""What stood in daemon.json before, and has to stand there in the end."""


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def client(request: pytest.FixtureRequest) -> Host:
    """A machine with Docker, containerd and podman, and with settings of Docker's that a person made."""
    machine: Host = request.getfixturevalue(f"client_{request.param}")
    machine.run("tee", "/etc/docker/daemon.json", stdin=json.dumps(OF_A_PERSON))
    machine.run("systemctl", "restart", "docker")
    return machine


@pytest.fixture(scope="module")
def site(client: Host, tmp_path_factory: pytest.TempPathFactory) -> Rollout:
    """The inventory of that machine."""
    folder = tmp_path_factory.mktemp("clients")
    return Rollout(make_inventory(folder, client, {}, group="client"), client.engine)


def declare(site: Rollout, **variables: object) -> None:
    write_variables(site.inventory, variables)


@pytest.fixture(scope="module")
def settled(site: Rollout, client: Host, url: str, host: Host, upstream: Upstream, samples: Samples) -> Iterator[Run]:
    """The machine, set up to pull the images of Docker Hub from the origin and from nowhere else."""
    image = samples.layers
    host.run(
        *("runuser", "-u", "seawall", "--"),
        *("seawall", "add", "/srv/seawall", f"docker://{image.upstream}/{image.repository}:{image.tag}"),
        *(f"docker.io/{image.repository}", "--plain-http"),
    )
    declare(
        site,
        client_engines=["docker", "containerd", "podman"],
        client_endpoints=[{"url": DEAD}, {"url": ORIGIN}],
        client_namespaces=[{"name": "docker.io", "fallback": False}, {"name": "quay.io"}],
    )
    rehearsal = site.play("playbooks/client.yml", "--check", "--diff")
    assert rehearsal.code == 0, rehearsal.output
    assert rehearsal.changed > 0
    assert json.loads(client.run("cat", "/etc/docker/daemon.json").stdout) == OF_A_PERSON
    run = site.play("playbooks/client.yml")
    assert run.code == 0, run.output
    # From here on the machine has no way out of the lab, and notes who wants one.
    client.run("iptables", "-I", "OUTPUT", "!", "-d", "198.18.0.0/24", "!", "-o", "lo", "-j", "REJECT")
    yield run
    # Other tests of this origin want to know that it has no such name.
    name = f"docker.io/{image.repository}:{image.tag}"
    host.run("runuser", "-u", "seawall", "--", "seawall", "rm", "/srv/seawall", name)


def attempts(client: Host) -> int:
    """How many packets the machine wanted to send out of the lab."""
    listed = client.run("iptables", "-L", "OUTPUT", "1", "-v", "-n", "-x").stdout
    return int(listed.split()[0])


def pull(client: Host, engine: str, reference: str) -> tuple[int, str]:
    commands = {
        "docker": ("docker", "pull", reference),
        "containerd": (
            *("ctr", "images", "pull", "--hosts-dir=/etc/containerd/certs.d", "--platform=linux/amd64"),
            *("--snapshotter=native", reference),
        ),
        "podman": ("podman", "pull", reference),
        "buildah": ("buildah", "pull", reference),
        "skopeo": ("skopeo", "inspect", "--no-tags", f"docker://{reference}"),
    }
    ran = client.run(*commands[engine], check=False)
    return ran.returncode, ran.stdout + ran.stderr


ENGINES = ["docker", "containerd", "podman", "buildah", "skopeo"]


@pytest.mark.parametrize("engine_name", ENGINES)
def test_images_of_docker_hub_come_from_the_endpoint_that_answers(
    engine_name: str, settled: Run, client: Host, samples: Samples
) -> None:
    image = samples.layers
    code, output = pull(client, engine_name, f"docker.io/{image.repository}:{image.tag}")
    assert code == 0, output


@pytest.mark.parametrize("engine_name", ENGINES)
def test_an_image_that_no_endpoint_has_is_asked_of_nobody_else(engine_name: str, settled: Run, client: Host) -> None:
    before = attempts(client)
    code, output = pull(client, engine_name, "docker.io/lab/nowhere:1")
    assert code != 0, output
    assert attempts(client) == before


def test_docker_keeps_what_a_person_said(settled: Run, client: Host) -> None:
    daemon = json.loads(client.run("cat", "/etc/docker/daemon.json").stdout)
    assert daemon["log-level"] == "warn"
    assert daemon["registry-mirrors"] == [DEAD, ORIGIN, "http://198.18.0.1:10"]
    mirrors = client.run("docker", "info", "--format", "{{json .RegistryConfig.Mirrors}}").stdout
    assert json.loads(mirrors) == [f"{DEAD}/", f"{ORIGIN}/", "http://198.18.0.1:10/"]


def test_containerd_reads_the_folders_for_kubernetes_too(settled: Run, client: Host) -> None:
    assert 'config_path = "/etc/containerd/certs.d"' in client.run("containerd", "config", "dump").stdout


def test_a_second_run_changes_nothing(settled: Run, site: Rollout) -> None:
    again = site.play("playbooks/client.yml", "--diff")
    assert (again.code, again.changed) == (0, 0), again.output
    rehearsal = site.play("playbooks/client.yml", "--check", "--diff")
    assert (rehearsal.code, rehearsal.changed) == (0, 0), rehearsal.output


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"client_endpoints": [{"url": "https://images.example/"}]}, "without a path or a slash"),
        ({"client_endpoints": [{"url": ORIGIN, "client_certificate": "x"}]}, "both or none"),
        ({"client_namespaces": [{"name": "docker.io"}, {"name": "docker.io"}]}, "stands there once"),
        ({"client_engines": ["crio"]}, "no crio"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_input_is_told_before_anything_changes(
    wrong: dict[str, object], said: str, settled: Run, client: Host, site: Rollout
) -> None:
    kept = (site.inventory / "group_vars" / "all.yml").read_text()
    try:
        declare(site, **{"client_engines": ["docker"], "client_endpoints": [{"url": ORIGIN}], **wrong})
        run = site.play("playbooks/client.yml")
    finally:
        (site.inventory / "group_vars" / "all.yml").write_text(kept)
    assert run.code != 0
    assert said in run.said
    assert run.changed == 0


def test_absent_leaves_the_machine_as_it_was(settled: Run, client: Host, site: Rollout) -> None:
    """Runs last: it undoes what the other tests stand on."""
    variables = yaml.safe_load((site.inventory / "group_vars" / "all.yml").read_text())
    declare(site, **{**variables, "client_state": "absent"})
    gone = site.play("playbooks/client.yml")
    assert gone.code == 0, gone.output
    assert json.loads(client.run("cat", "/etc/docker/daemon.json").stdout) == OF_A_PERSON
    mirrors = client.run("docker", "info", "--format", "{{json .RegistryConfig.Mirrors}}").stdout
    assert json.loads(mirrors) == ["http://198.18.0.1:10/"]
    assert "registry-1.docker.io" not in client.run("cat", "/etc/hosts").stdout
    left = client.run("grep", "-rlsi", "seawall", "/etc", check=False).stdout.split()
    assert left == []
    again = site.play("playbooks/client.yml")
    assert (again.code, again.changed) == (0, 0), again.output
