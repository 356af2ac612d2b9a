"""Add and stage: one image by hand, by the means of a sync."""

import json
from pathlib import Path

import pytest

from seawall.digest import Digest
from seawall.errors import ExitCode, InputError
from seawall.reference import ImageSource, LayoutLocation, RegistryLocation, parse_image_source
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_image
from unit.tool_site import Site, entry

DIGEST = Digest.of(b"image")
NAME = "by/hand"


def write_layout(folder: Path, tag: str, image: FakeImage) -> None:
    """Write *image* as an OCI image layout."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    for digest, content in {**image.blobs, image.digest: image.content}.items():
        (blobs / digest.hex).write_bytes(content)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    row = {
        "mediaType": image.manifest.kind.media_type,
        "digest": str(image.digest),
        "size": len(image.content),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [row]}))


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("docker://h.example/a/b:1", ImageSource(RegistryLocation("h.example", "a/b"), "1")),
        ("docker://h.example:5000/a", ImageSource(RegistryLocation("h.example:5000", "a"), "latest")),
        ("docker://alpine", ImageSource(RegistryLocation("docker.io", "library/alpine"), "latest")),
        ("docker://alpine:3.20", ImageSource(RegistryLocation("docker.io", "library/alpine"), "3.20")),
        (f"docker://h.example:5000/a@{DIGEST}", ImageSource(RegistryLocation("h.example:5000", "a"), None, DIGEST)),
        (f"docker://h.example/a:1@{DIGEST}", ImageSource(RegistryLocation("h.example", "a"), "1", DIGEST)),
        ("oci:some/dir:1", ImageSource(LayoutLocation(Path("some/dir")), "1")),
        ("oci:/d:3.20", ImageSource(LayoutLocation(Path("/d")), "3.20")),
    ],
)
def test_a_source_is_spelled_as_the_field_spells_it(text: str, means: ImageSource) -> None:
    assert parse_image_source(text) == means


@pytest.mark.parametrize(
    "text",
    ["", "alpine", "docker:", "docker://", "docker://h.example/a@sha256:1", "oci:", "oci:dir", "oci:d:a b", "x:y:z"],
)
def test_a_source_that_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_image_source(text)


def test_an_image_is_added_by_tag_and_is_a_release(site: Site, registry: FakeRegistry, platforms: FakeImage) -> None:
    registry.add_image("team/app", "1.0", platforms)
    ran = site.run("add", site.root, f"docker://{registry.host}/team/app:1.0", NAME, "--plain-http", "--json")
    assert ran.code == 0, ran.err
    assert ran.answer["release"] == 1
    assert site.tags() == {f"{NAME}:1.0": str(platforms.digest)}
    assert site.scrubbed() == []
    listed = site.run("releases", site.root, "--json").answer
    assert [(row["by"], row["lock"]) for row in listed] == [("add", None)]
    assert not list((site.root / "locks").iterdir())
    again = site.run("add", site.root, f"docker://{registry.host}/team/app:1.0", NAME, "--plain-http")
    assert again.out.endswith("unchanged, serves 1 tag\n")


def test_an_image_is_added_by_digest(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app")
    source = f"docker://{registry.host}/team/app@{image.digest}"
    untagged = site.run("add", site.root, source, NAME, "--plain-http")
    assert untagged.code == ExitCode.INPUT
    assert "say which one it gets" in untagged.err
    assert site.run("add", site.root, source, f"{NAME}:pinned", "--plain-http").code == 0
    assert site.tags() == {f"{NAME}:pinned": str(image.digest)}


def test_an_image_is_added_from_a_layout_which_needs_a_name(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image("layout")
    write_layout(tmp_path / "layout", "stable", image)
    monkeypatch.chdir(tmp_path)
    unnamed = site.run("add", site.root, "oci:layout:stable")
    assert unnamed.code == ExitCode.INPUT
    assert "has no name that a tree can use" in unnamed.err
    assert site.run("add", site.root, "oci:layout:stable", f"{NAME}:1").code == 0
    assert site.tags() == {f"{NAME}:1": str(image.digest)}
    assert site.scrubbed() == []


def test_what_was_added_by_hand_is_never_withdrawn_by_a_sync(site: Site, registry: FakeRegistry) -> None:
    for tag in ("1", "2", "3"):
        registry.add_image("team/app", tag, make_image(tag))
    site.publish(entry(registry, "team/app", "1", "2"), name="by-hand")
    site.run("add", site.root, f"docker://{registry.host}/team/app:3", "up.example/team/app", "--plain-http")
    site.publish(entry(registry, "team/app", "1"), name="by-hand")
    assert set(site.tags()) == {"up.example/team/app:1", "up.example/team/app:3"}
    assert site.sync().answer["changed"] is False


def test_only_what_the_tree_lacks_is_fetched_and_a_rehearsal_fetches_nothing(
    site: Site, registry: FakeRegistry
) -> None:
    registry.add_image("team/app", "1")
    arguments = ("add", site.root, f"docker://{registry.host}/team/app:1", NAME, "--plain-http", "--json")
    planned = site.run(*arguments, "--dry-run").answer
    assert not site.root.exists()
    assert not registry.asked("GET", "/blobs/")
    done = site.run(*arguments).answer
    assert planned["fetched"] == done["fetched"]
    assert planned["moved"] == done["moved"]
    asked = len(registry.asked("GET", "/blobs/"))
    assert site.run("add", site.root, f"docker://{registry.host}/team/app:1", "other:x", "--plain-http").code == 0
    assert len(registry.asked("GET", "/blobs/")) == asked


def test_a_source_that_fails_leaves_the_tree_as_it_was(site: Site, registry: FakeRegistry) -> None:
    image = registry.add_image("team/app", "1")
    registry.misbehave(Fault(on=image.layers[0].digest, wrong_bytes=True))
    ran = site.run("add", site.root, f"docker://{registry.host}/team/app:1", NAME, "--plain-http")
    assert ran.code == ExitCode.SOURCE
    assert site.tags() == {}
    assert site.scrubbed() == []


# Stage.


def test_staging_prints_the_reference_that_pins_the_image_and_nothing_else(
    site: Site, registry: FakeRegistry, platforms: FakeImage
) -> None:
    registry.add_image("team/app", "latest", platforms)
    ran = site.run("stage", site.root, f"docker://{registry.host}/team/app", NAME, "--plain-http")
    assert ran.code == 0, ran.err
    assert ran.out == f"{NAME}@{platforms.digest}\n"
    assert site.tags() == {f"{NAME}:staged-{platforms.digest.hex}": str(platforms.digest)}
    assert site.run("inspect", site.root, ran.out.strip()).code == 0
    assert site.run("releases", site.root, "--json").answer[0]["by"] == "stage"


def test_staging_again_changes_nothing_and_a_moved_tag_is_staged_beside(site: Site, registry: FakeRegistry) -> None:
    source = f"docker://{registry.host}/team/app:latest"
    old = registry.add_image("team/app", "latest", make_image("old"))
    assert site.run("stage", site.root, source, NAME, "--plain-http", "--json").answer["changed"] is True
    assert site.run("stage", site.root, source, NAME, "--plain-http", "--json").answer["changed"] is False
    new = registry.add_image("team/app", "latest", make_image("new"))
    answer = site.run("stage", site.root, source, NAME, "--plain-http", "--json").answer
    assert (answer["pinned"], answer["reference"]) == (f"{NAME}@{new.digest}", f"{NAME}:staged-{new.digest.hex}")
    assert set(site.tags().values()) == {str(old.digest), str(new.digest)}


def test_a_staged_name_never_names_another_image(site: Site, registry: FakeRegistry) -> None:
    source = f"docker://{registry.host}/team/app:latest"
    old = registry.add_image("team/app", "latest", make_image("old"))
    site.run("stage", site.root, source, NAME, "--plain-http")
    registry.add_image("team/app", "latest", make_image("new"))
    site.run("add", site.root, source, f"{NAME}:new", "--plain-http")
    before = site.tags()
    for command in (
        ("tag", site.root, f"{NAME}:new", f"staged-{old.digest.hex}"),
        ("add", site.root, source, f"{NAME}:staged-{old.digest.hex}", "--plain-http"),
    ):
        for rehearsal in ((), ("--dry-run",)):
            ran = site.run(*command, *rehearsal)
            assert ran.code == ExitCode.INPUT
            assert "for good" in ran.err
    assert site.tags() == before


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("option", ["--credentials-env", "--credentials-file"])
def test_credentials_live_for_the_command_alone(
    option: str, auth: str, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "s3cret:with-colon"
    monkeypatch.setenv("LOGIN", f"ada:{secret}")
    (tmp_path / "login").write_text(f"ada:{secret}\n")
    (tmp_path / "login").chmod(0o600)
    given = "LOGIN" if option == "--credentials-env" else tmp_path / "login"
    with FakeRegistry(auth, username="ada", password=secret) as registry:
        image = registry.add_image("team/app", "1")
        command = ("stage", site.root, f"docker://{registry.host}/team/app:1", NAME, "--plain-http")
        assert site.run(*command).code == ExitCode.CREDENTIALS
        ran = site.run(*command, option, given)
    assert ran.out == f"{NAME}@{image.digest}\n", ran.err
    assert "s3cret" not in ran.out + ran.err
    assert not [path for path in site.root.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert not (tmp_path / "docker").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--credentials-env", "NONE_SUCH"], "$NONE_SUCH: holds no credentials"),
        (["--credentials-env", "PASSWORD_ALONE"], "holds no credentials"),
        (["--credentials-file", "none/such"], "cannot be read"),
        (["--credentials-env", "LOGIN", "--credentials-file", "x"], "give one of them"),
    ],
)
def test_credentials_that_are_none_are_named_without_a_word_of_them(
    options: list[str], says: str, site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_ALONE", "s3cret")
    monkeypatch.setenv("LOGIN", "ada:s3cret")
    registry.add_image("team/app", "1")
    ran = site.run("stage", site.root, f"docker://{registry.host}/team/app:1", NAME, "--plain-http", *options)
    assert ran.code == ExitCode.INPUT
    assert says in ran.err
    assert "s3cret" not in ran.err
    assert not site.root.exists()


def test_a_layout_wants_no_credentials(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN", "ada:s3cret")
    ran = site.run("stage", site.root, "oci:layout:1", NAME, "--credentials-env", "LOGIN")
    assert ran.code == ExitCode.INPUT
    assert "wants no credentials" in ran.err
