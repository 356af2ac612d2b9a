"""Endpoints: the table of docs/endpoint.md, asked of a real nginx row by row; a rollout, and real clients."""

import http.server
import json
import os
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import requests
import trustme
import yaml

from e2e.rollout import TOP, Rollout, make_inventory
from lab.base import Image
from lab.command import run
from lab.engine import Engine
from lab.host import Host
from lab.images import Samples
from lab.network import Network
from lab.rendered import render, render_endpoint, run_nginx

PAGE = TOP / "docs/endpoint.md"
URL = "http://127.0.0.1:18070"
HEX = "0123456789abcdef" * 4
ORIGIN = "http://198.18.0.11"
ENDPOINT = "198.18.0.51"
PREFIX, OTHER = "one/name", "elsewhere"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    number: int
    method: str
    path: str
    agent: str
    status: int
    answer: str
    fetched: bool


def rows() -> list[Row]:
    """Return the decisions of the page."""
    found = re.findall(
        r"^\| (\d+) \|[^|]*\| `([A-Z]+) (\S+)`(?: of `([^`]+)`)? \| (\d+) \| (fetched from )?`([^`]+)` \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    return [
        Row(int(number), method, written_out(path), agent, int(status), written_out(answer), bool(fetched))
        for number, method, path, agent, status, fetched, answer in found
    ]


def written_out(text: str) -> str:
    return text.replace("<hex>", HEX).replace("<long>", "a" * 500)


def inventory() -> str:
    """Return the inventory of the page."""
    found = re.search(r"^```yaml\n(# group_vars/endpoint.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


class Target(http.server.BaseHTTPRequestHandler):
    """Stands for all that a row may lead to: says what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(403 if "/broken/" in self.path else 200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", f"sha256:{HEX}")
        self.send_header("Set-Cookie", "session=1")
        self.send_header("Strict-Transport-Security", "max-age=1")
        if "/tags/list" in self.path:
            self.send_header("Link", '</tree/v2/team-i/app/tags/list?n=2&last=1.1>; rel="next"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Let the stand-in answer until the block ends; yield its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving() as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def asked(target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of the page; all its targets are paths of the stand-in."""
    folder = tmp_path_factory.mktemp("endpoint")
    folder.chmod(0o755)
    known = yaml.safe_load(inventory().replace("https://", target)) | {"nginx_base_log_dir": str(folder)}
    main_file = render_endpoint(folder, known | {"endpoint_listen": [URL.removeprefix("http://")]})
    with run_nginx(main_file, f"{URL}/health"):
        yield target


def ask(row: Row) -> requests.Response:
    headers = {"Authorization": "Basic c2VjcmV0OnNlY3JldA==", "Cookie": "secret=1", "Accept-Encoding": "gzip"}
    if row.agent:
        headers["User-Agent"] = row.agent
    return requests.request(row.method, URL + row.path, headers=headers, timeout=10, allow_redirects=False)


def test_the_page_has_its_rows_in_order() -> None:
    assert [row.number for row in rows()] == list(range(1, len(rows()) + 1))
    assert len(rows()) >= 28
    assert PAGE.read_text().count("\n| ") > len(rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.number))
def test_a_row_of_the_page_is_what_nginx_answers(row: Row, asked: str) -> None:
    answer = ask(row)
    assert answer.status_code == row.status, answer.text
    if row.fetched:
        told = answer.json()
        assert asked + told["path"].lstrip("/") == row.answer.replace("https://", asked)
        assert "Authorization" not in told["headers"]
        assert "Cookie" not in told["headers"]
        assert "gzip" not in told["headers"].get("Accept-Encoding", "")
        assert answer.headers["Docker-Content-Digest"] == f"sha256:{HEX}"
        assert "Set-Cookie" not in answer.headers
    elif row.status == 307:
        assert answer.headers["Location"] == row.answer.replace("https://", asked)
        assert answer.headers["Cache-Control"] == "public, max-age=60"
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert "secret" not in str(answer.headers)
    elif row.status == 301:
        assert answer.headers["Location"] == row.answer
    elif row.status == 200:
        assert (answer.text, answer.headers["Content-Type"]) == (row.answer, "application/json")
    else:
        assert answer.json()["errors"][0]["code"] == row.answer
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert row.status != 405 or answer.headers["Allow"] == "GET, HEAD"


