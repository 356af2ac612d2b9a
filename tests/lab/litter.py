"""Make everything that a test could leave behind, and say so; test_sandbox.py ends it in many ways.

python -m lab.litter FOLDER-OF-A-ROOT-TARBALL
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .command import run
from .engine import Engine
from .network import LAB, Namespace


def litter(root: Path) -> None:
    """Start an engine, a container, a namespace, a mount, a firewall rule and an orphan."""
    folder = Path(os.environ["SEAWALL_LAB_DIR"])
    engine = Engine.start(folder / "engine")
    LAB.create(engine)
    engine.docker("import", str(root), "lab/busybox")
    engine.docker(
        *("run", "--detach", "--name=left", "--network=lab", "--restart=unless-stopped"),
        *("lab/busybox", "/bin/busybox", "sleep", "600"),
    )
    Namespace.attach("left", "198.18.0.200")
    (folder / "mount").mkdir()
    run(["mount", "-t", "tmpfs", "tmpfs", str(folder / "mount")])
    run(["iptables", "-A", "INPUT", "-s", "198.18.0.0/24", "-j", "ACCEPT"])
    subprocess.Popen(["setsid", "--fork", "sleep", "600"], stdout=subprocess.DEVNULL).wait()


if __name__ == "__main__":
    litter(Path(sys.argv[1]))
    print(os.environ["SEAWALL_LAB_DIR"], flush=True)
    sys.stdin.read()
