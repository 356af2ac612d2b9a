"""gixy reads the rendered configuration of the origin, in each of its variants, and finds nothing wrong with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.rendered import render, render_endpoint

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tls": {
        "origin_listen": ["443"],
        "origin_tls_certificate": "/etc/ssl/origin.pem",
        "origin_tls_certificate_key": "/etc/ssl/origin.key",
    },
    "named": {"origin_listen": ["192.0.2.1:8080", "[::1]:8080"], "origin_server_name": "images.example"},
    "no log": {"nginx_base_access_log": False},
    "limits": {"origin_request_rate": 100, "origin_connections": 50},
    "behind a balancer": {"origin_proxies": ["192.0.2.5"], "origin_proxy_listen": ["8081"]},
    "no mirror": {"origin_registries": [], "origin_default_registry": ""},
    "private": {
        "origin_listen": ["443"],
        "origin_tls_certificate": "/etc/ssl/origin.pem",
        "origin_tls_certificate_key": "/etc/ssl/origin.key",
        "origin_namespaces": [
            {"prefix": "team-a", "access": "basic", "users": ["alice"]},
            {"prefix": "team-a/open", "access": "public"},
            {"prefix": "team-b", "access": "certificate", "subjects": ["CN=build"]},
            {"prefix": "team-c", "access": "address", "addresses": ["192.0.2.0/24"]},
        ],
        "origin_users": {"alice": "$2y$10$"},
        "origin_token_secret": "x" * 32,
        "origin_client_ca": "/etc/ssl/clients.pem",
    },
}

ACCEPTED = {
    "add_header_content_type": "default_type takes no variable, and the type of a manifest is one",
    "if_is_evil": "only variables are set there, and a rewrite or return follows: no request is answered in such an if",
    "try_files_is_evil_too": "a new list of referrers is to be seen at once: no open_file_cache there",
}
"""Findings that are none, each with the reason."""

ACCEPTED_IN = {
    "tls": {"hsts_header": "each location says it, having headers of its own; the server itself answers nothing"},
    "private": {"hsts_header": "as above"},
}
"""Likewise, in one variant only."""


def findings(folder: Path, variant: str) -> list[dict[str, Any]]:
    main_file = render(folder, Path("/srv/seawall"), VARIANTS[variant])
    gixy = Path(sys.executable).with_name("gixy")
    ran = subprocess.run([gixy, "--format=json", main_file], check=False, capture_output=True, text=True)
    assert ran.returncode in {0, 1}, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_has_no_findings_but_those_accepted(variant: str, tmp_path: Path) -> None:
    found = findings(tmp_path, variant)
    accepted = ACCEPTED | ACCEPTED_IN.get(variant, {})
    unknown = [
        f"{row['severity']} {row['plugin']}: {row['reason']} ({Path(row['file']).name}:{row['line']})"
        for row in found
        if row["plugin"] not in accepted
    ]
    assert unknown == []
    unused = set(accepted) - {row["plugin"] for row in found}
    assert not unused, f"these are found no more: take them off the list: {unused}"


ENDPOINTS: dict[str, dict[str, Any]] = {
    "endpoint": {
        "endpoint_namespaces": [
            {"prefix": "team-a", "target": "https://cdn.example/images", "blobs": "https://bucket.example:8443"},
            {"prefix": "k8s", "target": "https://k8s.example", "as": ""},
            {"prefix": "", "target": "https://origin.example"},
        ],
    },
    "endpoint that fetches": {
        "endpoint_namespaces": [
            {"prefix": "team-a", "target": "https://cdn.example/images", "proxy": True},
            {"prefix": "docker.io/library", "target": "http://192.0.2.1:5000", "as": "hub"},
        ],
        "endpoint_proxy_user_agents": ["^old/"],
        "endpoint_tls_certificate": "/etc/ssl/endpoint.pem",
        "endpoint_tls_certificate_key": "/etc/ssl/endpoint.key",
    },
}

ACCEPTED_OF_ENDPOINTS: dict[str, dict[str, str]] = {
    "endpoint": {},
    "endpoint that fetches": {
        "hsts_header": "each location says it, as with the origin",
        "missing_resolver": "every name there is that of an upstream, which nginx looks up when it starts",
    },
}
"""As above."""


@pytest.mark.parametrize("variant", ENDPOINTS)
def test_an_endpoints_configuration_has_no_findings_but_those_accepted(variant: str, tmp_path: Path) -> None:
    main_file = render_endpoint(tmp_path, ENDPOINTS[variant])
    gixy = Path(sys.executable).with_name("gixy")
    ran = subprocess.run([gixy, "--format=json", main_file], check=False, capture_output=True, text=True)
    found = {f"{row['plugin']}: {row['reason']} ({row['line']})" for row in json.loads(ran.stdout)}
    assert {row.partition(":")[0] for row in found} == set(ACCEPTED_OF_ENDPOINTS[variant]), found


def test_the_analysis_reads_the_whole_of_it_and_can_fail(tmp_path: Path) -> None:
    main_file = render(tmp_path, Path("/srv/seawall"))
    origin = tmp_path / "seawall/origin.conf"
    text = origin.read_text()
    # The classic: a location without a slash at its end leads out of the alias.
    origin.write_text(text.replace("location / {", "location /files {\n    alias /srv/files/;\n}\nlocation / {"))
    gixy = Path(sys.executable).with_name("gixy")
    ran = subprocess.run([gixy, "--format=json", main_file], check=False, capture_output=True, text=True)
    assert "alias_traversal" in {row["plugin"] for row in json.loads(ran.stdout)}