def test_a_namespace_may_have_any_name_and_one_row_may_be_for_all_others(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("names")
    folder.chmod(0o755)
    # Words that mean something to nginx where its maps are written.
    names = ["default", "include", "hostnames", "volatile", "a/b/c/d", "a"]
    spaces = [{"prefix": name, "target": f"http://t{number}.example"} for number, name in enumerate(names)]
    spaces.append({"prefix": "", "target": "http://rest.example", "as": "mirror"})
    listen = "127.0.0.1:18072"
    known = {"endpoint_namespaces": spaces, "endpoint_listen": [listen], "nginx_base_log_dir": str(folder)}
    with run_nginx(render_endpoint(folder, known), f"http://{listen}/health"):
        for name, place in [
            *((f"{name}/app", f"http://t{number}.example/v2/{name}/app") for number, name in enumerate(names)),
            *((name, f"http://t{number}.example/v2/{name}") for number, name in enumerate(names)),
            ("a/b/c/app", "http://t5.example/v2/a/b/c/app"),
            ("other", "http://rest.example/v2/mirror/other"),
            ("library/alpine", "http://rest.example/v2/mirror/library/alpine"),
        ]:
            url = f"http://{listen}/v2/{name}/manifests/1"
            answer = requests.get(url, timeout=10, allow_redirects=False)
            assert answer.headers["Location"] == f"{place}/manifests/1"


def test_an_endpoint_and_an_origin_share_a_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shared")
    folder.chmod(0o755)
    origin, endpoint = "127.0.0.1:18079", "127.0.0.1:18084"
    tree = folder / "tree"
    (tree / "v2").mkdir(parents=True)
    private = [{"prefix": "team-a", "access": "address", "addresses": ["192.0.2.0/24"]}]
    logs = {"nginx_base_log_dir": str(folder)}
    render(folder, tree, {"origin_listen": [origin], "origin_namespaces": private, **logs})
    rows = [{"prefix": "team-a", "target": "http://elsewhere.example"}]
    main_file = render_endpoint(folder, {"endpoint_listen": [endpoint], "endpoint_namespaces": rows, **logs})
    with run_nginx(main_file, f"http://{endpoint}/health"):
        path = "/v2/team-a/app/manifests/1"
        assert requests.get(f"http://{origin}{path}", timeout=10).status_code == 403
        answer = requests.get(f"http://{endpoint}{path}", timeout=10, allow_redirects=False)
        assert answer.headers["Location"] == f"http://elsewhere.example{path}"


def test_redirects_tell_caches_that_clients_differ(asked: str) -> None:
    answers = [ask(row) for row in rows() if row.number in {12, 17}]
    assert ["Vary" in answer.headers for answer in answers] == [False, True]


def test_a_fetched_list_leads_on_through_the_endpoint(asked: str) -> None:
    answer = requests.get(f"{URL}/v2/inner/app/tags/list?n=2", timeout=10)
    assert answer.headers["Link"] == '</v2/inner/app/tags/list?n=2&last=1.1>; rel="next"'
    agent = {"User-Agent": "Old-Client/2"}
    answer = requests.get(f"{URL}/v2/grafana/app/tags/list?n=2&ns=docker.io", headers=agent, timeout=10)
    assert answer.headers["Link"] == '</v2/grafana/app/tags/list?n=2&last=1.1&ns=docker.io>; rel="next"'


def test_an_error_of_a_target_keeps_its_number_and_gets_the_specifications_body(asked: str) -> None:
    answer = requests.get(f"{URL}/v2/inner/broken/app/manifests/1.0", timeout=10)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "DENIED")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/team-a/app/manifests/1.0%0d%0aX-Evil:%201",
        "/v2/team-a/../k8s/pause/manifests/1.0?x",
        "/v2/team-a/app/manifests/..%2f..%2fetc",
        "//elsewhere.example/v2/team-a/app/manifests/1.0",
        "/v2/team-a@elsewhere.example/app/manifests/1.0",
    ],
)
def test_no_request_leads_to_where_no_row_does(path: str, asked: str) -> None:
    session = requests.Session()
    prepared = session.prepare_request(requests.Request("GET", URL))
    prepared.url = URL + path
    answer = session.send(prepared, timeout=10, allow_redirects=False)
    location = answer.headers.get("Location", "")
    assert not location or location == f"{asked}k8s.example/v2/pause/manifests/1.0"
    assert "X-Evil" not in answer.headers


