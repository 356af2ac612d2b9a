"""TLS with files of one's own: the origin speaks TLS and only TLS, HTTP/2, and staples what the responder says."""

import base64
import datetime
import http.server
import ipaddress
import json
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from e2e.rollout import Rollout, configuration_kept
from lab.command import run
from lab.host import Host
from lab.images import Samples

ORIGIN = "198.18.0.11"
FOLDER = "/etc/ssl/seawall"
RESPONDER_HOST = "198.18.0.1"


def make_certificates(folder: Path, responder_url: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Write an authority and a certificate from it that names the responder; return the authority and its key."""
    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab")])
    own = x509.BasicConstraints(ca=True, path_length=None)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ORIGIN))])
    responder = x509.AccessDescription(
        AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(responder_url)
    )
    wanted: list[tuple[str, list[x509.ExtensionType], int]] = [
        ("authority", [own], 9),
        ("origin", [names, x509.AuthorityInformationAccess([responder])], 9),
        ("ended", [names], -1),
    ]
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name, _, _ in wanted}
    made = {}
    for name, extensions, days in wanted:
        subject = issuer if name == "authority" else x509.Name([])
        builder = x509.CertificateBuilder(issuer, subject, keys[name].public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=2))
        builder = builder.not_valid_after(now + datetime.timedelta(days=days))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=name == "authority")
        made[name] = builder.sign(keys["authority"], hashes.SHA256())
        key = keys[name].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(key)
    pems = {name: row.public_bytes(serialization.Encoding.PEM) for name, row in made.items()}
    (folder / "authority.pem").write_bytes(pems["authority"])
    (folder / "ended.pem").write_bytes(pems["ended"])
    # With its issuer, by which nginx asks the responder.
    (folder / "origin.pem").write_bytes(pems["origin"] + pems["authority"])
    return made["authority"], keys["authority"]


class Responder(http.server.BaseHTTPRequestHandler):
    """Says of every certificate that it is good (RFC 6960).

    `openssl ocsp` would hear one connection at a time, and wait for ever for one that says nothing.
    """

    issuer: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def do_GET(self) -> None:
        # RFC 6960, appendix A.1: the request stands in the path.
        self.answer(base64.b64decode(urllib.parse.unquote(self.path).lstrip("/")))

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, request: bytes) -> None:
        asked = ocsp.load_der_ocsp_request(request)
        now = datetime.datetime.now(datetime.UTC)
        said = ocsp.OCSPResponseBuilder().add_response_by_hash(
            issuer_name_hash=asked.issuer_name_hash,
            issuer_key_hash=asked.issuer_key_hash,
            serial_number=asked.serial_number,
            algorithm=asked.hash_algorithm,
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now,
            next_update=now + datetime.timedelta(hours=1),
            revocation_time=None,
            revocation_reason=None,
        )
        said = said.responder_id(ocsp.OCSPResponderEncoding.HASH, self.issuer).certificates([self.issuer])
        body = said.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        self.send_response(200)
        self.send_header("Content-Type", "application/ocsp-response")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def responder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with certificates, and somebody who says that the origin's is not revoked."""
    folder = tmp_path_factory.mktemp("tls")
    with http.server.ThreadingHTTPServer((RESPONDER_HOST, 0), Responder) as server:
        Responder.issuer, Responder.key = make_certificates(folder, f"http://{RESPONDER_HOST}:{server.server_port}/")
        threading.Thread(target=server.serve_forever).start()
        yield folder
        server.shutdown()


@pytest.fixture(scope="module")
def authority(url: str, host: Host, rollout: Rollout, responder: Path) -> Iterator[Path]:
    """The certificate of an authority that the origin's certificate comes from; the origin speaks TLS meanwhile."""
    folder = responder
    host.run("mkdir", "-p", FOLDER)
    for name in ("origin.pem", "origin.key"):
        host.put(folder / name, f"{FOLDER}/{name}")
    host.run("chmod", "0600", f"{FOLDER}/origin.key")
    variables = {
        "origin_listen": ["443"],
        "origin_tls_certificate": f"{FOLDER}/origin.pem",
        "origin_tls_certificate_key": f"{FOLDER}/origin.key",
    }
    with configuration_kept(host):
        run = rollout.play("playbooks/origin.yml", "--extra-vars", json.dumps(variables))
        assert run.code == 0, run.output
        yield folder / "authority.pem"


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


def test_http_2_is_spoken_and_browsers_are_told_to_stay(authority: Path, host: Host, samples: Samples) -> None:
    host.put(authority, f"{FOLDER}/authority.pem")
    for path, status in (("/v2/", 200), (f"/v2/{samples.layers.repository}/tags/list", 200), ("/none", 404)):
        told = host.run(
            *("curl", "--silent", "--http2", "--cacert", f"{FOLDER}/authority.pem", "--output", "/dev/null"),
            *("--write-out", "%{http_version} %{http_code} %header{strict-transport-security}"),
            f"https://{ORIGIN}{path}",
        )
        assert told.stdout == f"2 {status} max-age=31536000"


def test_what_the_responder_says_is_stapled(authority: Path, host: Host) -> None:
    def stapled() -> str:
        asked = ("-connect", f"{ORIGIN}:443", "-status", "-CAfile", str(authority))
        return run(["openssl", "s_client", *asked], stdin="", check=False).stdout

    # nginx asks when the first client comes, who does not wait for it.
    deadline = time.monotonic() + 30
    while "Cert Status: good" not in (told := stapled()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert "Cert Status: good" in told


def test_a_certificate_that_ended_is_refused_before_the_host_changes(
    authority: Path, rollout: Rollout, host: Host
) -> None:
    for kind in ("pem", "key"):
        host.put(authority.with_name(f"ended.{kind}"), f"{FOLDER}/ended.{kind}")
    variables = {
        "origin_listen": ["443"],
        "origin_tls_certificate": f"{FOLDER}/ended.pem",
        "origin_tls_certificate_key": f"{FOLDER}/ended.key",
    }
    refused = rollout.play("playbooks/preflight.yml", "--extra-vars", json.dumps(variables))
    assert refused.code != 0
    assert f"{FOLDER}/ended.pem on origin1 ended at" in refused.said
