"""A site of several hosts that was rolled out, and what is to be pulled from it."""

from collections.abc import Iterable
from dataclasses import dataclass

import requests

from e2e.rollout import Rollout, Run
from lab.images import Sample
from lab.load import ACCEPT, Wanted
from lab.site import BALANCER, ORIGINS

FRONT = [f"http://{BALANCER.address}"]
"""Where clients ask."""
ORIGIN_URLS = [f"http://{machine.address}" for machine in ORIGINS]


@dataclass(frozen=True)
class Rolled:
    """The site, and how it came to be."""

    rollout: Rollout
    first: Run


def all_of(samples: Iterable[Sample]) -> list[Wanted]:
    """Every manifest and blob of *samples*, by the digests that their upstream says."""
    wanted = []
    for sample in samples:
        base = f"/v2/{sample.repository}"
        wanted.append(Wanted(f"{base}/manifests/{sample.tag}", frozenset({sample.digest})))
        digests = [sample.digest]
        while digests:
            manifest = requests.get(
                f"http://{sample.upstream}{base}/manifests/{digests.pop()}", headers={"Accept": ACCEPT}, timeout=10
            ).json()
            children = [row["digest"] for row in manifest.get("manifests", [])]
            blobs = [row["digest"] for row in (manifest.get("config"), *manifest.get("layers", [])) if row]
            wanted += [Wanted(f"{base}/manifests/{digest}", frozenset({digest})) for digest in children]
            wanted += [Wanted(f"{base}/blobs/{digest}", frozenset({digest})) for digest in blobs]
            digests += children
    return wanted
