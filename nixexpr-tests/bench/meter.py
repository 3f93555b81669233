"""What a command costs: CPU time of its whole tree and of the servers it uses.

Every tool runs in a control group of its own (version 2), and so does the
server that it leaves behind; the kernel adds up what the group's processes use,
ended or not. Where no group can be made, the sum is that of the processes that
were waited for and of those that are left: this process then adopts orphans.
"""

import ctypes
import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# A server may still be writing what the command has left to it. It is done when
# its group has used less than this, in seconds, for one interval.
IDLE_CPU = 0.0005
INTERVAL = 0.1
LONGEST_WAIT = 20.0

PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds; `peak` is the largest resident size in bytes of a watched process."""

    cpu: float
    wall: float
    peak: int = 0


class Failed(Exception):
    """A command that should have succeeded did not, or a result differs."""


class Group:
    """The control group of one tool."""

    def __init__(self, parent, name):
        self.path = parent / name
        self.path.mkdir()

    def cpu(self):
        for line in (self.path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6
        raise Failed(f"{self.path} has no usage_usec")

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def processes(self):
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]


class Orphans:
    """Stands in for a control group: all of this process's descendants."""

    def __init__(self):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def cpu(self):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        ended = os.times()
        total = ended.children_user + ended.children_system
        for pid in self.processes():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            # The second field, the name, may have spaces; utime is the 14th.
            total += sum(map(int, stat.rsplit(")", 1)[1].split()[11:15])) / TICKS_PER_SECOND
        return total

    def enter(self):
        pass

    def processes(self):
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except OSError:
                    continue
                parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
        found, new = set(), {os.getpid()}
        while new:
            new = {pid for pid, parent in parents.items() if parent in new} - found
            found |= new
        return sorted(found)


def group_root():
    """A directory for groups, or None where none can be made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind != "cgroup2":
            continue
        own = next(
            line[3:].lstrip("/")
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
        root = Path(mount_point) / own / f"droste-bench-{os.getpid()}"
        try:
            root.mkdir()
            if "usage_usec" in (root / "cpu.stat").read_text():
                return root
            root.rmdir()
        except OSError:
            pass
    return None


class Meter:
    """Measures commands; one group for each name."""

    def __init__(self):
        self.root = group_root()
        self.groups = {}
        self.orphans = None if self.root else Orphans()

    def how(self):
        return "control groups" if self.root else "waited-for and adopted processes"

    def group(self, name):
        if self.orphans:
            return self.orphans
        if name not in self.groups:
            self.groups[name] = Group(self.root, name)
        return self.groups[name]

    def run(self, name, command, cwd, env, watch=None):
        """Runs a command in a group and waits until its server is idle again.

        `watch` is the name of a program whose memory is watched.
        """
        group = self.group(name)
        with open(os.devnull) as nothing, tempfile.TemporaryFile("w+") as log:
            before = self.settle(group)
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=nothing,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=group.enter,
            )
            watcher = Watcher(group, watch) if watch else None
            status = process.wait()
            wall = time.perf_counter() - started
            peak = watcher.stop() if watcher else 0
            if status != 0:
                log.seek(0)
                tail = "".join(log.readlines()[-40:])
                raise Failed(f"{name}: `{' '.join(command)}` ended with {status}:\n{tail}")
            return Cost(self.settle(group) - before, wall, peak)

    def settle(self, group):
        used, deadline = group.cpu(), time.monotonic() + LONGEST_WAIT
        while time.monotonic() < deadline:
            time.sleep(INTERVAL)
            now = group.cpu()
            if now - used < IDLE_CPU:
                return now
            used = now
        return used

    def close(self):
        for group in self.groups.values():
            deadline = time.monotonic() + LONGEST_WAIT
            while group.processes() and time.monotonic() < deadline:
                time.sleep(INTERVAL)
            group.path.rmdir()
        if self.root:
            self.root.rmdir()


class Watcher:
    """Reads the peak resident size of a program's processes while they run."""

    def __init__(self, group, program):
        self.group, self.program = group, program
        self.peak, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.ended.wait(INTERVAL):
            for pid in self.group.processes():
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                fields = dict(line.split(":", 1) for line in status.splitlines())
                if fields["Name"].strip() == self.program and "VmHWM" in fields:
                    self.peak = max(self.peak, int(fields["VmHWM"].split()[0]) * 1024)

    def stop(self):
        self.ended.set()
        self.thread.join()
        return self.peak
