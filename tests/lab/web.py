"""Web servers that know nothing of images: Apache, Caddy and a bare nginx, each over one folder on loopback."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .daemon import Daemon

READY_SECONDS = 30.0
MODULES = "/usr/lib/apache2/modules"
# As a distribution sets it up: endings of names mean something, and answers are compressed.
APACHE = """\
ServerRoot {state}
ServerName 127.0.0.1
PidFile {state}/apache.pid
ErrorLog {state}/error.log
Listen {address}
User www-data
Group www-data
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule mime_module {modules}/mod_mime.so
LoadModule dir_module {modules}/mod_dir.so
LoadModule env_module {modules}/mod_env.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule negotiation_module {modules}/mod_negotiation.so
LoadModule filter_module {modules}/mod_filter.so
LoadModule deflate_module {modules}/mod_deflate.so
LoadModule cgid_module {modules}/mod_cgid.so
ScriptSock {state}/cgisock
TypesConfig /etc/mime.types
AddEncoding x-gzip .gz .tgz
AddCharset utf-8 .utf8
AddHandler cgi-script .cgi
AddOutputFilterByType DEFLATE text/html text/plain application/json application/octet-stream
AddDefaultCharset utf-8
DocumentRoot {root}
<Directory {root}>
    AllowOverride All
    Options +ExecCGI
    Require all granted
</Directory>
"""
NGINX = """\
user www-data;
daemon off;
pid {state}/nginx.pid;
error_log {state}/error.log;
events {{ }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    gzip on;
    gzip_types application/json application/octet-stream;
    gzip_min_length 1;
    server {{
        listen {address};
        root {root};
        include {root}/seawall.conf;
    }}
}}
"""


def _apache(state: Path, root: Path, address: str) -> list[str]:
    (state / "apache.conf").write_text(APACHE.format(state=state, root=root, address=address, modules=MODULES))
    return ["apache2", "-f", str(state / "apache.conf"), "-DFOREGROUND"]


def _caddy(state: Path, root: Path, address: str) -> list[str]:
    settings = {"SEAWALL_ADDRESS": f"http://{address}", "SEAWALL_ROOT": root, "HOME": state, "XDG_DATA_HOME": state}
    config = str(root / "Caddyfile")
    return ["env", *(f"{name}={value}" for name, value in settings.items()), "caddy", "run", "--config", config]


def _nginx(state: Path, root: Path, address: str) -> list[str]:
    (state / "nginx.conf").write_text(NGINX.format(state=state, root=root, address=address))
    return ["nginx", "-c", str(state / "nginx.conf")]


SERVERS: dict[str, Callable[[Path, Path, str], list[str]]] = {
    "apache": _apache,
    "caddy": _caddy,
    "nginx-plain": _nginx,
}


@contextmanager
def serve(kind: str, root: Path, state: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Let a server of this *kind* serve the folder *root* until the block ends; yield its URL.

    Its configuration and logs are in the new folder *state*.  Raises NotReadyError.
    """
    state.mkdir(parents=True)
    with socket.socket() as free:
        free.bind((host, 0))
        address = f"{host}:{free.getsockname()[1]}"
    daemon = Daemon(SERVERS[kind](state, root, address), state / "out.log", env={**os.environ})
    daemon.wait_ready(lambda: _answers(f"http://{address}/"), READY_SECONDS)
    try:
        yield f"http://{address}"
    finally:
        daemon.stop()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
