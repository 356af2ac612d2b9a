"""The sandbox leaves nothing behind, however it ends.

Runs in a sandbox itself, so that nothing else on the machine changes what is compared.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .base import BUSYBOX, tarball
from .command import run

pytest_plugins = ["lab.fixtures"]

SANDBOX = Path(__file__).parent / "sandbox"
CGROUPS = Path("/sys/fs/cgroup")
GONE_SECONDS = 30.0


def traces() -> dict[str, str]:
    """All that a namespace holds, as text that can be compared."""
    return {
        "interfaces": "\n".join(sorted(path.name for path in Path("/proc/net/dev_snmp6").iterdir())),
        "firewall": re.sub(r"\[\d+:\d+\]|#.*", "", run(["iptables-save"]).stdout),  # no counters
        "namespaces": run(["ip", "netns", "list"]).stdout,
        "mounts": Path("/proc/mounts").read_text(),
        "processes": "\n".join(sorted(path.name for path in Path("/proc").iterdir() if path.name.isdigit())),
    }


def cgroups(folder: Path) -> list[Path]:
    """The cgroups of the sandbox that had this folder."""
    return [path for path in CGROUPS.rglob(folder.name) if path.is_dir()]


def start_littering() -> tuple[subprocess.Popen[str], Path]:
    """A sandbox full of everything, and its folder."""
    sandbox = subprocess.Popen(
        [SANDBOX, sys.executable, "-m", "lab.litter", tarball(BUSYBOX)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=SANDBOX.parents[1],
    )
    assert sandbox.stdout is not None
    folder = Path(sandbox.stdout.readline().strip()).parent
    assert folder.is_dir()
    assert cgroups(folder)
    return sandbox, folder


def wait_gone(folder: Path) -> None:
    """Return when the sandbox's keeper has done its work."""
    deadline = time.monotonic() + GONE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.usefixtures("lab_folder")
@pytest.mark.parametrize("end", ["exit", signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_sandbox_leaves_nothing(end: str | signal.Signals) -> None:
    before = traces()
    sandbox, folder = start_littering()
    with sandbox:
        if isinstance(end, signal.Signals):
            sandbox.send_signal(end)
        else:
            sandbox.communicate()
    if end is signal.SIGKILL:
        wait_gone(folder)
    assert not folder.exists()
    assert not cgroups(folder)
    assert traces() == before


@pytest.mark.usefixtures("lab_folder")
def test_next_sandbox_removes_what_is_left_when_the_keeper_is_killed_too() -> None:
    before = traces()
    sandbox, folder = start_littering()
    with sandbox:
        os.kill(keeper_of(sandbox), signal.SIGKILL)
        sandbox.kill()
    assert folder.exists()
    deadline = time.monotonic() + GONE_SECONDS
    while traces() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    run([str(SANDBOX), "true"])
    assert not folder.exists()
    assert not cgroups(folder)
    assert traces() == before


def keeper_of(sandbox: subprocess.Popen[str]) -> int:
    """The pid of the sandbox's keeper: its child that runs the same program."""
    children = run(["ps", "-o", "pid=,args=", "--ppid", str(sandbox.pid)]).stdout.splitlines()
    keepers = [line.split()[0] for line in children if "unshare" not in line and "slirp" not in line]
    assert len(keepers) == 1
    return int(keepers[0])


@pytest.mark.usefixtures("lab_folder")
def test_sandbox_passes_the_exit_code_on() -> None:
    assert run([str(SANDBOX), "sh", "-c", "exit 7"], check=False).returncode == 7
    assert run([str(SANDBOX), "sh", "-c", "kill -9 $$"], check=False).returncode == 128 + 9
    assert run([str(SANDBOX), "no-such-command"], check=False).returncode == 127


def test_sandbox_says_that_it_needs_root() -> None:
    nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
    with SANDBOX.open() as program:  # nobody may not read the checkout
        refused = run([*nobody, "/usr/bin/python3", "-", "true"], stdin=program.read(), check=False)
    assert refused.returncode == 125
    assert refused.stderr == "sandbox: needs root, for namespaces and a Docker engine\n"
