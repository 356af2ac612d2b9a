"""The command line: what it prints, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seawall
from seawall.cli import COMMANDS
from unit.fake_registry import FakeImage, FakeRegistry, make_image
from unit.tool_site import Site, entry


def test_ls_shows_digest_kind_platforms_and_size(site: Site, registry: FakeRegistry, platforms: FakeImage) -> None:
    registry.add_image("team/app", "1.0", platforms)
    registry.add_image("team/app", "single")
    site.publish(entry(registry, "team/app", "1.0", "single"))
    shown = site.run("ls", site.root).out.splitlines()
    assert shown[0].split() == ["REFERENCE", "DIGEST", "KIND", "PLATFORMS", "SIZE"]
    assert shown[1].split()[:4] == [
        "up.example/team/app:1.0",
        f"sha256:{platforms.digest.hex[:12]}",
        "oci-index",
        "linux/amd64,linux/arm64/v8",
    ]
    assert shown[2].split()[2:4] == ["oci-manifest", "linux/amd64"]
    row = site.run("ls", site.root, "--json").answer[0]
    contents = {d: c for image in platforms.images for d, c in {**image.blobs, image.digest: image.content}.items()}
    assert row["size"] == sum(map(len, contents.values())) + len(platforms.content)


def test_ls_of_a_long_name_is_never_cut_short(site: Site, registry: FakeRegistry) -> None:
    long = "/".join(["component" * 3] * 8)
    registry.add_image("team/app", "t" * 128)
    site.publish(entry(registry, "team/app", "t" * 128, name=long))
    assert f"{long}:{'t' * 128}" in site.run("ls", site.root).out


def test_inspect_shows_what_an_image_is_made_of(site: Site, registry: FakeRegistry, platforms: FakeImage) -> None:
    registry.add_image("team/app", "1.0", platforms)
    site.publish(entry(registry, "team/app", "1.0"))
    shown = site.run("inspect", site.root, "up.example/team/app:1.0").out
    assert "application/vnd.oci.image.index.v1+json" in shown
    for image in platforms.images:
        assert str(image.platform) in shown
        assert all(str(layer.digest) in shown for layer in image.layers)
    by_digest = site.run("inspect", site.root, f"up.example/team/app@{platforms.digest}", "--json").answer
    assert [image["platform"] for image in by_digest["images"]] == ["linux/amd64", "linux/arm64/v8"]


def test_an_unknown_reference_is_named(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    site.publish(entry(registry, "team/app", "1.0"))
    ran = site.run("inspect", site.root, "up.example/team/app:2.0")
    assert ran.code == 3
    assert ran.err.startswith("seawall: up.example/team/app:2.0: is not in ")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["inspect", ".", "no-tag"], 6, "is not a tree"),
        (["sync", "none.lock", "tree"], 3, "none.lock: cannot be read"),
        (["verify", "http://user:secret@h.example"], 3, "has credentials in it"),
        (["verify", "http://127.0.0.1:1"], 4, "does not answer"),
        (["verify", "https://"], 3, "is not the URL of a server"),
        (["frobnicate"], 2, "No such command"),
        (["sync"], 2, "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(
    arguments: list[str], code: int, says: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / "file").touch()
    monkeypatch.chdir(site.folder)
    ran = site.run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert "secret" not in ran.err
    assert "Traceback" not in ran.err
    if code != 2:
        assert len(ran.err.splitlines()) == 1


def test_a_hostile_name_cannot_forge_a_second_line(site: Site) -> None:
    ran = site.run("inspect", site.folder, "a:b\nseawall: all is well\x1b[2K")
    assert len(ran.err.splitlines()) == 1
    assert "\x1b" not in ran.err


def test_results_go_to_stdout_and_progress_to_stderr(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1.0")
    site.declare(entry(registry, "team/app", "1.0"))
    site.lock()
    ran = site.sync()
    assert json.loads(ran.out)["release"] == 1
    assert "3 blobs, " in ran.err
    assert "up.example/team/app:1.0 -> sha256:" in ran.err


def test_every_command_has_help_that_fits_a_terminal(site: Site) -> None:
    for name in (None, *COMMANDS):
        ran = site.run(*([name] if name else []), "--help")
        assert ran.code == 0
        assert all(len(line) <= 100 for line in ran.out.splitlines())


def test_it_ends_quietly_when_nobody_reads_on(site: Site, registry: FakeRegistry) -> None:
    for number in range(200):
        registry.add_image("team/app", f"t{number}", make_image("same"))
    site.publish(entry(registry, "team/app", *(f"t{number}" for number in range(200))))
    package = Path(seawall.__path__[0]).parent
    ran = subprocess.run(
        f"{sys.executable} -m seawall ls {site.root} | head -n 1",
        shell=True,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("REFERENCE")
    assert ran.stderr == ""
