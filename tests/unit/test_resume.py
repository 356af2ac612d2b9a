"""A blob that was interrupted goes on from where it stopped, and nothing wrong comes of what was kept."""

import signal
import time
from pathlib import Path

import pytest

from seawall import sync, writer
from seawall.errors import ExitCode
from seawall.layout import LayoutSource
from seawall.manifest import Descriptor
from seawall.reference import LayoutLocation
from seawall.tree import INCOMING
from seawall.writer import hold
from unit.fake_registry import FakeImage, FakeRegistry, Fault, make_image, make_layer
from unit.tool_site import Ran, Site, entry

SIZE = 300_000


class Download:
    """A site that is about to fetch an image with one large layer."""

    def __init__(self, site: Site, registry: FakeRegistry) -> None:
        self.site = site
        self.registry = registry
        self.image: FakeImage = registry.add_image(
            "team/app", "1", make_image("app", layers=[make_layer("large", SIZE)])
        )
        site.declare(entry(registry, "team/app", "1"))
        assert site.lock().code == 0
        # What a run costs that fetches every byte once.
        self.least_bytes = len(self.image.content) + sum(map(len, self.image.blobs.values()))
        registry.bytes_sent = 0

    @property
    def blob(self) -> Descriptor:
        return self.image.layers[0]

    @property
    def content(self) -> bytes:
        return self.image.blobs[self.blob.digest]

    @property
    def partial(self) -> Path:
        return self.site.root / INCOMING / f"{self.blob.digest.hex}.part"

    def ranges(self) -> list[str | None]:
        """What parts of the layer the registry was asked for, None for the whole."""
        return [asked.range for asked in self.registry.asked("GET", self.blob.digest)]

    def fails(self) -> Ran:
        ran = self.site.sync()
        assert ran.code == ExitCode.SOURCE, ran.err
        self.registry.behave()
        return ran

    def succeeds(self) -> None:
        ran = self.site.sync()
        assert ran.code == 0, ran.err
        assert self.site.scrubbed() == []
        assert self.site.tree.blob_path(self.blob.digest).read_bytes() == self.content
        assert not list((self.site.root / INCOMING).iterdir())

    def interrupt(self, at: int) -> None:
        """Leave the first *at* bytes behind, as a run does whose source was cut each time."""
        self.registry.misbehave(Fault(on=self.blob.digest, die_after=at, times=1))
        self.registry.misbehave(Fault(on=self.blob.digest, die_after=-1))
        self.fails()
        assert self.partial.read_bytes() == self.content[:at]
        self.registry.requests.clear()


@pytest.fixture
def download(site: Site, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Download:
    monkeypatch.setattr(sync, "_PAUSE", 0.0)
    monkeypatch.setattr("seawall.http_session._BACKOFF", 0.0)
    return Download(site, registry)


@pytest.mark.parametrize("at", [1, 4096, SIZE // 2, SIZE - 1])
def test_after_a_cut_only_the_rest_is_asked_for(at: int, download: Download) -> None:
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=at, times=1))
    download.succeeds()
    assert download.ranges() == [None, f"bytes={at}-"]
    assert download.registry.bytes_sent == download.least_bytes


def test_after_each_of_several_cuts_only_the_rest_is_asked_for(download: Download) -> None:
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=100_000, times=2))
    download.succeeds()
    assert download.ranges() == [None, "bytes=100000-", "bytes=200000-"]
    assert download.registry.bytes_sent == download.least_bytes


def test_a_cut_before_the_first_byte_is_answered_by_asking_for_all(download: Download) -> None:
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=0, times=1))
    download.succeeds()
    assert download.ranges() == [None, None]


def test_tries_that_bring_much_do_not_count(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_WORTH_ANOTHER_TRY", 40_000)
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=40_000, times=7))
    download.succeeds()
    assert len(download.ranges()) == 8
    assert download.registry.bytes_sent == download.least_bytes


