"""Images out of the local engine into a tree, and out of a tree into the local engine."""

import functools
import json
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seawall.digest import Digest
from seawall.errors import ExitCode, InputError
from seawall.manifest import Manifest
from seawall.pulling import engine_name, parse_wanted
from seawall.reference import Reference
from unit.archives import SavedImage, make_saved, saved_files, write_archive
from unit.fake_engine import FakeEngine
from unit.fake_ssh import FakeSsh
from unit.tool_site import Site

APP = make_saved("team/app:1.0", layers=3)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    # Of its own: the name of a socket has at most 107 bytes (unix(7)).
    with tempfile.TemporaryDirectory() as folder, FakeEngine(Path(folder) / "docker.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine


@pytest.fixture
def filled(site: Site) -> Site:
    """A site whose tree has the image under the name that an engine gives it."""
    archive = write_archive(site.folder / "app.tar", saved_files(APP))
    assert site.run("add", site.root, f"docker-archive:{archive}:team/app:1.0").code == 0
    return site


def of_tree(site: Site, reference: str) -> Manifest:
    return site.tree.read_manifest(site.tree.named_manifest(Reference.parse(reference)))


# Into a tree


def test_an_image_of_the_engine_is_added_under_its_full_name_and_keeps_its_id(site: Site, engine: FakeEngine) -> None:
    engine.add(APP)
    ran = site.run("add", site.root, "docker-daemon:team/app:1.0")
    assert ran.code == 0, ran.err
    config = of_tree(site, "docker.io/team/app:1.0").config
    assert config is not None
    assert config.digest == APP.id
    assert site.scrubbed() == []


def test_the_engine_and_its_archive_lead_to_one_digest(filled: Site, engine: FakeEngine) -> None:
    before = filled.tags()
    engine.add(APP)
    assert filled.run("add", filled.root, "docker-daemon:team/app:1.0", "--json").answer["changed"] is False
    assert filled.tags() == before


def test_an_image_is_exported_once_for_all_its_tags(site: Site, engine: FakeEngine) -> None:
    engine.add(make_saved("app:1", "app:2"))
    engine.add(make_saved("other:1", seed="other"))
    site.publish({"source": "docker-daemon:app", "tags": ["*"]})
    exports = [request for request in engine.asked if request.endswith("/get")]
    # Once for the lock, once for the sync.
    assert len(exports) == 2
    assert set(site.tags()) == {"docker.io/library/app:1", "docker.io/library/app:2"}


def test_an_image_is_staged_by_its_id(site: Site, engine: FakeEngine) -> None:
    image_id = engine.add(APP)
    ran = site.run("stage", site.root, f"docker-daemon:{image_id}", "apps/shop")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("apps/shop@sha256:")


def test_a_sync_whose_tree_has_it_asks_no_engine(site: Site, engine: FakeEngine) -> None:
    engine.add(APP)
    site.publish({"source": "docker-daemon:team/app", "tags": ["1.0"]})
    engine.asked.clear()
    assert site.lock().answer["requests"] == 0
    assert site.sync().answer["requests"] == 0
    assert engine.asked == []


def test_a_sync_is_not_fooled_by_an_image_that_was_built_anew(site: Site, engine: FakeEngine) -> None:
    engine.add(APP)
    site.declare({"source": "docker-daemon:team/app", "tags": ["1.0"]})
    assert site.lock().code == 0
    engine.add(make_saved("team/app:1.0", seed="new"))
    ran = site.sync()
    assert ran.code == ExitCode.SOURCE
    assert "docker-daemon:docker.io/team/app:1.0: is sha256:" in ran.err
    assert site.tags() == {}


@pytest.mark.parametrize("after", [0, 700, 30_000])
def test_an_export_that_is_cut_is_an_error_and_nothing_is_written(site: Site, engine: FakeEngine, after: int) -> None:
    engine.add(APP)
    engine.cut_export_after = after
    ran = site.run("add", site.root, "docker-daemon:team/app:1.0")
    assert (ran.code, ran.err.count("\n")) == (ExitCode.SOURCE, 1), ran.err
    assert not site.root.exists()


def test_an_image_that_the_engine_lacks_and_an_engine_that_is_away_are_named(
    site: Site, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = site.run("add", site.root, "docker-daemon:team/app:1.0")
    assert (ran.code, "docker.io/team/app:1.0: the engine has no such image" in ran.err) == (ExitCode.SOURCE, True)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{site.folder}/none.sock")
    ran = site.run("add", site.root, "docker-daemon:team/app:1.0")
    assert (ran.code, "does not answer" in ran.err) == (ExitCode.SOURCE, True)


# Out of a tree


def test_an_image_is_pulled_into_an_empty_engine_and_is_the_same(filled: Site, engine: FakeEngine) -> None:
    ran = filled.run("pull", filled.root, "team/app:1.0")
    assert ran.code == 0, ran.err
    assert ran.out == f"{APP.id}\n"
    assert engine.images == {str(APP.id): APP}
    assert engine.names == {"team/app:1.0": str(APP.id)}


def test_what_the_engine_has_is_not_sent_again(filled: Site, engine: FakeEngine) -> None:
    assert filled.run("pull", filled.root, "team/app:1.0").code == 0
    again = filled.run("pull", filled.root, "team/app:1.0", "--json").answer
    assert (again["changed"], again["id"], again["size"]) == (False, str(APP.id), 0)
    assert filled.run("pull", filled.root, "team/app:1.0", "--as", "h.example:5000/other:2").out == f"{APP.id}\n"
    assert engine.names["h.example:5000/other:2"] == str(APP.id)
    assert len(engine.loaded) == 1


@pytest.fixture
def web(filled: Site) -> Iterator[str]:
    """The URL of a plain web server of the tree's files."""
    handler = functools.partial(QuietHandler, directory=str(filled.root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_a_tree_behind_any_web_server_or_ssh_is_pulled_from(
    filled: Site, engine: FakeEngine, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeSsh(tmp_path, monkeypatch)
    for place in (web, f"ssh://tree.example{filled.root}"):
        ran = filled.run("pull", place, "team/app:1.0")
        assert (ran.code, ran.out) == (0, f"{APP.id}\n"), ran.err
        assert engine.images == {str(APP.id): APP}
        engine.images.clear()
        engine.names.clear()


def test_layers_that_another_image_of_the_engine_has_are_not_read(filled: Site, engine: FakeEngine) -> None:
    base = json.loads(APP.config)
    base["rootfs"]["diff_ids"] = base["rootfs"]["diff_ids"][:2]
    engine.add(SavedImage(json.dumps(base).encode(), APP.layers[:2], ("base:1",)))
    lowest = of_tree(filled, "docker.io/team/app:1.0").layers[0]
    filled.tree.blob_path(lowest.digest).unlink()
    ran = filled.run("pull", filled.root, "team/app:1.0", "--json")
    assert ran.code == 0, ran.err
    assert [row["digest"] for row in ran.answer["sent"]] == [
        str(of_tree(filled, "docker.io/team/app:1.0").layers[2].digest)
    ]
    assert engine.images[str(APP.id)] == APP


def test_a_dry_run_says_what_a_real_one_does_and_sends_nothing(filled: Site, engine: FakeEngine) -> None:
    ran = filled.run("pull", filled.root, "team/app:1.0", "--dry-run")
    assert "docker.io/team/app:1.0: would be loaded, 3 layers" in ran.out
    planned = filled.run("pull", filled.root, "team/app:1.0", "--dry-run", "--json").answer
    assert engine.loaded == []
    done = filled.run("pull", filled.root, "team/app:1.0", "--json").answer
    assert planned | {"dry_run": False} == done


@pytest.mark.parametrize("api", ["1.41", "1.42"])
def test_zstd_is_unpacked_for_an_engine_that_does_not_read_it(site: Site, engine: FakeEngine, api: str) -> None:
    archive = write_archive(site.folder / "app.tar", saved_files(APP))
    assert site.run("add", site.root, f"docker-archive:{archive}", "app:1", "--compression", "zstd").code == 0
    engine.api = api
    ran = site.run("pull", site.root, "app:1")
    assert ran.code == 0, ran.err
    assert engine.images[str(APP.id)].layers == APP.layers
    [files] = engine.loaded
    assert any(content.startswith(b"\x28\xb5\x2f\xfd") for content in files.values()) == (api == "1.42")
    # Where layers were unpacked, there is no layout whose digests would be wrong.
    assert ("index.json" in files) == (api == "1.42")


def test_an_engine_that_keeps_manifests_gets_the_trees_own(filled: Site, engine: FakeEngine) -> None:
    engine.keeps_manifests, engine.api = True, "1.47"
    manifest = of_tree(filled, "docker.io/team/app:1.0")
    ran = filled.run("pull", filled.root, "team/app:1.0")
    assert (ran.code, ran.out) == (0, f"{manifest.digest}\n"), ran.err
    assert engine.loaded[0][f"blobs/sha256/{manifest.digest.hex}"] == manifest.content
    assert filled.run("pull", filled.root, "team/app:1.0", "--json").answer["changed"] is False


def test_the_platform_of_the_engine_is_taken_and_another_one_if_asked(site: Site, engine: FakeEngine) -> None:
    rows = []
    for architecture in ("amd64", "arm64"):
        config = json.loads(APP.config) | {"architecture": architecture}
        image = SavedImage(json.dumps(config).encode(), APP.layers, (f"app:{architecture}",))
        archive = write_archive(site.folder / "app.tar", saved_files(image))
        assert (
            site.run("add", site.root, f"docker-archive:{archive}:app:{architecture}", f"app:{architecture}").code == 0
        )
        manifest = of_tree(site, f"app:{architecture}")
        described = {
            "mediaType": manifest.kind.media_type,
            "digest": str(manifest.digest),
            "size": len(manifest.content),
        }
        rows.append(described | {"platform": {"os": "linux", "architecture": architecture}})
    add_index(site, rows)
    engine.platform = ("linux", "arm64")
    assert site.run("pull", site.root, "multi:1", "--json").answer["platform"] == "linux/arm64"
    assert (
        site.run("pull", site.root, "multi:1", "--platform", "linux/amd64", "--json").answer["platform"]
        == "linux/amd64"
    )
    ran = site.run("pull", site.root, "multi:1", "--platform", "linux/s390x")
    assert (ran.code, "it has linux/amd64, linux/arm64" in ran.err) == (ExitCode.SOURCE, True)
    ran = site.run("pull", site.root, "app:amd64")
    assert (ran.code, "is for linux/amd64, not for linux/arm64" in ran.err) == (ExitCode.SOURCE, True)


def add_index(site: Site, rows: list[dict[str, object]]) -> None:
    """Add the index of *rows*, which the tree has, as multi:1."""
    media_type = "application/vnd.oci.image.index.v1+json"
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": rows}).encode()
    folder = site.folder / "layout"
    (folder / "blobs/sha256").mkdir(parents=True)
    for stored in (site.root / "content").rglob("*"):
        if stored.is_file():
            (folder / "blobs/sha256" / stored.name.partition(".")[0]).write_bytes(stored.read_bytes())
    (folder / "blobs/sha256" / Digest.of(content).hex).write_bytes(content)
    row = {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(
        json.dumps({"manifests": [row | {"annotations": {"org.opencontainers.image.ref.name": "1"}}]})
    )
    assert site.run("add", site.root, f"oci:{folder}:1", "multi").code == 0


@pytest.mark.parametrize("number", [0, 2])
def test_a_blob_of_other_bytes_ends_the_pull_and_nothing_is_loaded(
    filled: Site, engine: FakeEngine, number: int
) -> None:
    layer = of_tree(filled, "docker.io/team/app:1.0").layers[number]
    path = filled.tree.blob_path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    ran = filled.run("pull", filled.root, "team/app:1.0")
    assert (ran.code, "sent other bytes" in ran.err) == (ExitCode.SOURCE, True)
    assert engine.images == {}


def test_an_engine_that_refuses_is_quoted(filled: Site, engine: FakeEngine) -> None:
    engine.refuse = "no space left on device"
    ran = filled.run("pull", filled.root, "team/app:1.0")
    assert (ran.code, "no space left on device" in ran.err) == (ExitCode.SOURCE, True)


def test_an_image_by_its_digest_gets_no_name_unless_one_is_given(filled: Site, engine: FakeEngine) -> None:
    digest = of_tree(filled, "docker.io/team/app:1.0").digest
    assert filled.run("pull", filled.root, f"team/app@{digest}").out == f"{APP.id}\n"
    assert engine.names == {}
    assert filled.run("pull", filled.root, f"team/app@{digest}", "--as", "mine").code == 0
    assert engine.names == {"mine:latest": str(APP.id)}


def test_what_the_tree_has_not_is_an_error(filled: Site, engine: FakeEngine) -> None:
    ran = filled.run("pull", filled.root, "team/app:2.0")
    assert (ran.code, "team/app:2.0" in ran.err, "no such image" in ran.err) == (ExitCode.SOURCE, True, True)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("alpine", ["alpine:latest", "docker.io/library/alpine:latest"]),
        ("team/app:1", ["team/app:1", "docker.io/team/app:1"]),
        ("up.example/app:1", ["up.example/app:1"]),
    ],
)
def test_an_image_is_looked_for_as_it_stands_and_in_full(text: str, found: list[str]) -> None:
    assert [str(reference) for reference in parse_wanted(text)] == found


@pytest.mark.parametrize("text", ["", ":1", "UPPER", "a:b c", "a@sha256:1", "a//b"])
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_wanted(text)


@pytest.mark.parametrize(
    ("reference", "wanted", "name"),
    [
        ("docker.io/library/alpine:3", "", "docker.io/library/alpine:3"),
        ("app:1", "", "docker.io/library/app:1"),
        ("app:1", "h.example:5000/x", "h.example:5000/x:latest"),
        (f"app@{Digest.of(b'')}", "", ""),
    ],
)
def test_the_name_in_the_engine(reference: str, wanted: str, name: str) -> None:
    assert engine_name(Reference.parse(reference), wanted) == name
