"""Images to fill an upstream with, made here: nothing is pulled from anywhere.

They are made and pushed by Docker and skopeo, so that their manifests are what the field sends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from .base import BUSYBOX, Image, tarball
from .command import run
from .engine import Engine
from .upstream import Upstream

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
BUSYBOX_IMAGE = "lab/busybox"
PLATFORMS = ("linux/amd64", "linux/arm64")

LAYERS = """\
FROM lab/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY motd /etc/motd
RUN echo two >> /etc/motd && mkdir /data && seq 1 20000 > /data/numbers
RUN echo three >> /etc/motd
CMD ["cat", "/etc/motd"]
"""
PLATFORM = """\
FROM lab/busybox
ARG PLATFORM
COPY platform /etc/platform
LABEL platform=$PLATFORM
CMD ["/bin/busybox", "cat", "/etc/platform"]
"""
DEBIAN = """\
ARG BASE
FROM $BASE
RUN echo "made in the lab" > /etc/lab
CMD ["sh", "-c", ". /etc/os-release && echo $ID $VERSION_CODENAME && cat /etc/lab"]
"""


@dataclass(frozen=True)
class Sample:
    """An image in an upstream, and what is to come out of it."""

    upstream: str
    repository: str
    tag: str
    digest: str
    media_type: str
    prints: tuple[tuple[str, str], ...]
    """What `docker run` prints, for each platform."""

    @property
    def reference(self) -> str:
        """The image by its tag, as clients take it."""
        return f"{self.upstream}/{self.repository}:{self.tag}"

    @property
    def pinned(self) -> str:
        """The image by its digest, as clients take it."""
        return f"{self.upstream}/{self.repository}@{self.digest}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms as `os/architecture`."""
        return tuple(platform for platform, _ in self.prints)

    def output(self, platform: str = "linux/amd64") -> str:
        """What `docker run` prints.  All of them are amd64 programs, so that each can be run."""
        return dict(self.prints)[platform]


@dataclass(frozen=True)
class Samples:
    """One image of each kind of manifest that registries serve."""

    layers: Sample
    """Five layers; a Docker manifest."""
    docker_list: Sample
    """Two platforms; a Docker manifest list of Docker manifests."""
    oci_index: Sample
    """The same two platforms; an OCI index of OCI manifests."""
    oci_manifest: Sample
    """One platform; an OCI manifest."""

    def __iter__(self) -> Iterator[Sample]:
        return iter((self.layers, self.docker_list, self.oci_index, self.oci_manifest))


def fill(engine: Engine, upstream: Upstream) -> Samples:
    """Make all samples and push them; takes a few seconds.

    The upstream must let everybody push.  Raises CommandFailedError.
    """
    engine.docker("import", str(tarball(BUSYBOX)), BUSYBOX_IMAGE)
    layers = _push_layers(engine, upstream)
    docker_list = _push_list(engine, upstream)
    return Samples(
        layers,
        docker_list,
        _convert(docker_list, upstream, "lab/platforms-oci"),
        _convert(layers, upstream, "lab/layers-oci"),
    )


def push_debian(engine: Engine, upstream: Upstream, base: Image) -> Sample:
    """An image of some 100 MB on a Debian root file system; takes longer than all others."""
    reference = f"{upstream.address}/lab/debian:{base.reference.rpartition(':')[2]}"
    _build(engine, reference, DEBIAN, {}, {"BASE": base.reference})
    engine.docker("push", reference)
    suite = base.reference.rpartition(":")[2]
    output = f"debian {suite}\nmade in the lab"
    return _sample(upstream, "lab/debian", suite, DOCKER_MANIFEST, {"linux/amd64": output})


def _push_layers(engine: Engine, upstream: Upstream) -> Sample:
    repository, tag = "lab/layers", "1.0"
    reference = f"{upstream.address}/{repository}:{tag}"
    _build(engine, reference, LAYERS, {"motd": "one\n"})
    engine.docker("push", reference)
    output = "one\ntwo\nthree"
    return _sample(upstream, repository, tag, DOCKER_MANIFEST, {"linux/amd64": output})


def _push_list(engine: Engine, upstream: Upstream) -> Sample:
    repository, tag = "lab/platforms", "2.0"
    reference = f"{upstream.address}/{repository}:{tag}"
    single = {platform: f"{reference}-{platform.partition('/')[2]}" for platform in PLATFORMS}
    for platform, name in single.items():
        engine.docker("import", f"--platform={platform}", str(tarball(BUSYBOX)), BUSYBOX_IMAGE)
        _build(engine, name, PLATFORM, {"platform": f"{platform}\n"}, {"PLATFORM": platform})
        engine.docker("push", name)
    engine.docker("manifest", "create", "--insecure", reference, *single.values())
    for platform, name in single.items():
        system, _, architecture = platform.partition("/")
        engine.docker("manifest", "annotate", reference, name, f"--os={system}", f"--arch={architecture}")
    engine.docker("manifest", "push", "--insecure", "--purge", reference)
    return _sample(upstream, repository, tag, DOCKER_LIST, {name: name for name in PLATFORMS})


def _convert(sample: Sample, upstream: Upstream, repository: str) -> Sample:
    """Copy a sample to another repository as OCI."""
    run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--all",
            "--format=oci",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            f"docker://{sample.reference}",
            f"docker://{upstream.address}/{repository}:{sample.tag}",
        ]
    )
    media_type = OCI_INDEX if sample.media_type == DOCKER_LIST else OCI_MANIFEST
    return _sample(upstream, repository, sample.tag, media_type, dict(sample.prints))


def _build(
    engine: Engine,
    reference: str,
    dockerfile: str,
    files: dict[str, str],
    arguments: dict[str, str] | None = None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        (context / "Dockerfile").write_text(dockerfile)
        for name, text in files.items():
            (context / name).write_text(text)
        given = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        engine.docker("build", "--pull=false", f"--tag={reference}", *given, folder)


def _sample(upstream: Upstream, repository: str, tag: str, media_type: str, prints: dict[str, str]) -> Sample:
    """The sample as the upstream serves it, which must be of `media_type`."""
    answer = requests.head(
        f"{upstream.url}/v2/{repository}/manifests/{tag}",
        headers={"Accept": ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX))},
        timeout=10,
    )
    answer.raise_for_status()
    if answer.headers["Content-Type"] != media_type:
        raise ValueError(f"{repository}:{tag} is {answer.headers['Content-Type']}")
    digest = answer.headers["Docker-Content-Digest"]
    return Sample(upstream.address, repository, tag, digest, media_type, tuple(prints.items()))
