"""What is built: sources of crates and of Debian's source packages.

Both come by the machine's own clients, from wherever these are set up to get
them, and are kept in the cache directory.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parents[1] / "src" / "toolchain" / "recipes"


@dataclass(frozen=True)
class Project:
    """`make` is run in `directory`, with `variables`."""

    name: str
    title: str
    # "crate" or "debian", then its name and version; no version: Debian's newest.
    origin: tuple
    # Below the unpacked sources.
    directory: str = "."
    variables: tuple = ()
    # A recipe of src/toolchain: its makefile, and the programs that its script writes.
    recipe: str = None
    # Another makefile.
    makefile: Path = None
    # One compile with many headers, as `make` calls it; and the object.
    many_headers: tuple = None


# Mostly without optimisation: the less a compile takes, the more there is to lose by a cache.
PROJECTS = [
    Project("lua", "Lua 5.4.9", ("crate", "lua-src", "551.1.0"), "lua-5.4.9", recipe="lua"),
    Project("zstd", "zstd 1.5.7", ("crate", "zstd-sys", "2.1.3"), "zstd/lib", ("CFLAGS=-O1 -g -Wall",), recipe="zstd"),
    Project(
        "redis",
        "Redis 7.0",
        ("debian", "redis"),
        variables=("MALLOC=libc", "USE_SYSTEMD=no", "OPTIMIZATION=-O0", "V=1"),
        many_headers=(
            "src",
            "gcc -std=c11 -DREDIS_STATIC= -Wall -W -O2 -g -I../deps/hiredis -I../deps/linenoise "
            "-I../deps/lua/src -I../deps/hdr_histogram -MMD -c networking.c -o networking.o",
        ),
    ),
    Project(
        "leveldb",
        "leveldb 1.23 (C++)",
        ("debian", "leveldb"),
        makefile=HERE / "leveldb.mk",
        many_headers=(
            ".",
            "g++ -O2 -g -Wall -Wextra -std=c++11 -DLEVELDB_PLATFORM_POSIX=1 -DHAVE_FDATASYNC=1 -DHAVE_O_CLOEXEC=1 "
            "-DHAVE_FULLFSYNC=0 -DHAVE_CRC32C=0 -DHAVE_SNAPPY=0 -Iinclude -I. -pthread -MMD -c db/db_impl.cc -o db/db_impl.o",
        ),
    ),
]


def fetch(project, cache):
    """The unpacked sources; nobody writes to them."""
    kind, name, *version = project.origin
    target = cache / "sources" / "-".join((kind, name, *version))
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            unpacked = {"crate": crate, "debian": debian}[kind](Path(scratch), name, *version)
            unpacked.rename(target)
    return target / project.directory


def crate(scratch, name, version):
    """Sources of a crate, by cargo."""
    (scratch / "lib.rs").touch()
    (scratch / "Cargo.toml").write_text(
        '[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2024"\n'
        f'[lib]\npath = "lib.rs"\n[workspace]\n[dependencies]\n{name} = "={version}"\n'
    )
    subprocess.run(["cargo", "vendor", "--quiet", "vendor"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    return scratch / "vendor" / name


def debian(scratch, name):
    """Debian's source package, patched as Debian does, by apt-get.

    The machine's lists of packages are often without sources; so this takes the
    machine's own entries for binary packages, asks for sources instead, and
    keeps the lists apart.
    """
    parts, lists = scratch / "parts", scratch / "lists"
    parts.mkdir()
    lists.mkdir()
    etc = Path("/etc/apt")
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        lines = path.read_text().splitlines()
        if path.suffix == ".list":
            lines = [line.replace("deb ", "deb-src ", 1) for line in lines if line.startswith("deb ")]
        else:
            lines = ["Types: deb-src" if line.startswith("Types:") else line for line in lines]
        (parts / path.name).write_text("\n".join(lines) + "\n")
    apt = [
        "apt-get", "-qq", "-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={parts}",
        "-o", f"Dir::State::Lists={lists}", "-o", "APT::Sandbox::User=root",
    ]  # fmt: skip
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "source", name], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    return next(path for path in scratch.iterdir() if path.is_dir() and path.name.startswith(name + "-"))


@dataclass
class Tree:
    """A project's sources in a directory of their own, to be built again and again.

    All tools build in the same one, by turns: paths in objects are the same, and
    the sources are the same files with the same times.
    """

    project: Project
    path: Path
    sources: frozenset = field(default=frozenset())

    @classmethod
    def unpack(cls, project, cache, path):
        shutil.copytree(fetch(project, cache), path, symlinks=True)
        if project.makefile:
            shutil.copy(project.makefile, path / "Makefile")
        if project.recipe:
            shutil.copy(RECIPES / f"{project.recipe}.mk", path / "Makefile")
            script = (RECIPES / f"{project.recipe}.sh").read_text()
            # cat > NAME <<'END' … END
            _, _, rest = script.partition("\ncat > ")
            name, _, text = rest.partition(" <<'END'\n")
            (path / name).write_text(text.partition("\nEND\n")[0] + "\n")
        tree = cls(project, path)
        tree.sources = frozenset(tree.files())
        return tree

    def files(self):
        for directory, _, names in os.walk(self.path):
            for name in names:
                yield os.path.relpath(os.path.join(directory, name), self.path)

    def clean(self):
        """Removes everything that is not a source, as `make clean` does; the
        projects' own targets leave one thing or another."""
        for name in set(self.files()) - self.sources:
            (self.path / name).unlink()

    def make(self, tool, jobs, extra=()):
        project = self.project
        return tool.command([
            "make", f"-j{jobs}", f"CC={tool.compiler('gcc')}", f"CXX={tool.compiler('g++')}",
            *project.variables, *extra,
        ])  # fmt: skip

    def results(self):
        """The contents of everything that a build has made, by name."""
        found = {}
        for name in set(self.files()) - self.sources:
            path = self.path / name
            if path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found
