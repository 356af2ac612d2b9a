"""Private namespaces: who may read what, asked of the real nginx by hand and by real clients."""

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import trustme

from e2e.rollout import TOP, Rollout, Run
from lab.command import run
from lab.engine import Engine
from lab.host import Host
from lab.images import Samples
from lab.network import Namespace, Network

ORIGIN = "198.18.0.11"
URL = f"https://{ORIGIN}"
FOLDER = "/etc/ssl/seawall"
SECRET = "d41d8cd98f00b204e9800998ecf8427e-lab"
PASSWORDS = {"alice": "alice-knows-7351", "bob": "bob-knows-9462"}
# Each is a copy of one repository, so that all that differs is who may read it.
REPOSITORIES = ("team-a/app", "team-a/open", "team-b/app", "certs/any", "certs/build", "near/app", "far/app")
NAMESPACES = [
    {"prefix": "team-a", "access": "basic", "users": ["alice"]},
    {"prefix": "team-a/open", "access": "public"},
    {"prefix": "team-b", "access": "basic", "users": ["bob"]},
    {"prefix": "certs", "access": "certificate"},
    {"prefix": "certs/build", "access": "certificate", "subjects": ["CN=build,OU=CI,O=Lab"]},
    {"prefix": "near", "access": "address", "addresses": ["198.18.0.1", "2001:db8::/32"]},
    {"prefix": "far", "access": "address", "addresses": ["192.0.2.0/24"]},
]
# Who shows which of the certificates.
CERTIFICATES = {"with a certificate": "other", "as build": "build", "with a foreign certificate": "foreign"}


@dataclass
class Site:
    """The origin with its private namespaces, and what is needed to ask it."""

    folder: Path
    rollout: Rollout
    variables: dict[str, object]
    digest: str
    blob: str
    tag: str
    users: dict[str, str]
    run: Run = field(default_factory=lambda: Run(0, ""))
    sessions: dict[str, requests.Session] = field(default_factory=dict)

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    def play(self, playbook: str = "playbooks/origin.yml", **changed: object) -> Run:
        """Run *playbook* with the variables of the site in a file, as a vault holds them."""
        variables = self.folder / "variables.json"
        variables.write_text(json.dumps({**self.variables, **changed}))
        return self.rollout.play(playbook, "--extra-vars", f"@{variables}", "-v")

    def endpoints(self, repository: str) -> dict[str, dict[str, str]]:
        """Every path below *repository* that is there, with the headers of the request."""
        base = f"/v2/{repository}"
        return {
            f"{base}/manifests/{self.tag}": {},
            f"{base}/manifests/{self.digest}": {},
            f"{base}/blobs/{self.blob}": {"Range": "bytes=1-3"},
            f"{base}/tags/list": {},
            f"{base}/tags/list?n=10&last=": {},
            f"{base}/referrers/{self.digest}": {},
        }

    def missing(self, repository: str) -> dict[str, dict[str, str]]:
        """Paths below *repository* and beside it at which nothing is."""
        none = f"sha256:{'0' * 64}"
        parent = repository.rpartition("/")[0]
        return {
            f"/v2/{repository}/manifests/none": {},
            f"/v2/{repository}/blobs/{none}": {},
            f"/v2/{repository}/referrers/{none}": {},
            f"/v2/{parent}/nothing/manifests/{none}": {},
            f"/v2/{parent}/nothing/tags/list": {},
        }

    def ask(self, path: str, who: str, method: str = "GET", **headers: str) -> requests.Response:
        """Send one request as *who*, over connections that are kept."""
        session = self.sessions.get(who) or self.sessions.setdefault(who, self.session(who))
        return session.request(method, URL + path, headers=headers, timeout=20, allow_redirects=False)

    def session(self, who: str) -> requests.Session:
        made = requests.Session()
        made.trust_env = False
        made.verify = str(self.authority)
        if who in CERTIFICATES:
            name = CERTIFICATES[who]
            made.cert = (str(self.folder / f"{name}.cert"), str(self.folder / f"{name}.key"))
        authorization = self.authorization(who)
        if authorization:
            made.headers["Authorization"] = authorization
        return made

    def authorization(self, who: str) -> str:
        if who in {"alice", "bob"}:
            return basic(who, PASSWORDS[who])
        if who == "alice, with a wrong password":
            return basic("alice", "guessed")
        if who == "alice, with her token":
            return f"Bearer {self.token('alice')}"
        return {
            "with the token of nobody": "Bearer anonymous",
            "with a made-up token": f"Bearer {'0' * 64}",
            "with something else": "Digest username=alice",
        }.get(who, "")

    def token(self, user: str) -> str:
        answer = requests.get(f"{URL}/token", auth=(user, PASSWORDS[user]), verify=str(self.authority), timeout=20)
        answer.raise_for_status()
        return str(answer.json()["token"])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def write_pair(folder: Path, name: str, made: trustme.LeafCert) -> None:
    made.cert_chain_pems[0].write_to_path(str(folder / f"{name}.cert"))
    made.private_key_pem.write_to_path(str(folder / f"{name}.key"))


