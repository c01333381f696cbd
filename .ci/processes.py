"""What runs on this machine, as Linux tells it in /proc."""

import os
import pathlib


class Process:
    """A process as it was when it was looked at."""

    def __init__(self, pid):
        folder = pathlib.Path("/proc", str(pid))
        self.pid = pid
        self.arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        self.variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        # Behind the name, which may have spaces: the state, and the parent.
        self.state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        self.parent = int(parent)

    def __repr__(self):
        return f"{self.pid} {' '.join(self.arguments)[:200]!r}"


def processes():
    """All processes but this one, without those that have ended and only wait to be noticed."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                process = Process(int(name))
            except OSError:
                # It ended meanwhile, or is another user's.
                continue
            if process.state not in "ZX":
                found.append(process)
    return found
