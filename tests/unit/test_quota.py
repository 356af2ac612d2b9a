"""Quotas: what servers say of them, in each form there is, is shown and obeyed, within bounds."""

import signal
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import ExitCode, SourceError, TransientError
from seawall.http_session import QUOTA_WAITS_MAX, RETRY_AFTER_MAX, HttpSession
from seawall.quota import Quota, parse_quota, shortage
from seawall.reference import RegistryLocation
from seawall.registry import RegistrySource
from unit.fake_registry import FakeRegistry, Fault
from unit.tool_site import Site, entry


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def http(pauses: list[float]) -> Iterator[HttpSession]:
    session = HttpSession(read_timeout=0.3, sleep=pauses.append)
    yield session
    session.close()


@pytest.fixture
def source(registry: FakeRegistry, http: HttpSession) -> RegistrySource:
    registry.add_image("team/app", "1")
    return RegistrySource(RegistryLocation(registry.host, "team/app"), plain_http=True, http=http)


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}, Quota(76, 100, 21600)),
        ({"RateLimit-Limit": "100", "RateLimit-Remaining": "0", "RateLimit-Reset": "30"}, Quota(0, 100, None, 30)),
        ({"RateLimit-Limit": "10, 10;w=1, 50;w=60", "RateLimit-Remaining": "9"}, Quota(9, 10, 1)),
        ({"RateLimit": "limit=100, remaining=50, reset=5"}, Quota(50, 100, None, 5)),
        ({"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'}, Quota(50, 100, 60, 30)),
        ({"RateLimit-Remaining": "7"}, Quota(7)),
    ],
)
def test_each_form_is_understood(headers: dict[str, str], quota: Quota) -> None:
    assert parse_quota(headers) == quota


@pytest.mark.parametrize("value", ["", "-1", "many", "1" * 13, "1.5", "nan", "\u0663", ";w=5"])
def test_what_is_no_number_counts_as_not_said(value: str) -> None:
    assert parse_quota({"RateLimit-Remaining": value}) is None
    assert parse_quota({"RateLimit-Remaining": "5", "RateLimit-Reset": value}) == Quota(5)


@given(st.dictionaries(st.sampled_from(["RateLimit", "RateLimit-Policy", "RateLimit-Remaining"]), st.text()))
def test_no_header_whatever_is_an_accident(headers: dict[str, str]) -> None:
    quota = parse_quota(headers)
    assert quota is None or quota.remaining >= 0


def test_a_quota_that_is_used_up_is_waited_for(
    registry: FakeRegistry, source: RegistrySource, pauses: list[float]
) -> None:
    registry.misbehave(Fault(headers={"RateLimit-Remaining": "0", "RateLimit-Reset": "7"}, times=1))
    source.resolve("1")
    assert pauses == []
    source.resolve("1")
    assert [6 < pause < 9 for pause in pauses] == [True]


def test_a_quota_that_stays_used_up_for_long_is_not_asked_on(
    registry: FakeRegistry, source: RegistrySource, pauses: list[float]
) -> None:
    headers = {"RateLimit-Limit": "100", "RateLimit-Remaining": "0", "RateLimit-Reset": "999999999999"}
    registry.misbehave(Fault(headers=headers))
    source.resolve("1")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"0 of 100 requests remain.* try again in") as caught:
            source.resolve("1")
        assert not isinstance(caught.value, TransientError)
    assert len(registry.requests) == 1
    assert pauses == []


def test_a_refusal_is_waited_out_by_the_reset_where_there_is_no_retry_after(
    registry: FakeRegistry, source: RegistrySource, pauses: list[float]
) -> None:
    headers = {"RateLimit-Remaining": "0", "RateLimit-Reset": "7"}
    registry.misbehave(Fault(status=429, headers=headers, times=1))
    source.resolve("1")
    assert [7 <= pause < 8 for pause in pauses] == [True]


def test_without_a_reset_a_used_up_quota_is_only_what_the_server_makes_of_it(
    registry: FakeRegistry, source: RegistrySource, pauses: list[float]
) -> None:
    # Docker Hub counts manifests and no blobs; whether a request counts, it alone knows.
    registry.misbehave(Fault(headers={"RateLimit-Remaining": "0;w=21600"}))
    source.resolve("1")
    source.resolve("1")
    assert pauses == []


