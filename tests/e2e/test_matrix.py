"""Every client of two Debian releases, and those from PyPI: by tag, by digest and for a platform, into empty stores.

Over HTTP and over TLS, what is public and what is private. The machines are set up by the role `client`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dxf
import oras.client
import pytest
import requests
import trustme

from e2e.rollout import Rollout, configuration_kept, make_inventory, write_variables
from lab.command import run
from lab.host import Host
from lab.images import OCI_INDEX, Samples

ORIGIN = "198.18.0.11"
FOLDER = "/etc/ssl/seawall"
USER, PASSWORD = "alice", "alice-knows-7351"
PLATFORM = "linux/arm64"
ENGINES = ["docker", "containerd", "podman", "buildah", "skopeo"]


@dataclass(frozen=True)
class Way:
    """How the origin is reached."""

    endpoint: dict[str, str]
    folder: Path


@pytest.fixture(scope="module", params=["http", "tls"])
def way(
    request: pytest.FixtureRequest,
    url: str,
    host: Host,
    rollout: Rollout,
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "http":
        yield Way({"url": url}, folder)
    else:
        yield from over_tls(folder, host, rollout, samples)


def over_tls(folder: Path, host: Host, rollout: Rollout, samples: Samples) -> Iterator[Way]:
    """Let the origin speak TLS meanwhile, and want a password for what is below `private`."""
    authority = trustme.CA()
    certificate = authority.issue_cert(ORIGIN)
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "origin.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "origin.key"))
    host.run("mkdir", "-p", FOLDER)
    for name in ("origin.pem", "origin.key"):
        host.put(folder / name, f"{FOLDER}/{name}")
    tree = "/srv/seawall/v2"
    for sample in (samples.layers, samples.oci_index):
        host.run(
            *("runuser", "-u", "seawall", "--", "seawall", "add", "/srv/seawall"),
            *(f"{tree}/{sample.repository}:{sample.tag}", f"private/{sample.repository}"),
        )
    hashed = run(["htpasswd", "-nbBC", "5", USER, PASSWORD]).stdout.strip().partition(":")[2]
    variables = {
        "origin_listen": ["443"],
        "origin_tls_certificate": f"{FOLDER}/origin.pem",
        "origin_tls_certificate_key": f"{FOLDER}/origin.key",
        "origin_namespaces": [{"prefix": "private", "access": "basic", "users": [USER]}],
        "origin_users": {USER: hashed},
        "origin_token_secret": "d41d8cd98f00b204e9800998ecf8427e-lab",
        "origin_password_rate": 500,
    }
    (folder / "variables.json").write_text(json.dumps(variables))
    with configuration_kept(host):
        played = rollout.play("playbooks/origin.yml", "--extra-vars", f"@{folder / 'variables.json'}")
        assert played.code == 0, played.output
        yield Way({"url": f"https://{ORIGIN}", "ca": (folder / "ca.crt").read_text()}, folder)


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def client(request: pytest.FixtureRequest, way: Way) -> Host:
    """A machine that the role has told of the origin, and before, it may be, of another way to it."""
    machine: Host = request.getfixturevalue(f"client_{request.param}")
    (way.folder / request.param).mkdir()
    site = Rollout(make_inventory(way.folder / request.param, machine, {}, group="client"), machine.engine)
    variables = {"client_engines": ["docker", "containerd", "podman"], "client_endpoints": [way.endpoint]}
    write_variables(site.inventory, variables)
    played = site.play("playbooks/client.yml")
    assert played.code == 0, played.output
    return machine


def empty(client: Host, engine: str) -> None:
    commands = {
        "docker": "docker image prune --all --force",
        "containerd": "ctr images ls --quiet | xargs --no-run-if-empty ctr images rm --sync",
        "podman": "podman rmi --all --force",
        "buildah": "buildah rmi --all --force",
        "skopeo": "rm -rf /tmp/copied",
    }
    client.run("sh", "-c", commands[engine])


def pull(client: Host, engine: str, reference: str, platform: str, *, login: bool) -> str:
    """Pull *reference* as *engine* does, and return the label of the platform that came."""
    system, _, architecture = platform.partition("/")
    creds = f"{USER}:{PASSWORD}" if login else ""
    if login and engine in {"docker", "podman", "buildah"}:
        client.run(engine, "login", f"--username={USER}", "--password-stdin", ORIGIN, stdin=PASSWORD)
    if engine == "docker":
        client.run("docker", "pull", f"--platform={platform}", reference)
        shown = client.run("docker", "image", "inspect", "--format={{.Config.Labels.platform}}", reference)
    elif engine == "containerd":
        user = [f"--user={creds}"] if login else []
        hosts = "--hosts-dir=/etc/containerd/certs.d"
        client.run(
            *("ctr", "images", "pull", hosts, *user, f"--platform={platform}"), "--snapshotter=native", reference
        )
        # It has no command that shows labels, and its check wants every platform: the content says what came.
        return client.run("sh", "-c", LABEL_OF_CONTENT).stdout.strip()
    elif engine in {"podman", "buildah"}:
        client.run(engine, "pull", f"--platform={platform}", reference)
        shown = client.run("podman", "image", "inspect", "--format={{.Labels.platform}}", reference)
    else:
        options = [f"--src-creds={creds}"] if login else []
        options += [] if client.run("test", "-e", certificate(ORIGIN), check=False).returncode == 0 else [PLAIN]
        override = [f"--override-arch={architecture}", f"--override-os={system}"]
        copied = "dir:/tmp/copied"
        client.run("skopeo", "--insecure-policy", *override, "copy", *options, f"docker://{reference}", copied)
        return client.run("sh", "-c", LABEL_OF_FILES).stdout.strip()
    return shown.stdout.strip()


PLAIN = "--src-tls-verify=false"
# The label, out of whatever holds it.
LABEL = """head -c 4000 "$file" | grep -a -o '"Labels":{"platform":"[^"]*"' | cut -d '"' -f 6"""
LABEL_OF_CONTENT = f"file=/tmp/content; for d in $(ctr content ls -q); do ctr content get $d >$file; {LABEL}; done"
LABEL_OF_FILES = f"for file in /tmp/copied/*; do {LABEL}; done"


def certificate(address: str) -> str:
    return f"/etc/containers/certs.d/{address}/seawall.crt"


@pytest.mark.parametrize("engine_name", ENGINES)
def test_what_is_public_comes_by_tag_by_digest_and_for_a_platform(
    engine_name: str, way: Way, client: Host, samples: Samples
) -> None:
    pull_all(client, engine_name, samples)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_what_is_private_comes_with_a_password(engine_name: str, way: Way, client: Host, samples: Samples) -> None:
    want_tls(way)
    pull_all(client, engine_name, samples, "private/")


def pull_all(client: Host, engine: str, samples: Samples, prefix: str = "") -> None:
    image, index = samples.layers, samples.oci_index
    # The programs of all platforms are of one architecture, so that they can be run here; a new Docker reads that in
    # the config, and takes it for another platform than was asked for.
    other = "linux/amd64" if engine == "docker" else PLATFORM
    for sample, target, platform in (
        (image, f":{image.tag}", "linux/amd64"),
        (image, f"@{image.digest}", "linux/amd64"),
        (index, f":{index.tag}", other),
    ):
        empty(client, engine)
        reference = f"{ORIGIN}/{prefix}{sample.repository}{target}"
        came = pull(client, engine, reference, platform, login=bool(prefix))
        assert sample is image or came == platform
    if prefix and engine in {"docker", "podman", "buildah"}:
        client.run(engine, "logout", ORIGIN)


def test_what_is_public_comes_to_clients_from_pypi(
    way: Way, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_from_python(way, samples, tmp_path, monkeypatch)


def test_what_is_private_comes_to_clients_from_pypi(
    way: Way, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want_tls(way)
    pull_from_python(way, samples, tmp_path, monkeypatch, "private/")


def want_tls(way: Way) -> None:
    if "ca" not in way.endpoint:
        pytest.skip("over plain HTTP nobody should send a password")


def pull_from_python(
    way: Way, samples: Samples, folder: Path, monkeypatch: pytest.MonkeyPatch, prefix: str = ""
) -> None:
    sample, index = samples.layers, samples.oci_index
    is_plain = "ca" not in way.endpoint
    if not is_plain:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(way.folder / "ca.crt"))

    def login(registry: dxf.DXFBase, response: requests.Response) -> None:
        registry.authenticate(USER if prefix else None, PASSWORD if prefix else None, response=response)

    registry = dxf.DXF(ORIGIN, prefix + sample.repository, login, insecure=is_plain)
    for target in (sample.tag, sample.digest):
        for layer in json.loads(str(registry.get_manifest(target)))["layers"]:
            # It hashes what comes, and raises where that is not the digest.
            pieces = cast("Iterable[bytes]", registry.pull_blob(layer["digest"]))
            assert sum(len(piece) for piece in pieces) == layer["size"]
    assert sample.tag in registry.list_aliases()

    puller = oras.client.OrasClient(hostname=ORIGIN, insecure=is_plain)
    if prefix:
        puller.login(hostname=ORIGIN, username=USER, password=PASSWORD, config_path=str(folder / "config.json"))
    for target in (f":{sample.tag}", f"@{sample.digest}"):
        container = puller.get_container(f"{ORIGIN}/{prefix}{sample.repository}{target}")
        for layer in puller.get_manifest(container)["layers"]:
            assert len(puller.get_blob(container, layer["digest"]).content) == layer["size"]
    container = puller.get_container(f"{ORIGIN}/{prefix}{index.repository}:{index.tag}")
    listed = puller.get_manifest(container, allowed_media_type=[OCI_INDEX])["manifests"]
    assert {row["platform"]["architecture"] for row in listed} == {"amd64", "arm64"}