def test_over_tls_a_target_is_fetched_from_only_if_its_certificate_holds(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("tls")
    folder.chmod(0o755)
    ours, theirs, other = trustme.CA(), trustme.CA(), trustme.CA()
    for name, issuer in (("endpoint", ours), ("target", theirs)):
        made = issuer.issue_cert("127.0.0.1", "localhost")
        made.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    for name, issuer in (("ours", ours), ("theirs", theirs), ("other", other)):
        issuer.cert_pem.write_to_path(str(folder / f"{name}.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "target.pem")
    listen = "127.0.0.1:18078"
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ours.crt"))
    with serving(context) as port:
        for authority, status in (("theirs", 200), ("other", 502)):
            known = {
                "endpoint_listen": [listen],
                "endpoint_tls_certificate": str(folder / "endpoint.pem"),
                "endpoint_tls_certificate_key": str(folder / "endpoint.pem"),
                "endpoint_namespaces": [{"prefix": "a", "target": f"https://localhost:{port}", "proxy": True}],
                "endpoint_proxy_ca": str(folder / f"{authority}.crt"),
                "nginx_base_log_dir": str(folder),
            }
            main_file = render_endpoint(folder / authority, known)
            with run_nginx(main_file, f"https://{listen}/health"):
                answer = requests.get(
                    f"https://{listen}/v2/a/app/manifests/1", verify=str(folder / "ours.crt"), timeout=10
                )
            assert answer.status_code == status
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
            assert status == 200 or answer.json()["errors"][0]["code"] == "UNAVAILABLE"


@pytest.fixture(scope="module")
def rolled_out(
    engine: Engine,
    host_image: Image,
    lab_network: Network,
    url: str,
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rollout]:
    """A host that Ansible made an endpoint: one name for what an origin and another registry have."""
    with Host.start(engine, host_image, "endpoint1", ENDPOINT) as machine:
        folder = make_inventory(
            tmp_path_factory.mktemp("endpoint-inventory"),
            machine,
            {
                "endpoint_namespaces": [
                    {"prefix": PREFIX, "target": url, "as": "lab"},
                    {"prefix": OTHER, "target": f"http://{samples.layers.upstream}", "as": ""},
                ]
            },
            group="endpoint",
        )
        site = Rollout(folder, engine)
        rehearsal = site.play("playbooks/endpoint.yml", "--check", "--diff")
        assert rehearsal.code == 0, rehearsal.output
        assert rehearsal.changed > 0
        run = site.play("playbooks/endpoint.yml")
        assert run.code == 0, run.output
        yield site


def test_a_second_run_and_its_rehearsal_change_nothing(rolled_out: Rollout) -> None:
    assert rolled_out.play("playbooks/endpoint.yml").changed == 0
    assert rolled_out.play("playbooks/endpoint.yml", "--check", "--diff").changed == 0


def test_wrong_targets_are_refused_and_not_repeated(rolled_out: Rollout) -> None:
    wrong = ("https://user:pass-4711@cdn.example", "cdn.example", "https://cdn.example/?x=pass-4711")
    rows = [{"prefix": f"x{number}", "target": target} for number, target in enumerate(wrong)]
    run = rolled_out.play("playbooks/preflight.yml", "--extra-vars", json.dumps({"endpoint_namespaces": rows}))
    assert run.code != 0
    said = re.sub(r"\s+", " ", run.output).replace("\\", "")
    assert 'Look at the row "x0", "x1", "x2" of endpoint_namespaces' in said
    assert "pass-4711" not in run.output


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_real_clients_pull_through_the_endpoint(
    suite: str, rolled_out: Rollout, samples: Samples, request: pytest.FixtureRequest
) -> None:
    machine: Host = request.getfixturevalue(f"client_{suite}")
    image = samples.layers
    name = f"{ENDPOINT}/{PREFIX}/{image.repository.removeprefix('lab/')}"
    references = (f"{name}:{image.tag}", f"{name}@{image.digest}", f"{ENDPOINT}/{OTHER}/{image.repository}:{image.tag}")
    for reference in references:
        machine.run("sh", "-c", "ctr images ls --quiet | xargs --no-run-if-empty ctr images rm --sync")
        machine.run("ctr", "images", "pull", "--plain-http", "--snapshotter=native", reference)
        machine.run("podman", "rmi", "--all", "--force")
        machine.run("podman", "pull", "--tls-verify=false", reference)
        machine.run("rm", "-rf", "/root/copied")
        copied = ("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{reference}")
        machine.run(*copied, "dir:/root/copied")
    tags = machine.run("skopeo", "list-tags", "--tls-verify=false", f"docker://{name}").stdout
    assert image.tag in json.loads(tags)["Tags"]
    # As a person would; the next test that needs it writes its own.
    machine.run("tee", "/etc/docker/daemon.json", stdin=json.dumps({"insecure-registries": [ENDPOINT]}))
    machine.run("systemctl", "restart", "docker")
    try:
        for reference in references:
            machine.run("docker", "image", "prune", "--all", "--force")
            machine.run("docker", "pull", reference)
    finally:
        machine.run("rm", "/etc/docker/daemon.json")
        machine.run("systemctl", "restart", "docker")


def test_nothing_of_an_image_goes_through_the_endpoint(rolled_out: Rollout, samples: Samples) -> None:
    image = samples.layers
    base = f"http://{ENDPOINT}/v2/{PREFIX}/{image.repository.removeprefix('lab/')}"
    manifest = requests.get(f"{base}/manifests/{image.tag}", timeout=10)
    assert manifest.url.startswith(ORIGIN)
    assert manifest.headers["Docker-Content-Digest"] == image.digest
    blob = requests.get(f"{base}/blobs/{manifest.json()['layers'][0]['digest']}", timeout=10)
    assert blob.url.startswith(ORIGIN)
    assert requests.get(f"http://{ENDPOINT}/v2/other/app/manifests/1.0", timeout=10).status_code == 404


def test_the_tool_proves_what_lies_behind(rolled_out: Rollout, samples: Samples) -> None:
    name = f"{PREFIX}/{samples.oci_index.repository.removeprefix('lab/')}:{samples.oci_index.tag}"
    environment = {**os.environ, "PYTHONPATH": str(TOP / "tools")}
    ran = run([sys.executable, "-m", "seawall", "verify", f"http://{ENDPOINT}", name], env=environment)
    assert "all holds" in ran.stdout
