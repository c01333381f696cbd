"""The processes of this machine, read from /proc."""

import os
import pathlib


class Process:
    """A snapshot of a process."""

    def __init__(self, pid):
        folder = pathlib.Path("/proc", str(pid))
        self.pid = pid
        self.arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        self.variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        # The state and the parent follow the name, which may contain spaces.
        self.state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        self.parent = int(parent)

    def __repr__(self):
        return f"{self.pid} {' '.join(self.arguments)[:200]!r}"


def processes():
    """Returns all processes except this one and zombies."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                process = Process(int(name))
            except OSError:
                # The process has ended, or belongs to another user.
                continue
            if process.state not in "ZX":
                found.append(process)
    return found
