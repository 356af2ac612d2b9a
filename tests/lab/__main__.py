"""A lab to keep and to play with: `make lab`, `make lab-status`, `make lab-shell`, `make lab-down`.

Where a Docker engine answers, its machines are containers in it.  Elsewhere they are containers of an engine in a
sandbox (see `sandbox`) that goes on in the background.

    python -m lab up [--only NAME]... [--bare]      start the machines, and roll the site out to them
    python -m lab status
    python -m lab shell [NAME]                      a shell where the machines can be reached, or on one of them
    python -m lab run COMMAND...                    a command where they can be reached
    python -m lab down                              remove all of it, and nothing else

The lab's state is in $SEAWALL_LAB_STATE, else `.lab` at the top of the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from . import base, site
from .command import CommandFailedError, run
from .daemon import NotReadyError
from .engine import Engine
from .host import Host
from .network import LAB
from .site import MACHINES, TOP, Machine, Site

SANDBOX = Path(__file__).parent / "sandbox"
INSTALL = Path(__file__).parent / "install"
START_SECONDS = 600.0
END_SECONDS = 300.0  # a busy machine takes its time to remove what hosts wrote


@dataclass(frozen=True)
class Record:
    """What is to be known of a lab to reach it and to remove it."""

    label: str
    """Of every container, network and image that was made in the user's own engine."""
    sandbox: int = 0
    """The sandbox's process, or 0 if the machines are in the user's own engine."""
    started: str = ""
    """When that process started, in ticks since the machine's start: numbers of processes are used again."""
    folder: str = ""
    """The sandbox's folder."""


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="A lab to keep and to play with.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = [machine.name for machine in MACHINES]
    starting = commands.add_parser("up", help="start the machines, and roll the site out to them")
    starting.add_argument("--only", action="append", choices=names, help="start this machine; repeat for more")
    starting.add_argument("--bare", action="store_true", help="roll nothing out")
    starting.set_defaults(do=lambda given: up(given.only or names, bare=given.bare))
    commands.add_parser("status", help="say which machines there are").set_defaults(do=lambda _: status())
    shell = commands.add_parser("shell", help="a shell where the machines can be reached, or on one of them")
    shell.add_argument("name", nargs="?", choices=names)
    shell.set_defaults(do=lambda given: enter(given.name))
    running = commands.add_parser("run", help="run a command where the machines can be reached")
    running.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    running.set_defaults(do=lambda given: run_there(need(), given.words))
    commands.add_parser("down", help="remove all of it, and nothing else").set_defaults(do=lambda _: down())
    keeping = commands.add_parser("keep")  # what the sandbox runs
    keeping.add_argument("only", nargs="+")
    keeping.set_defaults(do=lambda given: keep(given.only))
    given = parser.parse_args(arguments)
    do: Callable[[argparse.Namespace], int] = given.do
    try:
        return do(given)
    except (CommandFailedError, NotReadyError) as error:
        fail(str(error))


def state() -> Path:
    """The folder of the lab's state."""
    return Path(os.environ.get("SEAWALL_LAB_STATE") or TOP / ".lab").resolve()


def up(names: Sequence[str], *, bare: bool) -> int:
    """Start the machines if they do not run yet, and roll the site out to them."""
    record = recorded()
    if record is None:
        engine = Engine.of_user()
        print(f"Starting {', '.join(names)}; the first time their images are made, which takes minutes", flush=True)
        record = start_sandbox(names) if engine is None else start_in(engine, names)
    elif not record.sandbox:
        # A container that was started again, with the machine perhaps, has another port.
        engine = engine_of(record)
        there = {machine.name: machine for machine in MACHINES if machine.name in states(engine)}
        hosts = {name: Host(engine, site.PREFIX + name, machine.address) for name, machine in there.items()}
        Site(state(), hosts).write_ssh_config(published=True)
    if bare:
        return 0
    limit = ["--limit", ",".join(names)] if len(names) < len(MACHINES) else []
    code = run_there(record, ["ansible-playbook", "-i", "inventory/lab", "site.yml", *limit])
    if code == 0:
        print("The lab is up: make lab-status, make lab-shell, make lab-down")
    return code


def start_in(engine: Engine, names: Sequence[str]) -> Record:
    """Start the machines in the user's own engine; what is made carries a label that is noted first."""
    record = Record(site.new_label())
    note(record)
    mark = f"--label={site.LABEL}={record.label}"
    try:
        LAB.create(engine, [mark])
        image = partial(base.built_image, options=[mark])
        Site.start(engine, state(), chosen(names), image=image, published=True, label=record.label)
    except BaseException:
        down()
        raise
    return record