def test_tries_that_bring_little_count(download: Download) -> None:
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=40_000))
    download.fails()
    assert len(download.ranges()) == 3
    assert download.partial.stat().st_size == 120_000


@pytest.mark.parametrize("at", [1, SIZE // 2, SIZE - 1])
def test_the_next_run_goes_on_where_a_failed_one_stopped(at: int, download: Download) -> None:
    download.interrupt(at)
    download.succeeds()
    assert download.ranges() == [f"bytes={at}-"]
    # Nothing but the manifest was sent twice, once to each run.
    assert download.registry.bytes_sent == download.least_bytes + len(download.image.content)


def test_the_next_run_goes_on_with_what_the_failure_of_another_blob_stopped(download: Download) -> None:
    config = download.image.manifest.blobs[0].digest
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=SIZE // 2, stall=1.0))
    download.registry.misbehave(Fault(on=config, wrong_bytes=True, stall=0.3))
    assert "other bytes" in download.fails().err
    assert [left.name for left in (download.site.root / INCOMING).iterdir()] == [download.partial.name]
    size = download.partial.stat().st_size
    download.registry.requests.clear()
    download.succeeds()
    assert download.ranges() == [f"bytes={size}-"]


def test_the_run_after_a_kill_asks_only_for_the_rest(download: Download) -> None:
    half = SIZE // 2
    download.registry.misbehave(Fault(on=download.blob.digest, die_after=half, stall=60))
    with download.site.start("sync", download.site.lock_file, download.site.root) as process:
        deadline = time.monotonic() + 20
        while not download.partial.exists() or download.partial.stat().st_size < half:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    download.registry.behave()
    assert {finding["kind"] for finding in download.site.scrubbed()} <= {"stale", "unnamed"}
    download.registry.requests.clear()
    download.succeeds()
    assert download.ranges() == [f"bytes={half}-"]


def test_a_run_that_was_killed_just_before_the_rename_left_nothing_to_ask_for(download: Download) -> None:
    download.interrupt(SIZE - 1)
    download.partial.write_bytes(download.content)
    download.partial.chmod(0o444)
    download.succeeds()
    assert download.ranges() == []


# Servers that are not of help.


def test_a_server_without_ranges_sends_it_all_again(download: Download) -> None:
    download.interrupt(1000)
    download.registry.misbehave(Fault(without_ranges=True))
    download.succeeds()
    assert download.ranges() == ["bytes=1000-"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=416),
        Fault(headers={"Content-Range": f"bytes 0-{SIZE - 1001}/{SIZE}"}),
        Fault(headers={"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE + 1}"}),
        Fault(headers={"Content-Range": f"bytes 1000-2000/{SIZE}"}),
        Fault(headers={"Content-Range": f"pages 1000-{SIZE - 1}/{SIZE}"}),
        Fault(headers={"Content-Range": "bytes"}),
        Fault(without=("Content-Range",)),
    ],
    ids=["416", "another range", "another size", "too little", "another unit", "nonsense", "no range"],
)
def test_a_server_that_answers_with_another_range_is_asked_for_the_whole(fault: Fault, download: Download) -> None:
    download.interrupt(1000)
    fault.ranged = True
    download.registry.misbehave(fault)
    download.succeeds()
    assert download.ranges() == ["bytes=1000-", None]


def test_a_range_of_unknown_total_is_taken(download: Download) -> None:
    download.interrupt(1000)
    header = {"Content-Range": f"bytes 1000-{SIZE - 1}/*"}
    download.registry.misbehave(Fault(ranged=True, headers=header))
    download.succeeds()
    assert download.ranges() == ["bytes=1000-"]


def test_a_server_that_only_ever_sends_parts_is_refused(download: Download) -> None:
    download.registry.misbehave(Fault(on=download.blob.digest, status=206))
    assert "answered 206" in download.fails().err
    assert not download.partial.exists()


