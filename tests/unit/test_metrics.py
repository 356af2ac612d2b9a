"""What a run came to, for monitoring: it is there however the run ended, and a failure forgets nothing."""

import re
import time
from pathlib import Path

import pytest

from seawall.errors import SourceError
from seawall.metrics import read_figures, recording, render
from seawall.writer import hold
from unit.fake_registry import FakeRegistry
from unit.tool_site import Site, entry


def figures(path: Path, target: object) -> dict[str, float]:
    return read_figures(path.read_text(), str(target))


@pytest.fixture
def published(site: Site, registry: FakeRegistry) -> Site:
    registry.add_image("team/app", "1.0")
    site.publish(entry(registry, "team/app", "1.0"))
    return site


def test_a_prune_says_how_much_it_freed(published: Site, tmp_path: Path) -> None:
    file = tmp_path / "prune.prom"
    content = [path for path in (published.root / "content").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in content)
    for lock in (published.root / "locks").glob("*.lock"):
        lock.unlink()
    assert published.run("rm", published.root, "up.example/team/app:1.0").code == 0
    before = time.time()
    ran = published.run("prune", published.root, "--keep-releases", 1, "--grace", "0s", "--metrics", file)
    assert ran.code == 0
    said = figures(file, published.root)
    assert (said["freed_bytes"], said["removed_files"], said["exit_code"]) == (size, len(content), 0)
    assert before <= said["last_success_timestamp_seconds"] == said["last_run_timestamp_seconds"] <= time.time()
    assert 0 < said["duration_seconds"] < 60


def test_a_failure_is_seen_and_forgets_nothing(published: Site, tmp_path: Path) -> None:
    file = tmp_path / "prune.prom"
    prune = ("prune", published.root, "--grace", "0s", "--metrics", file)
    assert published.run(*prune).code == 0
    well = figures(file, published.root)
    with hold(published.tree):
        assert published.run(*prune).code == 7
    said = figures(file, published.root)
    assert said["exit_code"] == 7
    assert said["last_run_timestamp_seconds"] > well["last_run_timestamp_seconds"]
    for kept in ("last_success_timestamp_seconds", "freed_bytes", "removed_files"):
        assert said[kept] == well[kept]


def test_a_verify_counts_what_is_broken(published: Site, tmp_path: Path) -> None:
    file = tmp_path / "verify.prom"
    verify = ("verify", published.root, "--metrics", file)
    assert published.run(*verify).code == 0
    well = figures(file, published.root)
    assert (well["faults"], well["exit_code"]) == (0, 0)
    assert well["read_manifests"] > 0
    blob = next(path for path in (published.root / "content/blobs").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"other")
    assert published.run(*verify).code == 1
    said = figures(file, published.root)
    assert said["faults"] > 0
    assert said["exit_code"] == 1
    assert said["last_success_timestamp_seconds"] == well["last_success_timestamp_seconds"]


def test_a_repair_tells_what_is_left(published: Site, tmp_path: Path) -> None:
    file = tmp_path / "verify.prom"
    next((published.root / "v2").rglob("tags/list")).unlink()
    assert published.run("verify", published.root, "--repair", "--metrics", file).code == 0
    assert figures(file, published.root)["faults"] == 0


@pytest.mark.parametrize("command", ["prune", "verify"])
def test_a_dry_run_has_nothing_to_tell(command: str, published: Site, tmp_path: Path) -> None:
    more = ["--repair"] if command == "verify" else []
    ran = published.run(command, published.root, *more, "--dry-run", "--metrics", tmp_path / "x.prom")
    assert ran.code == 2
    assert "--metrics" in ran.err
    assert not (tmp_path / "x.prom").exists()


def test_a_file_that_cannot_be_written_is_named_before_anything_is_removed(published: Site, tmp_path: Path) -> None:
    ran = published.run("prune", published.root, "--metrics", tmp_path)
    assert ran.code == 3
    assert str(tmp_path) in ran.err


def test_a_run_ends_with_its_own_error_where_the_file_cannot_be_written_either(tmp_path: Path) -> None:
    with pytest.raises(SourceError), recording(tmp_path / "none/x.prom", "verify", "t"):
        raise SourceError("registry", "is away", "wait")


@pytest.mark.parametrize(
    ("error", "code"), [(SystemExit(1), 1), (KeyboardInterrupt(), 130), (OSError(), 6), (ValueError(), 1)]
)
def test_every_end_has_its_code(error: BaseException, code: int, tmp_path: Path) -> None:
    with pytest.raises(type(error)), recording(tmp_path / "x.prom", "verify", "t"):
        raise error
    assert figures(tmp_path / "x.prom", "t")["exit_code"] == code


def test_it_is_what_prometheus_reads() -> None:
    text = render("verify", 'a"b\\c\nd', {"faults": 3, "read_bytes": 1e12})
    for line in text.splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE) seawall_verify_\w+ .+|seawall_verify_\w+\{target="a\\"b\\\\c\\nd"\} \S+', line
        )
    assert read_figures(text, 'a"b\\c\nd') == {"faults": 3.0, "read_bytes": 1e12}


def test_what_is_no_figure_of_ours_is_left_out() -> None:
    lines = (
        'seawall_verify_faults{target="t"} many',
        'seawall_verify_faults{target="u"} 1',
        'seawall_x_y{target="t"} 1',
    )
    assert read_figures("\n".join((*lines, "other 1")), "t") == {}
