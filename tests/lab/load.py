"""Pulls that go on while something happens to the servers: requests, each answer checked, and a real engine's.

They end when the block ends, after MOST_SECONDS, or after MOST_REQUESTS, whatever comes first, and go to nobody
but the endpoints that are given.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import urllib3

from .command import CommandFailedError
from .host import Host
from .images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

MOST_SECONDS = 400.0
MOST_REQUESTS = 50_000
THREADS = 3
PAUSE_SECONDS = 0.03
ANSWER_SECONDS = 30.0
PULL_SECONDS = 60.0
ACCEPT = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX))


@dataclass(frozen=True)
class Wanted:
    """A path, and the digests of which its answer has to have one: a tag that moves has two."""

    path: str
    digests: frozenset[str]


@dataclass(frozen=True)
class Failure:
    """A pull that came to nothing."""

    at: float
    """Seconds since the load began."""
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.what}: {self.why}"


@dataclass
class Kind:
    """How pulls of one kind went."""

    tried: int = 0
    slowest: float = 0.0
    """Seconds."""


@dataclass
class Tally:
    """How it went since the load began."""

    requests: Kind = field(default_factory=Kind)
    pulls: Kind = field(default_factory=Kind)
    failed: list[Failure] = field(default_factory=list)
    again: int = 0
    """Requests that were sent again, because a server had closed the connection that was kept for the next."""
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return (
            f"{self.requests.tried} requests, slowest {self.requests.slowest:.2f} s, {self.again} sent again; "
            f"{self.pulls.tried} pulls, slowest {self.pulls.slowest:.2f} s; {len(self.failed)} failed"
        )


class _ClosedError(Exception):
    """The connection ended before there was an answer."""


@contextmanager
def load(
    endpoints: Sequence[str],
    wanted: Sequence[Wanted],
    client: Host | None = None,
    references: Sequence[str] = (),
    *,
    authority: str | None = None,
) -> Iterator[Tally]:
    """Ask `endpoints` for what is `wanted`, and let the engine on `client` pull `references`, until the block ends.

    Several endpoints are asked in turn, as engines ask mirrors: a request has failed when none gave what is wanted.
    `authority` is a file with the certificate that theirs have to be from.  What was counted is printed.
    """
    tally, lock, ended = Tally(), threading.Lock(), threading.Event()

    def over() -> bool:
        return ended.is_set() or time.monotonic() > tally.began + MOST_SECONDS or tally.requests.tried >= MOST_REQUESTS

    def note(kind: Kind, start: float, what: str, why: str) -> None:
        with lock:
            kind.tried += 1
            kind.slowest = max(kind.slowest, time.monotonic() - start)
            if why:
                tally.failed.append(Failure(start - tally.began, what, why))

    def send_again() -> None:
        with lock:
            tally.again += 1

    def ask() -> None:
        trusted = {"ca_certs": authority} if authority else {}
        pools = [urllib3.connection_from_url(url, timeout=ANSWER_SECONDS, **trusted) for url in endpoints]
        for row in itertools.cycle(wanted):
            if over() or ended.wait(PAUSE_SECONDS):
                return
            start = time.monotonic()
            note(tally.requests, start, row.path, _ask_in_turn(pools, row, send_again))

    def pull() -> None:
        if client is None:
            return
        for reference in itertools.cycle(references):
            if over():
                return
            start = time.monotonic()
            note(tally.pulls, start, f"docker pull {reference}", _pull(client, reference))

    threads = [threading.Thread(target=work) for work in (*[ask] * THREADS, *([pull] if references else []))]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        ended.set()
        for thread in threads:
            thread.join(PULL_SECONDS + ANSWER_SECONDS)
        print(tally, *tally.failed[:20], sep="\n")


def _ask_in_turn(pools: Sequence[urllib3.HTTPConnectionPool], row: Wanted, send_again: Callable[[], None]) -> str:
    """Why no endpoint gave what is wanted; empty if one did."""
    faults = []
    for pool in pools:
        try:
            fault = _ask(pool, row)
        except _ClosedError:
            # As HTTP clients do (RFC 9110, 9.2.2): a GET may be sent twice, and this server may have had no fault.
            send_again()
            try:
                fault = _ask(pool, row)
            except _ClosedError as error:
                fault = str(error)
        if not fault:
            return ""
        faults.append(f"{pool.host}: {fault}")
    return "; ".join(faults)


def _ask(pool: urllib3.HTTPConnectionPool, row: Wanted) -> str:
    """What is wrong with the answer; empty if nothing is.  Raises _ClosedError."""
    try:
        answer = pool.request("GET", row.path, headers={"Accept": ACCEPT}, retries=False)
    except urllib3.exceptions.ProtocolError as error:
        raise _ClosedError(str(error)) from error
    except urllib3.exceptions.HTTPError as error:
        return str(error)
    if answer.status != 200:
        return f"status {answer.status}"
    digest = f"sha256:{hashlib.sha256(answer.data).hexdigest()}"
    if answer.headers.get("Docker-Content-Digest", digest) != digest:
        return "other bytes than its own header says"
    return "" if digest in row.digests else f"other bytes: {digest}"


def _pull(client: Host, reference: str) -> str:
    """Why the engine could not pull into an empty store; empty if it could."""
    client.run("docker", "rmi", "--force", reference, check=False)
    try:
        client.run("timeout", str(PULL_SECONDS), "docker", "pull", "--quiet", reference)
    except CommandFailedError as error:
        return (error.stderr.strip() or error.stdout.strip() or f"exit code {error.code}").replace("\n", " ")
    return ""
