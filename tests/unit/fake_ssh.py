"""A program ``ssh`` whose host is this machine: it serves the sftp subsystem itself, and runs commands in a shell.

ssh = FakeSsh(tmp_path, monkeypatch)     # from now on it is the ssh on the PATH
ssh.misbehave(say="Host key verification failed.", code=255)
assert ssh.runs[0].host == "tree.example"
"""

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class SshRun:
    """One run of the program."""

    arguments: list[str]

    @property
    def host(self) -> str:
        return self.arguments[self.arguments.index("--") + 1]

    @property
    def command(self) -> str:
        """What the host's shell reads: all that follows the host, as ssh puts it together."""
        return " ".join(self.arguments[self.arguments.index("--") + 2 :])

    def option(self, name: str) -> str | None:
        return self.arguments[self.arguments.index(name) + 1] if name in self.arguments else None


class FakeSsh:
    """Puts the program onto the PATH; says how it was run, and how it is to behave from now on."""

    def __init__(self, folder: Path, monkeypatch: "pytest.MonkeyPatch") -> None:
        self._folder = folder / "ssh"
        self._folder.mkdir()
        program = self._folder / "ssh"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {self._folder} "$@"\n')
        program.chmod(0o755)
        self.behave()
        monkeypatch.setenv("PATH", f"{self._folder}:{os.environ['PATH']}")

    def behave(self) -> None:
        self.misbehave()

    def misbehave(self, **faults: Any) -> None:
        """Commit *faults* from now on.

        say: write this to stderr and end with *code*, before anything else.
        noise: write this to stdout first, as a shell does that greets whoever logs in.
        cut_after: end after so many bytes of files; *once* only in the first run.
        stall_after: fall silent after so many bytes of files.
        short: give at most so many bytes in an answer.
        lie: say that every file has so many bytes more.
        """
        (self._folder / "faults.json").write_text(json.dumps(faults))

    @property
    def runs(self) -> list[SshRun]:
        rows = (self._folder / "runs").read_text().splitlines() if (self._folder / "runs").exists() else []
        return [SshRun(json.loads(row)) for row in rows]


class _Server:
    """As much of an SFTP server as reading a tree takes."""

    def __init__(self, faults: dict[str, Any], stdin: BinaryIO, stdout: BinaryIO) -> None:
        self.faults = faults
        self.stdin, self.stdout = stdin, stdout
        self.handles: dict[bytes, Any] = {}
        self.sent = 0

    def serve(self) -> None:
        while head := self.stdin.read(4):
            packet = self.stdin.read(struct.unpack(">I", head)[0])
            kind, body = packet[0], packet[1:]
            if kind == 1:
                self.send(2, struct.pack(">I", 3))
                continue
            number, body = body[:4], body[4:]
            try:
                answer, content = self.answer(kind, body)
            except FileNotFoundError:
                answer, content = self.status(2, "No such file")
            except PermissionError:
                answer, content = self.status(3, "Permission denied")
            except OSError as error:
                answer, content = self.status(4, str(error.strerror))
            self.send(answer, number + content)

    def answer(self, kind: int, body: bytes) -> tuple[int, bytes]:
        text, rest = self.string(body)
        answers: dict[int, Callable[[], tuple[int, bytes]]] = {
            3: lambda: (102, self.keep(Path(text.decode()).open("rb"))),  # noqa: SIM115 - closed with the process
            4: lambda: self.status(0 if self.handles.pop(text) else 4, ""),
            5: lambda: self.read(text, *struct.unpack(">QI", rest)),
            8: lambda: (105, self.attributes(os.fstat(self.handles[text].fileno()))),
            11: lambda: (102, self.keep(entry.name for entry in Path(text.decode()).iterdir())),
            12: lambda: (104, self.name(name)) if (name := next(self.handles[text], "")) else self.status(1, ""),
            17: lambda: (105, self.attributes(Path(text.decode()).stat())),
            19: lambda: (104, self.name(str(Path(text.decode()).readlink()))),
        }
        return answers[kind]()

    def read(self, handle: bytes, offset: int, length: int) -> tuple[int, bytes]:
        content = os.pread(self.handles[handle].fileno(), min(length, self.faults.get("short", length)), offset)
        if not content:
            return self.status(1, "")
        self.sent += len(content)
        if self.sent > self.faults.get("cut_after", self.sent):
            sys.exit(0)
        if self.sent > self.faults.get("stall_after", self.sent):
            time.sleep(60)
        return 103, struct.pack(">I", len(content)) + content

    def keep(self, what: Any) -> bytes:
        handle = str(len(self.handles)).encode() + os.urandom(4)
        self.handles[handle] = what
        return struct.pack(">I", len(handle)) + handle

    def attributes(self, found: os.stat_result) -> bytes:
        return struct.pack(">IQI", 5, found.st_size + self.faults.get("lie", 0), found.st_mode)

    def name(self, name: str) -> bytes:
        raw = name.encode()
        # The long name of a listing, and attributes of every sort, which nobody asked for.
        more = struct.pack(">I", 3) + b"-rw" + struct.pack(">IQIIIIII", 0x8000000F, 1, 2, 3, 4, 5, 6, 1)
        return struct.pack(">II", 1, len(raw)) + raw + more + (struct.pack(">I", 1) + b"x") * 2

    def status(self, code: int, text: str) -> tuple[int, bytes]:
        raw = text.encode()
        return 101, struct.pack(">II", code, len(raw)) + raw + struct.pack(">I", 0)

    def string(self, body: bytes) -> tuple[bytes, bytes]:
        (length,) = struct.unpack_from(">I", body)
        return body[4 : 4 + length], body[4 + length :]

    def send(self, kind: int, body: bytes) -> None:
        self.stdout.write(struct.pack(">IB", len(body) + 1, kind) + body)
        self.stdout.flush()


def _main(folder: Path, arguments: list[str]) -> None:
    is_first = not (folder / "runs").exists()
    with (folder / "runs").open("a") as runs:
        runs.write(json.dumps(arguments) + "\n")
    faults = json.loads((folder / "faults.json").read_text())
    if faults.get("once") and not is_first:
        faults = {}
    if "say" in faults:
        sys.stderr.write(faults["say"] + "\n")
        sys.exit(faults["code"])
    if "noise" in faults:
        sys.stdout.write(faults["noise"])
        sys.stdout.flush()
    if "-s" in arguments[: arguments.index("--")]:
        _Server(faults, sys.stdin.buffer, sys.stdout.buffer).serve()
    else:
        os.execv("/bin/sh", ["sh", "-c", SshRun(arguments).command])  # noqa: S606 - as sshd does it


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
