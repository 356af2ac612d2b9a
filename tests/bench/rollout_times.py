#!/usr/bin/env python3
"""How long rollouts take: a site of three origins from bare hosts, again, with one image more, and back.

    tests/lab/sandbox env PYTHONPATH=tools:tests .venv/bin/python tests/bench/rollout_times.py

Runs in the tests' sandbox, on hosts with systemd in containers of this machine, over ssh, with a registry of its own.
A bare host has what Debian's installer leaves; nginx and the tool's Python packages come from the mirrors that the
machine knows, so that the first run measures them as well. Prints seconds, and leaves nothing behind.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import yaml

from e2e.rollout import Rollout, Run
from lab import images
from lab.engine import Engine
from lab.network import LAB
from lab.site import ACCOUNT, Machine, Site
from lab.upstream import Upstream

ORIGINS = tuple(Machine(f"origin{number}", f"198.18.0.{10 + number}") for number in (1, 2, 3))


def timed(what: str, play: Callable[[], Run]) -> Run:
    """Run a play that has to succeed, and print how long it took."""
    start = time.monotonic()
    with redirect_stdout(io.StringIO()):
        run = play()
    seconds = time.monotonic() - start
    if run.code != 0:
        raise SystemExit(run.output)
    print(f"{what:<40} {seconds:6.1f} s   {run.changed:4} tasks changed something", flush=True)
    return run


def main() -> None:
    """Start the hosts, and time the plays."""
    folder = Path(os.environ["SEAWALL_LAB_DIR"])
    with Engine.start(folder / "engine") as engine:
        LAB.create(engine)
        with Upstream.start(folder / "upstream", host=LAB.gateway) as upstream, tempfile.TemporaryDirectory() as place:
            samples = images.fill(engine, upstream)
            site = Site.start(engine, folder / "site", ORIGINS)
            inventory = Path(place)
            (inventory / "group_vars").mkdir()
            hosts = {"origin": {"hosts": {machine.name: None for machine in ORIGINS}}}
            (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": hosts}}))
            variables = {
                "ansible_user": ACCOUNT,
                "ansible_ssh_common_args": f"-F {site.ssh_config}",
                "tree_images_files": ["{{ inventory_dir }}/images.yml"],
                "tree_update_lock": True,
            }
            (inventory / "group_vars/all.yml").write_text(yaml.safe_dump(variables))
            measure(Rollout(inventory, engine), samples)


def measure(rollout: Rollout, samples: images.Samples) -> None:
    """Time each play once, in the order in which they can follow each other."""
    rollout.declare([samples.layers])
    timed("site.yml from bare", lambda: rollout.play("site.yml"))
    timed("site.yml again", lambda: rollout.play("site.yml"))
    rollout.declare([samples.layers, samples.oci_index])
    timed("publish.yml, one image more", lambda: rollout.play("playbooks/publish.yml"))
    timed("publish.yml again", lambda: rollout.play("playbooks/publish.yml"))
    timed("rollback.yml -e release=1", lambda: rollout.play("playbooks/rollback.yml", "-e", "release=1"))
    changed = ("-e", "origin_tag_max_age=61")
    timed("origin.yml, another configuration", lambda: rollout.play("playbooks/origin.yml", *changed))
    back = ("-e", "configuration=previous")
    timed("rollback.yml -e configuration=previous", lambda: rollout.play("playbooks/rollback.yml", *back))


if __name__ == "__main__":
    main()
