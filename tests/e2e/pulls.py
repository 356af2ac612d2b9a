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
PIECE_BYTES = 65536


@dataclass
class Tally:
    """How it went, of every request since the beginning."""

    tried: int = 0
    resumed: int = 0
    """Answers that broke off under way, and came whole when asked for from there on."""
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.tried} requests, {self.resumed} resumed, {len(self.failed)} failed, slowest {self.slowest:.2f} s"


@contextmanager
def pulling(url: str, wanted: Mapping[str, str], verify: str | None = None) -> Iterator[Tally]:
    """Ask *url* for the paths that are *wanted*, each with the digest of what it has to answer, until the block ends.

    Every thread keeps its connection, as clients do. Nothing is asked twice, but for the rest of an answer that broke
    off under way: no server can help when the one that sends is gone, and engines go on from there, too.
    """
    tally, lock, ended = Tally(), threading.Lock(), threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            for path in itertools.cycle(wanted):
                if ended.wait(PAUSE_SECONDS):
                    return
                start = time.monotonic()
                fault, resumed = _fault(session, url + path, wanted[path], verify)
                seconds = time.monotonic() - start
                with lock:
                    tally.tried += 1
                    tally.resumed += resumed
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


def _fault(session: requests.Session, url: str, digest: str, verify: str | None) -> tuple[str, bool]:
    """Return what is wrong with the answer, empty if nothing is, and whether it broke off and was resumed."""
    body = bytearray()
    resumed = False
    while True:
        headers = {"Range": f"bytes={len(body)}-"} if body else {}
        try:
            answer = session.get(url, timeout=GIVE_UP_SECONDS, verify=verify, headers=headers, stream=True)
        except requests.RequestException as error:
            return str(error), resumed
        with answer:
            if answer.status_code != (206 if body else 200):
                return f"status {answer.status_code}", resumed
            try:
                for piece in answer.iter_content(PIECE_BYTES):
                    body += piece
            except requests.RequestException as error:
                if resumed:
                    return str(error), resumed
                resumed = True
            else:
                right = f"sha256:{hashlib.sha256(body).hexdigest()}" == digest
                return "" if right else "other bytes", resumed
