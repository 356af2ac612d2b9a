"""Connections are bounded as a whole, and a wait for a server ends when the process is to end."""

import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from seawall import http_session
from seawall.errors import ExitCode, SourceError
from seawall.http_session import HttpSession
from seawall.reference import RegistryLocation
from seawall.registry import RegistrySource
from seawall.tree import INCOMING
from unit.fake_registry import FakeRegistry, Fault, make_image, make_layer
from unit.tool_site import Site, entry

READ_TIMEOUT = 0.3
SOON = 5
"""Seconds, on a busy machine; a silent server has 60."""


@pytest.fixture
def source(registry: FakeRegistry) -> Iterator[RegistrySource]:
    http = HttpSession(read_timeout=READ_TIMEOUT, sleep=lambda _seconds: None)
    yield RegistrySource(RegistryLocation(registry.host, "team/app"), plain_http=True, http=http)
    http.close()


def seconds_until_it_gives_up(ask: Callable[[], object], says: str) -> float:
    begun = time.monotonic()
    with pytest.raises(SourceError, match=says):
        ask()
    return time.monotonic() - begun


def test_headers_that_drip_are_given_up(registry: FakeRegistry, source: RegistrySource) -> None:
    # Each byte comes well before the read timeout; all of them would take ten minutes.
    registry.misbehave(Fault(drip_headers=READ_TIMEOUT / 6))
    assert seconds_until_it_gives_up(lambda: source.resolve("1"), "drips its answer, 3 times in a row") < 5


def test_a_chunk_size_that_drips_is_given_up(registry: FakeRegistry, source: RegistrySource) -> None:
    image = registry.add_image("team/app", "1")
    registry.misbehave(Fault(drip_size=READ_TIMEOUT / 6))
    layer = image.layers[0]
    assert seconds_until_it_gives_up(lambda: list(source.blob(layer)), "drips its answer") < 5
    assert seconds_until_it_gives_up(lambda: source.manifest(image.digest), "drips its answer") < 5


def test_headers_that_take_their_time_are_read(registry: FakeRegistry, source: RegistrySource) -> None:
    image = registry.add_image("team/app", "1")
    registry.misbehave(Fault(drip_headers=0.001))
    assert source.resolve("1") == image.descriptor


def test_a_connection_that_took_its_time_serves_the_next_answer_too(
    registry: FakeRegistry, source: RegistrySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_session, "MIN_RATE", 1)
    image = registry.add_image("team/app", "1", make_image(layers=[make_layer("drips", 1500)]))
    registry.misbehave(Fault(on="/blobs/", drip=0.001))
    for _ in range(2):
        # Longer than headers may take, and never silent.
        assert len(b"".join(source.blob(image.layers[0]))) == 1500


def interrupted(site: Site, is_waiting: Callable[[], object], number: signal.Signals) -> float:
    """Interrupt a sync once it waits; return how many seconds it took to end."""
    with site.start("sync", site.lock_file, site.root, "--jobs", "2") as process:
        deadline = time.monotonic() + 30
        while not is_waiting():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(number)
        begun = time.monotonic()
        _, printed = process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED, printed.decode()
    assert printed.decode().splitlines()[-1] == "seawall: interrupted; run again to go on"
    return time.monotonic() - begun


@pytest.fixture
def locked(site: Site, registry: FakeRegistry) -> Site:
    registry.add_image("team/app", "1", make_image(layers=[make_layer("large", 50_000), make_layer("small")]))
    site.declare(entry(registry, "team/app", "1"))
    assert site.lock().code == 0
    registry.requests.clear()
    return site


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_silence_in_the_middle_of_a_blob_ends_when_it_is_interrupted(
    number: signal.Signals, locked: Site, registry: FakeRegistry
) -> None:
    large = make_image(layers=[make_layer("large", 50_000)]).layers[0].digest
    registry.misbehave(Fault(on=large, die_after=20_000, stall=60, times=1))
    partial = locked.root / INCOMING / f"{large.hex}.part"
    assert interrupted(locked, lambda: partial.exists() and partial.stat().st_size == 20_000, number) < SOON
    assert [path.name for path in (locked.root / INCOMING).iterdir()] == [partial.name], "what came is kept"
    assert locked.sync().code == 0
    assert registry.asked("GET", large)[-1].range == "bytes=20000-"
    assert locked.scrubbed() == []


@pytest.mark.parametrize("fault", [Fault(stall=60), Fault(drip_headers=0.5), Fault(drip_size=0.5)])
def test_an_answer_that_does_not_come_ends_when_it_is_interrupted(
    fault: Fault, locked: Site, registry: FakeRegistry
) -> None:
    registry.misbehave(fault)
    assert interrupted(locked, lambda: registry.requests, signal.SIGINT) < SOON


def test_silence_under_tls_ends_when_it_is_interrupted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(site.folder / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(site.folder / "ca.pem"))
    with FakeRegistry(tls=context) as registry:
        image = registry.add_image("team/app", "1")
        site.declare(entry(registry, "team/app", "1") | {"plain_http": False})
        assert site.lock().code == 0
        registry.misbehave(Fault(on=image.layers[0].digest, die_after=100, stall=60, times=1))
        assert interrupted(site, lambda: registry.asked("GET", image.layers[0].digest), signal.SIGINT) < SOON
        assert site.sync().code == 0


def test_a_server_that_does_not_take_the_connection_ends_when_it_is_interrupted(locked: Site) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for one in (first, second):
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        text = locked.lock_file.read_text()
        old = text.partition("docker://127.0.0.1:")[2].partition("/")[0]
        locked.lock_file.write_text(text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{port}"))

        def waiting() -> bool:
            # Of the kernel's connections to that port, more are being made (02) than the one that filled the queue.
            return len(re.findall(f":{port:04X} 02 ", Path("/proc/net/tcp").read_text())) > 1

        assert interrupted(locked, waiting, signal.SIGINT) < SOON


def test_a_server_that_does_not_shake_hands_ends_when_it_is_interrupted(locked: Site) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []
    thread = threading.Thread(target=lambda: accepted.append(silent.accept()[0]), daemon=True)
    thread.start()
    text = locked.lock_file.read_text()
    port = silent.getsockname()[1]
    old = text.partition("docker://127.0.0.1:")[2].partition("/")[0]
    locked.lock_file.write_text(
        text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{port}").replace("  plain_http: true\n", "")
    )
    assert interrupted(locked, lambda: accepted, signal.SIGINT) < SOON
    for one in (silent, *accepted):
        one.close()
