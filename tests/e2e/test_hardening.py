"""systemd keeps the services from what they have no need of, and they work all the same."""

import requests

from e2e.exposure import assert_exposed_as_stated
from e2e.rollout import Run
from lab.host import Host


def test_nginx_is_exposed_no_more_than_is_said(provisioned: Run, host: Host) -> None:
    assert_exposed_as_stated(host, "nginx.service")


def test_nginx_reloads_and_restarts_as_it_is_kept(provisioned: Run, host: Host, url: str) -> None:
    for verb in ("reload", "restart"):
        host.run("systemctl", verb, "nginx")
        assert requests.get(f"{url}/v2/", timeout=10).status_code == 200
    journal = host.run("journalctl", "--no-pager", "--unit=nginx", "--lines=40").stdout
    assert "denied" not in journal.lower()


def test_nginx_can_write_its_logs_and_nothing_of_the_tree(provisioned: Run, host: Host) -> None:
    # As root, in the master's own view of the files: no right of an account keeps it back here.
    def writes(path: str) -> bool:
        enter = ("nsenter", "--target", host.run("cat", "/run/nginx.pid").stdout.strip(), "--mount")
        return host.run(*enter, "touch", f"{path}/probe", check=False).returncode == 0

    assert writes("/var/log/nginx")
    assert not any(map(writes, ("/srv/seawall", "/etc/nginx", "/usr/local/bin", "/home")))
