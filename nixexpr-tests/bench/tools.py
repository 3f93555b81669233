"""The compiler caches, each as: an environment, words before a compiler's name
or before the whole command, and how its memory is emptied.

A tool's directory is its own; its server, if it has one, is started by its first
use and stopped by `stop`.
"""

import itertools
import os
import socket
import subprocess
from pathlib import Path

from meter import Failed

# What is always the same: the locale, the language of messages, the clock that
# sources may ask for, and where programs come from.
BASE = {
    "HOME": os.environ.get("HOME", "/"),
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "SOURCE_DATE_EPOCH": "1700000000",
    "TERM": "dumb",
}


numbers = itertools.count(1)


class Tool:
    """The plain compiler."""

    name = "plain"
    # Whether a second build can be faster than a first.
    remembers = False

    def __init__(self, directory):
        self.directory = Path(directory) / self.name
        self.directory.mkdir(parents=True)

    def env(self):
        return dict(BASE)

    def compiler(self, name):
        """The compiler's name as `make CC=…` gets it."""
        return name

    def command(self, command):
        """A whole command, such as make's."""
        return command

    def reset(self):
        """Forgets everything that was remembered. It is moved aside, and removed when all is
        measured: ext4 without a journal does not use an inode again for a minute after its
        removal, and who makes files meanwhile pays for the search of another."""
        self.stop()
        self.directory.rename(self.directory.with_name(f"{self.name}-{next(numbers)}"))
        self.directory.mkdir()

    def stop(self):
        pass

    def version(self):
        return self.output(["gcc", "--version"]).splitlines()[0]

    def counts(self):
        """(hits, misses) since the last `reset`, or None."""
        return None

    def output(self, command):
        result = subprocess.run(command, env=self.env(), capture_output=True, text=True)
        if result.returncode != 0:
            raise Failed(f"{command} ended with {result.returncode}: {result.stderr}")
        return result.stdout


def sum_of(text, names):
    """The sum of `names` in lines of `name<TAB>value`."""
    values = dict(line.split("\t")[:2] for line in text.splitlines() if "\t" in line)
    return sum(int(values.get(name, 0)) for name in names)


class Ccache(Tool):
    """ccache in its direct mode, which is its default."""

    remembers = True

    def __init__(self, name, program, directory, settings=None):
        self.name, self.program, self.settings = name, program, settings or {}
        super().__init__(directory)

    def env(self):
        return super().env() | {
            "CCACHE_DIR": str(self.directory),
            "CCACHE_CONFIGPATH": "/dev/null",
            **self.settings,
        }

    def compiler(self, name):
        return f"{self.program} {name}"

    def version(self):
        return self.output([self.program, "--version"]).splitlines()[0]

    def counts(self):
        text = self.output([self.program, "--print-stats"])
        hits = sum_of(text, ["direct_cache_hit", "preprocessed_cache_hit"])
        return hits, sum_of(text, ["cache_miss"])


class Sccache(Tool):
    """sccache with its cache on the local disk, which is its default."""

    name = "sccache"
    remembers = True

    def __init__(self, program, directory):
        self.program = program
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        super().__init__(directory)

    def env(self):
        return super().env() | {
            "SCCACHE_DIR": str(self.directory),
            "SCCACHE_CONF": "/dev/null",
            "SCCACHE_SERVER_PORT": str(self.port),
            "SCCACHE_IDLE_TIMEOUT": "0",
        }

    def compiler(self, name):
        return f"{self.program} {name}"

    def stop(self):
        # It fails where no server runs.
        subprocess.run([self.program, "--stop-server"], env=self.env(), capture_output=True)

    def version(self):
        return self.output([self.program, "--version"]).strip()

    def counts(self):
        total = {"Cache hits": 0, "Cache misses": 0}
        for line in self.output([self.program, "--show-stats"]).splitlines():
            name, _, value = line.rpartition(" ")
            if name.strip() in total:
                total[name.strip()] = int(value)
        return total["Cache hits"], total["Cache misses"]


class Droste(Tool):
    """`droste run`: its daemon is started by the first call."""

    name = "droste"
    remembers = True

    def __init__(self, program, directory):
        self.program = program
        super().__init__(directory)

    def env(self):
        return super().env() | {"DROSTE_DIR": str(self.directory)}

    def command(self, command):
        return [self.program, "run", "--", *command]

    def stop(self):
        # It fails where no daemon runs.
        subprocess.run([self.program, "daemon", "stop"], env=self.env(), capture_output=True)

    def version(self):
        return self.output([self.program, "--version"]).strip()

    def counts(self):
        text = self.output([self.program, "stats", "--print-stats"])
        hits = sum_of(text, ["direct_cache_hit", "preprocessed_cache_hit"])
        return hits, sum_of(text, ["cache_miss"])