@pytest.mark.parametrize("reset", ["0", "59", "61", "-5", "9" * 30, "soon"])
def test_no_header_makes_it_wait_for_more_than_a_minute(
    reset: str, registry: FakeRegistry, source: RegistrySource, pauses: list[float]
) -> None:
    registry.misbehave(Fault(headers={"RateLimit-Remaining": "0", "RateLimit-Reset": reset}))
    for _ in range(3):
        try:
            source.resolve("1")
        except SourceError:
            break
    assert all(pause <= RETRY_AFTER_MAX + 1 for pause in pauses)


def test_a_registry_that_has_us_wait_again_and_again_is_given_up(
    registry: FakeRegistry, source: RegistrySource, pauses: list[float]
) -> None:
    registry.misbehave(Fault(headers={"RateLimit-Remaining": "0", "RateLimit-Reset": "50"}))

    def go_on() -> None:
        for _ in range(100):
            source.resolve("1")

    with pytest.raises(SourceError, match="the quota of requests is used up"):
        go_on()
    assert 0.9 * QUOTA_WAITS_MAX < sum(pauses) < 1.1 * QUOTA_WAITS_MAX


def test_what_remains_is_told_with_the_result(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
    registry.misbehave(Fault(on="/manifests/", headers=headers))
    row = {"host": registry.host, "remaining": 76, "limit": 100, "window": 21600, "reset": None}
    site.declare(entry(registry, "team/app", "1"))
    assert site.lock().answer["quotas"] == [row]
    assert site.sync().answer["quotas"] == [row]
    assert f"{registry.host}: 76 of 100 requests remain (per 21600 s)\n" in site.run("lock", site.images_file).out + (
        site.run("lock", site.images_file, "--upgrade").out
    )
    assert site.sync().answer["quotas"] == [], "nobody was asked"


def limited(registry: FakeRegistry, count: int) -> None:
    """Let *registry* answer so many GETs of manifests, counting down, and refuse all that follow."""
    for left in reversed(range(count)):
        registry.misbehave(
            Fault(on="/manifests/", method="GET", headers={"RateLimit-Remaining": f"{left};w=21600"}, times=1)
        )
    registry.misbehave(Fault(on="/manifests/", method="GET", status=429, headers={"Retry-After": "3600"}))


def test_a_quota_that_will_not_do_is_said_once_and_each_run_goes_on_from_the_last(
    site: Site, registry: FakeRegistry
) -> None:
    tags = [f"{number}" for number in range(10)]
    for tag in tags:
        registry.add_image("team/app", tag)
    site.declare(entry(registry, "team/app", *tags))
    site.lock()
    limited(registry, 4)
    ran = site.sync("--jobs", "1")
    assert ran.code == ExitCode.SOURCE
    line = f"{registry.host}: at least 9 more are needed, and 3 requests remain (per 21600 s); what is fetched stays"
    assert [line in row for row in ran.err.splitlines()] == [True, False]
    assert "the quota of requests is used up" in ran.err.splitlines()[-1]
    registry.behave()
    limited(registry, 6)
    assert site.sync("--jobs", "1").code == 0
    assert len(site.tags()) == 10
    assert len(registry.asked("GET", "/manifests/")) <= 10 + 2, "none that came is asked for again"


def test_blobs_count_where_they_are_counted(site: Site, registry: FakeRegistry) -> None:
    registry.add_image("team/app", "1")
    site.declare(entry(registry, "team/app", "1"))
    site.lock()
    registry.misbehave(Fault(headers={"RateLimit-Remaining": "2", "RateLimit-Reset": "30"}))
    ran = site.sync()
    assert ran.code == 0
    assert "at least 3 more are needed, and 2 requests remain; what is fetched stays: run again in 30 s" in ran.err


@given(needed=st.integers(0, 1000), remaining=st.integers(0, 1000))
def test_only_a_shortage_is_said(needed: int, remaining: int) -> None:
    assert (shortage("host", needed, Quota(remaining)) is None) == (needed <= remaining)
    assert shortage("host", needed, None) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("path", ["/blobs/", "/manifests/"])
def test_a_wait_for_a_server_ends_at_once_when_it_is_interrupted(
    number: signal.Signals, path: str, site: Site, registry: FakeRegistry
) -> None:
    registry.add_image("team/app", "1")
    site.declare(entry(registry, "team/app", "1"))
    site.lock()
    registry.misbehave(Fault(on=path, status=429, headers={"Retry-After": "50"}))
    registry.requests.clear()
    with site.start("sync", site.lock_file, site.root) as process:
        deadline = time.monotonic() + 20
        while not registry.asked("GET", path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(number)
        _, printed = process.communicate(timeout=3)
    assert process.returncode == ExitCode.INTERRUPTED
    assert printed.decode().splitlines()[-1] == "seawall: interrupted; run again to go on"
