"""Requests of clients that do not stop while something happens to the servers, each answer checked by its digest."""

import hashlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

THREADS = 4
PAUSE_SECONDS = 0.02
GIVE_UP_SECONDS = 30.0


@dataclass
class Tally:
    """How it went, of every request since the beginning."""

    tried: int = 0
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.tried} requests, {len(self.failed)} failed, slowest {self.slowest:.2f} s"


@contextmanager
def pulling(url: str, wanted: Mapping[str, str], verify: str | None = None) -> Iterator[Tally]:
    """Ask *url* for the paths that are *wanted*, each with the digest of what it has to answer, until the block ends.

    Every thread keeps its connection, as clients do, and asks again at once only where it failed: nothing is retried.
    """
    tally, lock, ended = Tally(), threading.Lock(), threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            for path in itertools.cycle(wanted):
                if ended.wait(PAUSE_SECONDS):
                    return
                start = time.monotonic()
                fault = _fault(session, url + path, wanted[path], verify)
                seconds = time.monotonic() - start
                with lock:
                    tally.tried += 1
                    tally.slowest = max(tally.slowest, seconds)
                    if fault:
                        tally.failed.append(f"{path} after {seconds:.2f} s: {fault}")

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        ended.set()
        for thread in threads:
            thread.join(GIVE_UP_SECONDS)
        print(tally, *tally.failed[:10], sep="\n")


def _fault(session: requests.Session, url: str, digest: str, verify: str | None) -> str:
    try:
        answer = session.get(url, timeout=GIVE_UP_SECONDS, verify=verify)
    except requests.RequestException as error:
        return str(error)
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    return "" if f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == digest else "other bytes"