def test_a_rest_that_is_too_long_is_refused_and_nothing_of_it_kept(download: Download) -> None:
    download.interrupt(1000)
    download.registry.misbehave(Fault(on=download.blob.digest, endless=True))
    assert "more than" in download.fails().err
    assert not download.partial.exists()


def test_wrong_bytes_in_the_rest_lead_to_one_try_for_the_whole(download: Download) -> None:
    download.interrupt(1000)
    download.registry.misbehave(Fault(ranged=True, wrong_bytes=True))
    download.succeeds()
    assert download.ranges() == ["bytes=1000-", None]


def test_wrong_bytes_are_refused_and_not_kept(download: Download) -> None:
    download.interrupt(1000)
    download.registry.misbehave(Fault(on=download.blob.digest, wrong_bytes=True))
    assert "other bytes" in download.fails().err
    assert download.ranges() == ["bytes=1000-", None]
    assert not download.partial.exists()


def test_the_rest_is_asked_for_where_the_registry_redirects_to(download: Download) -> None:
    with FakeRegistry(store=download.registry.store) as cdn:
        download.interrupt(1000)
        download.registry.misbehave(Fault(on="/blobs/", redirect_to=cdn.url))
        download.succeeds()
        assert [asked.range for asked in cdn.asked("GET", download.blob.digest)] == ["bytes=1000-"]
        assert cdn.bytes_sent == SIZE - 1000


def test_a_layout_is_read_from_where_it_stopped(download: Download) -> None:
    folder = download.site.folder / "layout"
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "blobs/sha256" / download.blob.digest.hex).write_bytes(download.content)
    source = LayoutSource(LayoutLocation(folder))
    for start in (0, 1, SIZE - 1, SIZE):
        assert b"".join(source.blob(download.blob, start)) == download.content[start:]


# What lies in the tree may be changed, and must not stay for ever.


@pytest.mark.parametrize("change", ["zeros", "longer", "shorter"])
def test_a_part_that_a_power_failure_changed_does_no_harm(change: str, download: Download) -> None:
    download.interrupt(1000)
    contents = {"zeros": bytes(1000), "longer": bytes(SIZE + 1), "shorter": download.content[:400]}
    download.partial.write_bytes(contents[change])
    download.succeeds()
    asked = {"zeros": ["bytes=1000-", None], "longer": [None], "shorter": ["bytes=400-"]}
    assert download.ranges() == asked[change]


def test_a_part_counts_for_the_room_that_is_needed(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    download.interrupt(SIZE - 10)
    wanted: list[int] = []
    monkeypatch.setattr(writer.TreeWriter, "require_space", lambda _self, size: wanted.append(size))
    download.succeeds()
    assert wanted[0] < 1000


def test_what_no_run_can_want_is_removed_and_the_rest_is_kept(download: Download) -> None:
    download.interrupt(1000)
    incoming = download.site.root / INCOMING
    names = [f"{'0' * 64}.part", f"{'1' * 64}.12345", "link.1", "note.part"]
    for name in names:
        (incoming / name).touch()
    (incoming / f"{'2' * 64}.part").symlink_to(download.site.lock_file)
    with hold(download.site.tree):
        assert list(incoming.iterdir()) == [download.partial]
    download.succeeds()
    download.partial.write_bytes(b"the tree has it already")
    with hold(download.site.tree):
        assert not list(incoming.iterdir())


def test_what_nobody_wanted_for_a_week_is_removed(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    download.interrupt(1000)
    now = time.time()
    monkeypatch.setattr("seawall.writer.time.time", lambda: now + writer.PARTIAL_KEPT - 60)
    with hold(download.site.tree):
        assert download.partial.exists()
    monkeypatch.setattr("seawall.writer.time.time", lambda: now + writer.PARTIAL_KEPT + 60)
    with hold(download.site.tree):
        assert not download.partial.exists()
