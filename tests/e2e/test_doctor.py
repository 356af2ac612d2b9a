"""The doctor's verdict on the real origin, and on a registry of another make."""

import json
from typing import Any

from lab.host import Host
from lab.images import Sample, Samples
from lab.upstream import Upstream


def examine(host: Host, url: str, sample: Sample, *options: str) -> Any:
    ran = host.run(
        "seawall", "doctor", url, "--image", f"{sample.repository}:{sample.tag}", "--json", *options, check=False
    )
    print(ran.stdout, ran.stderr)
    return json.loads(ran.stdout) | {"code": ran.returncode}


def test_every_client_works_with_the_origin(url: str, host: Host, samples: Samples) -> None:
    for sample in (samples.layers, samples.oci_index):
        found = examine(host, url, sample)
        assert found["faults"] == []
        assert {row["verdict"] for row in found["clients"]} == {"works"}
        assert found["code"] == 0
        assert found["facts"]["etag"] == "answered with 304"
        assert found["facts"]["several ranges at once"] == "answered"


def test_every_client_works_with_docker_registry(
    provisioned: object, host: Host, upstream: Upstream, samples: Samples
) -> None:
    found = examine(host, upstream.url, samples.oci_index)
    assert found["faults"] == []
    assert found["code"] == 0
    assert found["facts"]["referrers"] == "status 404"


def test_a_folder_behind_a_plain_web_server_is_no_registry(url: str, host: Host, samples: Samples) -> None:
    server = "python3 -m http.server --directory /srv/seawall --bind 127.0.0.1 8123"
    host.run("systemd-run", "--unit=plain", *server.split())
    try:
        host.run("sh", "-c", "until curl -fs http://127.0.0.1:8123/ >/dev/null; do sleep 0.1; done", seconds=20)
        found = examine(host, "http://127.0.0.1:8123", samples.layers)
        assert found["code"] == 1
        verdicts = {row["name"]: row["verdict"] for row in found["clients"]}
        assert {verdicts[name] for name in ("docker", "containerd", "podman")} == {"breaks"}
        assert {"type-wrong", "digest-missing", "range-ignored", "error-body"} <= {
            row["fault"] for row in found["faults"]
        }
    finally:
        host.run("systemctl", "stop", "plain")