@pytest.fixture(scope="module")
def site(
    url: str, host: Host, rollout: Rollout, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The origin speaks TLS and has private namespaces, for the tests of this module."""
    folder = tmp_path_factory.mktemp("private")
    authority, clients, foreign = trustme.CA(), trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    clients.cert_pem.write_to_path(str(folder / "clients.pem"))
    write_pair(folder, "origin", authority.issue_cert(ORIGIN))
    for name, issuer, subject in (
        ("other", clients, "other"),
        ("build", clients, "build"),
        ("foreign", foreign, "build"),
    ):
        issued = issuer.issue_cert(common_name=subject, organization_unit_name="CI", organization_name="Lab")
        write_pair(folder, name, issued)
    host.run("mkdir", "-p", FOLDER)
    for name in ("origin.cert", "origin.key", "clients.pem"):
        host.put(folder / name, f"{FOLDER}/{name}")

    layers = samples.layers
    for repository in REPOSITORIES:
        place = Path("/srv/seawall/v2") / repository
        host.run("mkdir", "-p", str(place.parent))
        host.run("cp", "--archive", f"/srv/seawall/v2/{layers.repository}", str(place))
    manifest = requests.get(f"{url}/v2/{layers.repository}/manifests/{layers.tag}", timeout=10).json()

    users = {
        user: run(["htpasswd", "-nbBC", "5", user, word]).stdout.strip().partition(":")[2]
        for user, word in PASSWORDS.items()
    }
    variables = {
        "origin_listen": ["443"],
        "origin_tls_certificate": f"{FOLDER}/origin.cert",
        "origin_tls_certificate_key": f"{FOLDER}/origin.key",
        "origin_client_ca": f"{FOLDER}/clients.pem",
        "origin_registries": [{"host": "docker.io"}, {"host": "private.example", "prefix": "team-a"}],
        "origin_namespaces": NAMESPACES,
        "origin_users": users,
        "origin_token_secret": SECRET,
        "origin_password_rate": 500,
    }
    made = Site(
        folder,
        rollout,
        variables,
        layers.digest,
        manifest["layers"][0]["digest"],
        layers.tag,
        users,
    )
    made.run = made.play()
    assert made.run.code == 0, made.run.output
    yield made
    assert rollout.play("playbooks/origin.yml").code == 0
    host.run("rm", "-r", *(f"/srv/seawall/v2/{name}" for name in ("team-a", "team-b", "certs", "near", "far")))


NOBODY = [
    *("with nothing", "with the token of nobody", "with a made-up token", "alice, with a wrong password"),
    *("with something else",),
]
EVERYBODY = [
    *NOBODY,
    *("alice", "alice, with her token", "bob", "with a certificate", "as build", "with a foreign certificate"),
]
CERTIFIED = {"with a certificate", "as build"}
# Of each repository: who is answered, and what the others get.
MAY = {
    "lab/layers": (set(EVERYBODY), 0),
    "team-a/open": (set(EVERYBODY), 0),
    "team-a/app": ({"alice", "alice, with her token"}, 401),
    "team-b/app": ({"bob"}, 401),
    "certs/any": (CERTIFIED, 403),
    "certs/build": ({"as build"}, 403),
    "near/app": (set(EVERYBODY), 0),
    "far/app": (set(), 403),
}
KNOWN = {"alice", "alice, with her token", "bob"}


def refusal(repository: str, who: str) -> int | None:
    """The status with which *who* is refused, or None."""
    allowed, otherwise = MAY[repository]
    if who == "with a foreign certificate":
        return 403  # at TLS already, so whatever is asked
    if who in allowed:
        return None
    # Of one who is known it is no secret that he may not.
    return 403 if who in KNOWN else otherwise


@pytest.mark.parametrize("repository", MAY)
@pytest.mark.parametrize("who", EVERYBODY)
def test_who_may_read_what(site: Site, repository: str, who: str) -> None:
    expected = refusal(repository, who)
    is_public = repository in {"lab/layers", "team-a/open"}
    for path, headers in site.endpoints(repository).items():
        for method in ("GET", "HEAD"):
            answer = site.ask(path, who, method, **headers)
            if expected is None:
                assert answer.status_code == (206 if headers else 200), (method, path)
                assert answer.headers["Cache-Control"].startswith("public" if is_public else "private"), path
            else:
                assert_refused(answer, expected, method)


def assert_refused(answer: requests.Response, status: int, method: str = "GET") -> None:
    assert answer.status_code == status
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)
    assert "Docker-Content-Digest" not in answer.headers
    assert "ETag" not in answer.headers
    if method == "GET":
        assert answer.json()["errors"][0]["code"] == {401: "UNAUTHORIZED", 403: "DENIED"}[status]


@pytest.mark.parametrize("repository", ["team-a/app", "certs/any", "far/app"])
@pytest.mark.parametrize("who", [*NOBODY, "bob"])
def test_a_refusal_tells_nothing_of_what_is_there(site: Site, repository: str, who: str) -> None:
    expected = refusal(repository, who)
    assert expected is not None

    def seen(path: str, headers: dict[str, str]) -> tuple[object, ...]:
        answer = site.ask(path, who, **headers)
        assert_refused(answer, expected)
        own = {name: value for name, value in answer.headers.items() if name != "Date"}
        return (own, answer.content)

    there = [seen(*item) for item in site.endpoints(repository).items()]
    missing = [seen(*item) for item in site.missing(repository).items()]
    assert all(one == there[0] for one in there + missing)


def test_who_may_read_is_told_what_is_missing(site: Site) -> None:
    manifest, blob, *_ = site.missing("team-a/app")
    codes = [site.ask(path, "alice").json()["errors"][0]["code"] for path in (manifest, blob)]
    assert codes == ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN"]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/team-a//app/manifests/1.0",
        "/v2/./team-a/app/manifests/1.0",
        "/v2/lab/../team-a/app/manifests/1.0",
        "/v2/%74eam-a/app/manifests/1.0",
        "/v2/team-a%2Fapp/manifests/1.0",
        "/v2/TEAM-A/app/manifests/1.0",
        "/v2/team-a/app/manifests/1.0?ns=team-a/open",
        "/v2/team-a/app/manifests/1.0/",
        "/_guard/password/v2/team-a/app/manifests/1.0",
        "/_guard//v2/team-a/app/manifests/1.0",
        "//v2/team-a/app/manifests/1.0",
    ],
)
def test_no_other_spelling_leads_around_the_guard(site: Site, path: str) -> None:
    context = ssl.create_default_context(cafile=str(site.authority))
    request = f"GET {path} HTTP/1.1\r\nHost: {ORIGIN}\r\nConnection: close\r\n\r\n"
    answer = send(context, request)
    assert int(answer.split()[1]) in {400, 401, 404}, answer
    assert b"schemaVersion" not in answer


def test_the_guard_sees_the_repository_as_the_tree_has_it(site: Site) -> None:
    path = f"/v2/app/manifests/{site.tag}?ns=private.example"
    assert_refused(site.ask(path, "with nothing"), 401)
    assert site.ask(path, "alice").status_code == site.ask(path, "alice, with her token").status_code == 200
    # A mirror looks further where it has nothing under the bare name, but says so of public names only.
    assert site.ask("/v2/elsewhere/nothing/tags/list", "with nothing").status_code == 404
    assert_refused(site.ask("/v2/team-a/nothing/tags/list", "with nothing"), 401)


@pytest.mark.parametrize("first", ["", "Bearer anonymous", "Bearer x"])
def test_a_second_authorization_header_wins_nothing(site: Site, first: str) -> None:
    context = ssl.create_default_context(cafile=str(site.authority))
    forged = basic("alice", "guessed")
    for values in ((first, forged), (forged, first)):
        lines = "".join(f"Authorization: {value}\r\n" for value in values)
        for path in ("/token", "/v2/team-a/app/manifests/1.0"):
            answer = send(context, f"GET {path} HTTP/1.1\r\nHost: {ORIGIN}\r\n{lines}Connection: close\r\n\r\n")
            assert site.token("alice").encode() not in answer
            assert b"schemaVersion" not in answer


def send(context: ssl.SSLContext, request: str) -> bytes:
    answer = b""
    with (
        socket.create_connection((ORIGIN, 443), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname=ORIGIN) as wrapped,
    ):
        wrapped.sendall(request.encode())
        while piece := wrapped.recv(65536):
            answer += piece
    return answer


def test_a_public_digest_gives_nothing_from_a_private_repository(site: Site) -> None:
    for path in (f"/v2/team-a/app/blobs/{site.blob}", f"/v2/team-a/app/manifests/{site.digest}"):
        assert site.ask(path.replace("team-a/app", "lab/layers"), "with nothing").status_code == 200
        assert site.ask(path, "with nothing").status_code == 401


@pytest.mark.parametrize("who", [*NOBODY, "alice", "alice, with her token", "bob"])
def test_the_ping_asks_for_a_token_and_takes_that_of_nobody(site: Site, who: str) -> None:
    answer = site.ask("/v2/", who)
    if who in {*KNOWN, "with the token of nobody"}:
        assert (answer.status_code, answer.content) == (200, b"{}")
        return
    assert_refused(answer, 401)
    challenge = f'Bearer realm="{URL}/token",service="{ORIGIN}"'
    assert challenge in answer.headers["WWW-Authenticate"]
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    # Docker takes a challenge of Basic for an order, and gives up where it has no password.
    assert ("Basic" in answer.headers["WWW-Authenticate"]) is (who == "alice, with a wrong password")


def test_a_token_is_given_for_a_password_and_to_nobody(site: Site) -> None:
    nobody = site.ask("/token?scope=repository:team-a/app:pull&service=x", "with nothing")
    assert nobody.json()["token"] == nobody.json()["access_token"] == "anonymous"
    alice = site.ask("/token?account=alice", "alice")
    assert len(alice.json()["token"]) == 64
    assert alice.headers["Cache-Control"] == "no-store"
    assert alice.headers["Content-Type"] == "application/json"
    assert site.ask("/token", "bob").json()["token"] != alice.json()["token"]
    wrong = site.ask("/token", "alice, with a wrong password")
    assert (wrong.status_code, wrong.json()["errors"][0]["code"]) == (401, "UNAUTHORIZED")
    # containerd tries OAuth 2 first, and takes 405 for a no.
    assert site.ask("/token", "with nothing", "POST").status_code == 405


def test_the_second_run_and_a_rehearsal_change_nothing(site: Site) -> None:
    assert site.play().changed == 0
    variables = site.folder / "variables.json"
    run = site.rollout.play("playbooks/origin.yml", "--check", "--diff", "--extra-vars", f"@{variables}")
    assert (run.code, run.changed) == (0, 0), run.output


def test_passwords_are_for_the_workers_and_tokens_for_the_master(site: Site, host: Host) -> None:
    folder = "/etc/nginx/seawall-private"
    listed = host.run("stat", "--format=%n %U:%G %a", folder, f"{folder}/passwords", f"{folder}/tokens.conf").stdout
    assert listed.splitlines() == [
        f"{folder} root:www-data 710",
        f"{folder}/passwords root:www-data 640",
        f"{folder}/tokens.conf root:root 600",
    ]


def test_the_tree_knows_what_its_public_lists_leave_out(site: Site, host: Host) -> None:
    private = host.run("cat", "/srv/seawall/private").stdout
    assert private == "certs\ncerts/build\nfar\nnear\nteam-a\nteam-b\n"


WRONG: list[tuple[dict[str, object], str]] = [
    ({"origin_namespaces": [{"prefix": "Team/", "access": "public"}]}, "names the prefixes Team/"),
    ({"origin_namespaces": [{"prefix": "a", "access": "basic", "users": ["eve"]}]}, "names eve, whom"),
    ({"origin_namespaces": [{"prefix": "a", "access": "address", "users": ["bob"]}]}, "none of them with another"),
    ({"origin_namespaces": [{"prefix": "a", "access": "secret"}]}, "value of access must be one of"),
    ({"origin_namespaces": [{"prefix": "a", "access": "address", "addresses": ["all;"]}]}, "has the addresses all;"),
    ({"origin_users": {"alice": "plain-4711", "bob": "plain-4711"}}, "Look at alice, bob"),
    ({"origin_token_secret": "short-4711"}, "origin_token_secret is too short"),
    ({"origin_tls_certificate": "", "origin_tls_certificate_key": "", "origin_listen": ["80"]}, "in the clear"),
    ({"origin_client_ca": "/nowhere.pem"}, "has no file /nowhere.pem"),
]


def test_wrong_input_is_refused_and_no_secret_is_told(site: Site) -> None:
    tasks = [
        {
            "name": "Refuse",
            "block": [
                {
                    "name": "Look",
                    "ansible.builtin.include_role": {"name": "origin", "tasks_from": "preflight"},
                    "vars": {**site.variables, **changed},
                }
            ],
            "rescue": [{"name": "Go on", "ansible.builtin.meta": "noop"}],
        }
        for changed, _ in WRONG
    ]
    playbook = site.folder / "wrong.yml"
    playbook.write_text(json.dumps([{"name": "Wrong", "hosts": "origin", "gather_facts": False, "tasks": tasks}]))
    output = site.rollout.play(str(playbook), "-v").output
    assert f"rescued={len(WRONG)} " in output
    said = " ".join(output.split())
    assert [named for _, named in WRONG if named not in said] == []
    assert "4711" not in output
    assert_silent(site, output)


# --- real clients ---------------------------------------------------------------------------------------------------


@pytest.fixture
def strict_engine(lab_folder: Path, lab_network: Network, site: Site) -> Iterator[Engine]:
    """An engine without any image on a machine of its own, which trusts the origin's authority and nothing else."""
    certificates = Path("/etc/docker/certs.d") / ORIGIN  # the sandbox's own folder
    certificates.mkdir(parents=True)
    namespace = Namespace.attach("strict", "198.18.0.201", lab_network)
    try:
        (certificates / "ca.crt").write_bytes(site.authority.read_bytes())
        with (
            tempfile.TemporaryDirectory(prefix="strict-", dir=lab_folder) as folder,
            Engine.start(Path(folder) / "engine", namespace=namespace.name, plain_http=False) as started,
        ):
            yield started
    finally:
        namespace.detach()
        for path in certificates.iterdir():
            path.unlink()
        certificates.rmdir()


def refused(engine: Engine, *arguments: str, stdin: str | None = None) -> str:
    ran = engine.call(*arguments, stdin=stdin, check=False)
    assert ran.returncode != 0, ran.stdout
    return ran.stderr


def test_docker_logs_in_and_pulls_public_and_private_from_one_host(site: Site, strict_engine: Engine) -> None:
    public, private, others = (f"{ORIGIN}/{name}:{site.tag}" for name in ("lab/layers", "team-a/app", "team-b/app"))
    strict_engine.docker("pull", public)
    assert "unauthorized" in refused(strict_engine, "pull", private)
    login = ("login", "--username=alice", "--password-stdin", ORIGIN)
    assert "unauthorized" in refused(strict_engine, *login, stdin="guessed")
    assert "Login Succeeded" in strict_engine.docker(*login, stdin=PASSWORDS["alice"])
    assert f"Digest: {site.digest}" in strict_engine.docker("pull", private)
    assert "denied" in refused(strict_engine, "pull", others)
    strict_engine.docker("rmi", "--force", public, private)
    strict_engine.docker("pull", public)
    strict_engine.docker("logout", ORIGIN)
    assert "unauthorized" in refused(strict_engine, "pull", private)
    strict_engine.docker("pull", public)


def test_docker_shows_the_certificate_in_certs_d(site: Site, strict_engine: Engine) -> None:
    reference = f"{ORIGIN}/certs/build:{site.tag}"
    assert "denied" in refused(strict_engine, "pull", reference)
    for kind in ("cert", "key"):
        certificate = Path("/etc/docker/certs.d") / ORIGIN / f"client.{kind}"
        certificate.write_bytes((site.folder / f"build.{kind}").read_bytes())
    assert f"Digest: {site.digest}" in strict_engine.docker("pull", reference)


def test_containerd_pulls_public_and_private(site: Site, client_engine: Engine) -> None:
    address = client_engine.socket.removeprefix("unix://").replace("docker.sock", "exec/containerd/containerd.sock")
    # docker.io's containerd knows the engine's network only through the engine's own namespace.
    ctr = ["nsenter", "--net=/run/netns/client", "ctr", f"--address={address}", "content", "fetch"]

    def fetch(repository: str, *options: str) -> subprocess.CompletedProcess[str]:
        reference = f"{ORIGIN}/{repository}:{site.tag}"
        return run([*ctr, f"--tlscacert={site.authority}", *options, reference], check=False)

    assert fetch("lab/layers").returncode == 0
    assert "401" in fetch("team-a/app").stderr
    assert fetch("team-a/app", f"--user=alice:{PASSWORDS['alice']}").returncode == 0
    assert fetch("lab/layers", f"--user=alice:{PASSWORDS['alice']}").returncode == 0
    assert fetch("team-a/app", "--user=alice:guessed").returncode != 0
    assert "403" in fetch("team-b/app", f"--user=alice:{PASSWORDS['alice']}").stderr


def test_skopeo_reads_public_and_private(site: Site) -> None:
    def inspect(repository: str, *options: str) -> subprocess.CompletedProcess[str]:
        reference = f"docker://{ORIGIN}/{repository}:{site.tag}"
        return run(["skopeo", "inspect", f"--cert-dir={site.folder / 'certs'}", *options, reference], check=False)

    (site.folder / "certs").mkdir()
    (site.folder / "certs" / "ca.crt").write_bytes(site.authority.read_bytes())
    assert inspect("lab/layers").returncode == 0
    assert "unauthorized" in inspect("team-a/app").stderr
    answer = inspect("team-a/app", f"--creds=alice:{PASSWORDS['alice']}")
    assert json.loads(answer.stdout)["RepoTags"] == [site.tag]
    assert "invalid username/password" in inspect("team-a/app", "--creds=alice:guessed").stderr
    assert "denied" in inspect("team-b/app", f"--creds=alice:{PASSWORDS['alice']}").stderr


def test_seawall_verify_is_let_in_as_docker_login_and_certificates_let_it(site: Site) -> None:
    def verify(repository: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "seawall", "verify", URL, f"{repository}:{site.tag}", *options]
        return run(command, check=False, env={**os.environ, **environment})

    login = site.folder / "login"
    login.mkdir()
    environment = {"PYTHONPATH": str(TOP / "tools"), "REQUESTS_CA_BUNDLE": str(site.authority)}
    environment["DOCKER_CONFIG"] = str(login)
    assert "all holds" in verify("lab/layers").stdout
    assert "status 401, not 200" in verify("team-a/app").stdout
    auth = basic("alice", PASSWORDS["alice"]).removeprefix("Basic ")
    (login / "config.json").write_text(json.dumps({"auths": {ORIGIN: {"auth": auth}}}))
    assert "all holds" in verify("team-a/app").stdout
    pair = site.folder / "build.pem"
    pair.write_bytes(b"".join((site.folder / f"build.{kind}").read_bytes() for kind in ("cert", "key")))
    assert "all holds" in verify("certs/build", f"--client-certificate={pair}").stdout


# --- what is written down -------------------------------------------------------------------------------------------


def assert_silent(site: Site, text: str) -> None:
    """No secret of the site is in *text*."""
    for user, password in PASSWORDS.items():
        assert password not in text
        assert basic(user, password).removeprefix("Basic ") not in text
        assert site.token(user) not in text
    for secret in (SECRET, *site.users.values()):
        assert secret not in text


def test_ansible_tells_no_secret(site: Site) -> None:
    assert "private | Render the passwords" in site.run.output
    assert_silent(site, site.run.output)


def test_the_logs_hold_no_secret(site: Site, host: Host) -> None:
    host.run("nginx", "-s", "reopen")  # writes what was kept back
    access = host.run("sh", "-c", "cat /var/log/nginx/access.log").stdout
    assert '"path":"/token"' in access
    assert '"user":"alice"' in access
    assert_silent(site, access)
    assert_silent(site, host.run("sh", "-c", "cat /var/log/nginx/error.log").stdout)


def test_a_new_password_makes_a_new_token_and_ends_the_old_ones(site: Site) -> None:
    old = site.authorization("alice, with her token")
    new = run(["htpasswd", "-nbBC", "5", "alice", "another"]).stdout.strip().partition(":")[2]
    assert site.play(origin_users={**site.users, "alice": new}).code == 0

    def status(path: str, authorization: str) -> int:
        headers = {"Authorization": authorization}
        return requests.get(URL + path, headers=headers, verify=str(site.authority), timeout=20).status_code

    path = "/v2/team-a/app/tags/list"
    assert [status(path, old), status(path, basic("alice", PASSWORDS["alice"]))] == [401, 401]
    assert [status("/token", basic("alice", "another")), status(path, basic("alice", "another"))] == [200, 200]
