"""TLS, as far as it goes so far: with a certificate and its key the origin speaks TLS, and only TLS."""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme

from e2e.rollout import Rollout
from lab.host import Host
from lab.images import Samples

ORIGIN = "198.18.0.11"
FOLDER = "/etc/ssl/seawall"


@pytest.fixture(scope="module")
def authority(url: str, host: Host, rollout: Rollout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The certificate of an authority that the origin's certificate comes from; the origin speaks TLS meanwhile."""
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    certificate = made.issue_cert(ORIGIN)
    made.cert_pem.write_to_path(str(folder / "authority.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "origin.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "origin.key"))
    host.run("mkdir", "-p", FOLDER)
    for name in ("origin.pem", "origin.key"):
        host.put(folder / name, f"{FOLDER}/{name}")
    host.run("chmod", "0600", f"{FOLDER}/origin.key")
    variables = {
        "origin_listen": ["443"],
        "origin_tls_certificate": f"{FOLDER}/origin.pem",
        "origin_tls_certificate_key": f"{FOLDER}/origin.key",
    }
    run = rollout.play("playbooks/origin.yml", "--extra-vars", json.dumps(variables))
    assert run.code == 0, run.output
    yield folder / "authority.pem"
    assert rollout.play("playbooks/origin.yml").code == 0


def test_a_manifest_comes_over_tls(authority: Path, samples: Samples) -> None:
    path = f"/v2/{samples.layers.repository}/manifests/{samples.layers.tag}"
    answer = requests.get(f"https://{ORIGIN}{path}", verify=str(authority), timeout=10)
    assert answer.headers["Docker-Content-Digest"] == samples.layers.digest


@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_only_current_versions_of_tls_are_spoken(authority: Path, version: ssl.TLSVersion, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=str(authority))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((ORIGIN, 443), timeout=10) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=ORIGIN) as wrapped:
                spoken = wrapped.version()
        except ssl.SSLError:
            spoken = None
    assert (spoken is not None) is accepted


def test_a_plain_request_to_the_tls_port_is_an_error_in_json(authority: Path) -> None:
    answer = requests.get(f"http://{ORIGIN}:443/v2/", timeout=10)
    assert answer.status_code == 400
    assert answer.json()["errors"]


def test_the_plain_port_is_closed(authority: Path) -> None:
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{ORIGIN}/v2/", timeout=10)
