"""The configuration of an edge: gixy reads it in each of its variants, and it grows with nothing but the inventory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.rendered import render_edge

ORIGINS = {"edge_upstreams": ["http://origin1.example", "http://origin2.example"]}
TLS = {
    "edge_listen": ["443"],
    "edge_tls_certificate": "/etc/ssl/edge.pem",
    "edge_tls_certificate_key": "/etc/ssl/edge.key",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": ORIGINS,
    "tls": {**TLS, "edge_upstreams": ["https://origin1.example", "https://[2001:db8::1]:8443"]},
    "limits": {**ORIGINS, "edge_request_rate": 100, "edge_connections": 50},
    "private": {**ORIGINS, "edge_private_prefixes": ["team-a", "team-b/app"]},
    "peers": {**ORIGINS, "edge_peers": ["https://edge1.example", "https://edge2.example:8443"]},
    "bucket": {"edge_upstreams": ["https://images.s3.example/prefix"], "edge_upstream_kind": "bucket"},
    "backup": {**ORIGINS, "edge_upstreams_backup": ["http://origin3.example:8080"]},
}

ACCEPTED = {
    "host_spoofing": "on the loopback address, where the edge has looked at it; an origin makes its /token of it",
    "missing_resolver": "all that the variables name are upstream blocks",
    "proxy_pass_normalized": "a name that the grammar allows has nothing that could be encoded",
}
"""Findings that are none, each with the reason."""

ACCEPTED_IN = {"tls": {"hsts_header": "each location says it, having headers of its own"}}
"""Likewise, in one variant only."""


def rendered(folder: Path, variant: str) -> str:
    return (render_edge(folder, VARIANTS[variant]).parent / "seawall/edge.conf").read_text()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_has_no_findings_but_those_accepted(variant: str, tmp_path: Path) -> None:
    main_file = render_edge(tmp_path, VARIANTS[variant])
    gixy = Path(sys.executable).with_name("gixy")
    ran = subprocess.run([gixy, "--format=json", main_file], check=False, capture_output=True, text=True)
    assert ran.returncode in {0, 1}, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    accepted = ACCEPTED | ACCEPTED_IN.get(variant, {})
    unknown = [f"{row['plugin']}: {row['reason']} ({row['line']})" for row in found if row["plugin"] not in accepted]
    assert unknown == []
    unused = set(accepted) - {row["plugin"] for row in found}
    assert not unused, f"these are found no more: take them off the list: {unused}"


def test_upstreams_without_a_port_have_their_schemes_port(tmp_path: Path) -> None:
    text = rendered(tmp_path, "tls")
    assert "server origin1.example:443 max_fails" in text
    assert "server [2001:db8::1]:8443 max_fails" in text
    assert "proxy_ssl_name origin1.example;" in text


def test_every_upstream_over_tls_is_verified(tmp_path: Path) -> None:
    for variant in ("tls", "peers", "bucket"):
        (tmp_path / variant).mkdir()
        servers = rendered(tmp_path / variant, variant).split("\nserver {")
        for server in servers:
            if "proxy_pass https://" in server:
                assert "proxy_ssl_verify on;" in server, variant


def test_only_the_filler_writes_the_cache(tmp_path: Path) -> None:
    front, filler, fetcher = rendered(tmp_path, "peers").split("\nserver {")[1:]
    assert "proxy_no_cache 1;" in front
    assert "proxy_cache_valid" not in front
    writing = [part for part in filler.split("    location ") if "proxy_cache_valid" in part]
    assert writing
    for part in writing:
        assert part.startswith("= /_fill_")
        assert "proxy_no_cache $edge_not_shared $edge_unmeasured $edge_not_kept;" in part
    assert "proxy_cache " not in fetcher


def test_a_buckets_clients_keep_their_credentials_to_themselves(tmp_path: Path) -> None:
    front, _, fetcher = rendered(tmp_path, "bucket").split("\nserver {")[1:]
    for server in (front, fetcher):
        for part in server.split("    location "):
            if "proxy_set_header Host" in part:
                assert 'proxy_set_header Authorization "";' in part