def start_sandbox(names: Sequence[str]) -> Record:
    """Start a sandbox that goes on in the background, with an engine and the machines in it."""
    if os.geteuid() != 0:
        fail("no Docker engine answers, and without one the lab needs root: start an engine, or run this with sudo")
    run([str(INSTALL)], seconds=START_SECONDS)
    state().mkdir(parents=True, exist_ok=True)
    log = state() / "lab.log"
    ready = state() / "ready"
    ready.unlink(missing_ok=True)
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            [SANDBOX, sys.executable, "-m", "lab", "keep", *names],
            cwd=TOP,
            env={**os.environ, "PYTHONPATH": str(TOP / "tests"), "SEAWALL_LAB_STATE": str(state())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            keeper.terminate()
            keeper.wait()
            fail(f"the lab did not start; the end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
    record = Record(site.new_label(), keeper.pid, started_at(keeper.pid), ready.read_text())
    note(record)
    return record


def keep(names: Sequence[str]) -> int:
    """In the sandbox: start engine and machines, say so, and wait for the end of the sandbox."""
    folder = Path(os.environ["SEAWALL_LAB_DIR"])
    with Engine.start(folder / "engine") as engine:
        LAB.create(engine)
        Site.start(engine, state(), chosen(names))
        (state() / "ready.new").write_text(str(folder))
        (state() / "ready.new").replace(state() / "ready")
        signal.pause()
    return 0


def status() -> int:
    """Say which machines there are, and how they are."""
    record = need()
    there = states(engine_of(record))
    for machine in MACHINES:
        if machine.name in there:
            print(f"{machine.name:<10} {machine.address:<14} {there[machine.name]}")
    print(f"ssh -F {state()}/ssh_config NAME" + ("" if record.sandbox == 0 else "    (in make lab-shell)"))
    return 0


def states(engine: Engine) -> dict[str, str]:
    """The machines in `engine`, and how each is in Docker's words."""
    rows = engine.docker("ps", "--all", f"--filter=label={site.LABEL}", "--format={{.Names}}\t{{.Status}}").splitlines()
    return dict(row.removeprefix(site.PREFIX).split("\t") for row in rows)


def enter(name: str | None) -> int:
    """Give a shell."""
    ssh = ["ssh", "-F", str(state() / "ssh_config"), *([name] if name else [])]
    return run_there(need(), ssh if name else [os.environ.get("SHELL", "/bin/sh")])


def run_there(record: Record, words: Sequence[str]) -> int:
    """Run a command where the machines can be reached, with the checkout's programs at hand; its exit code."""
    env = {
        **engine_of(record).env,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
    if record.sandbox:
        first = Path(record.folder).parent.joinpath("first").read_text().strip()
        # Another mount namespace has another current folder.
        there = ["nsenter", f"--target={first}", "--net", "--mount", "--pid", "--", "env", f"--chdir={TOP}"]
        words = [*there, *words]
    return subprocess.run(words, cwd=TOP, env=env, check=False).returncode


def down() -> int:
    """Remove the lab: what it made, by its label or with its sandbox, and its state."""
    record = recorded()
    if record is None:
        print("There is no lab.")
        return 0
    if record.sandbox:
        end_sandbox(record)
    else:
        engine = engine_of(record)
        chosen_by = f"--filter=label={site.LABEL}={record.label}"
        for found, remove in (
            (("ps", "--all"), ("rm", "--force", "--volumes")),
            (("network", "ls"), ("network", "rm")),
            (("images",), ("rmi", "--force")),
        ):
            ids = sorted(set(engine.docker(*found, "--quiet", chosen_by).split()))
            if ids:
                engine.docker(*remove, *ids)
    shutil.rmtree(state())
    print("The lab is gone.")
    return 0


def end_sandbox(record: Record) -> None:
    """End the sandbox's process, which takes everything with it, and wait until it is gone."""
    if os.geteuid() != 0:
        fail("the lab's sandbox was started by root: run this with sudo")
    os.kill(record.sandbox, signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while started_at(record.sandbox) == record.started:
        if time.monotonic() > deadline:
            fail(f"the sandbox, process {record.sandbox}, does not end")
        time.sleep(0.1)


def engine_of(record: Record) -> Engine:
    """The engine that has the machines."""
    engine = Engine.at(Path(record.folder) / "engine") if record.sandbox else Engine.of_user()
    if engine is None:
        fail("the Docker engine that the lab was started in does not answer")
    return engine


def recorded() -> Record | None:
    """The lab that there is, if any; one whose sandbox ended, as with the machine, is none."""
    file = state() / "lab.json"
    if not file.exists():
        return None
    record = Record(**json.loads(file.read_text()))
    if record.sandbox and started_at(record.sandbox) != record.started:
        file.unlink()
        return None
    return record


def need() -> Record:
    """The lab that there is; ends the program if there is none."""
    record = recorded()
    if record is None:
        fail("there is no lab: make lab")
    return record


def note(record: Record) -> None:
    """Write down what there is, before there is more."""
    state().mkdir(parents=True, exist_ok=True)
    (state() / "lab.json").write_text(json.dumps(asdict(record)))


def started_at(pid: int) -> str:
    """When a process started, as proc(5) counts; empty if it is gone, or has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def chosen(names: Sequence[str]) -> list[Machine]:
    """The machines with these names."""
    return [machine for machine in MACHINES if machine.name in names]


def fail(message: str) -> NoReturn:
    """Print why, and end."""
    print(f"lab: {message}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
