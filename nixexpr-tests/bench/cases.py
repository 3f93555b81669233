"""The cases. Each takes a `Bench` and adds what it measured to `Bench.results`.

Tools take turns within a round, and the turn begins with another tool each time,
so that a slow minute of the machine is everybody's. A build whose files are not
those of the plain build is an error, not a number.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from meter import Cost, Failed, Meter
from projects import RECIPES, Tree, fetch
from tools import BASE, Droste

HERE = Path(__file__).resolve().parent
TOOLCHAIN_PROJECTS = ("lua", "zstd")


@dataclass
class Bench:
    """One run: what is measured with, and what was measured."""

    work: Path
    cache: Path
    meter: Meter
    tools: list
    projects: list
    rounds: int
    jobs: int
    hits: int
    children: int
    droste: str
    # (case, subject, tool) -> costs
    results: dict = field(default_factory=lambda: defaultdict(list))
    notes: list = field(default_factory=list)

    def add(self, case, subject, tool, cost):
        self.results[case, subject, tool].append(cost)
        peak = f", peak {cost.peak / 2**20:.0f} MiB" if cost.peak else ""
        say(f"  {case} {subject} {tool}: {cost.cpu:.3f} s CPU, {cost.wall:.3f} s{peak}")

    @cached_property
    def store(self):
        return Store(self)

    def turns(self, number):
        """The tools in the order of a round."""
        start = number % len(self.tools)
        return self.tools[start:] + self.tools[:start]


def say(text):
    print(text, file=sys.stderr, flush=True)


def differences(expected, got, unstable=frozenset()):
    names = (expected.keys() | got.keys()) - unstable
    return sorted(name for name in names if expected.get(name) != got.get(name))


def compare(bench, what, tool, expected, got, unstable=frozenset()):
    """Fails unless a build's files are those of the plain one. Droste may not lack
    or change any; a peer may, if it is no object, archive or program: that is noted,
    for the time is measured without it."""
    wrong = differences(expected, got, unstable)
    if not wrong:
        return
    if isinstance(tool, Droste) or any(not name.endswith((".d", ".dwo", ".gcno")) for name in wrong):
        raise Failed(f"{what}: not as by the plain compiler: {', '.join(wrong[:20])}")
    bench.notes.append(f"{what}: {len(wrong)} files are missing or wrong, such as {wrong[0]}")


def builds(bench):
    """Whole builds of each project: cold, then warm after `make clean`."""
    for project in bench.projects:
        tree = Tree.unpack(project, bench.cache, bench.work / project.name)
        expected, unstable = plain_results(bench, tree)
        for number in range(bench.rounds):
            for tool in bench.turns(number):
                one_turn(bench, tree, tool, expected, unstable)
        shutil.rmtree(tree.path)


def plain_results(bench, tree):
    """What a plain build makes, and which of it is not the same each time."""
    plain = next(tool for tool in bench.tools if not tool.remembers)
    seen = []
    for _ in range(2):
        tree.clean()
        bench.meter.run("reference", tree.make(plain, bench.jobs), tree.path, plain.env())
        seen.append(tree.results())
    unstable = frozenset(differences(*seen))
    if unstable:
        bench.notes.append(f"{tree.project.title}: not the same in two plain builds: {', '.join(sorted(unstable))}")
    objects = [name for name in seen[0] if name.endswith(".o") and name not in unstable]
    if not objects:
        raise Failed(f"{tree.project.name}: the plain build left no object")
    return seen[0], unstable


def one_turn(bench, tree, tool, expected, unstable):
    name = tree.project.name

    def build(case):
        tree.clean()
        cost = bench.meter.run(tool.name, tree.make(tool, bench.jobs), tree.path, tool.env())
        compare(bench, f"{tree.project.title}, {case}, {tool.name}", tool, expected, tree.results(), unstable)
        bench.add(case, name, tool.name, cost)

    tool.reset()
    if tool.remembers:
        bench.add("first", name, tool.name, first_use(bench, tool))
    build("cold")
    if tool.remembers:
        before = tool.counts()
        build("warm")
        hits, misses = (now - then for now, then in zip(tool.counts(), before))
        say(f"    {hits} hits, {misses} misses")
        if hits == 0:
            raise Failed(f"warm {name} with {tool.name}: no hit")
        if misses:
            bench.notes.append(f"{tree.project.title}, warm, {tool.name}: {misses} misses of {hits + misses}")
    tool.stop()


def first_use(bench, tool):
    """A first compile: it starts the server, if there is one, and looks at the compiler."""
    directory = bench.work / "first"
    directory.mkdir(exist_ok=True)
    (directory / "first.c").write_text("int first;\n")
    (directory / "first.cc").write_text("int first;\n")
    script = f"{tool.compiler('gcc')} -c first.c && {tool.compiler('g++')} -c first.cc"
    return bench.meter.run(tool.name, tool.command(["sh", "-c", script]), directory, tool.env())


def hits(bench):
    """One hit on a source with many headers, out of a loop of many."""
    for project in bench.projects:
        if not project.many_headers:
            continue
        directory, command = project.many_headers
        compiler, arguments = command.split(" ", 1)
        tree = Tree.unpack(project, bench.cache, bench.work / f"{project.name}-hits")
        plain = next(tool for tool in bench.tools if not tool.remembers)
        cwd = tree.path / directory
        # Redis' sources want a header that its makefile writes.
        if (cwd / "mkreleasehdr.sh").exists():
            subprocess.run(["sh", "mkreleasehdr.sh"], cwd=cwd, env=plain.env(), check=True, stdout=subprocess.DEVNULL)
        tree.sources = frozenset(tree.files())

        def loop(tool, count):
            one = f"{tool.compiler(compiler)} {arguments}"
            script = f"i=0; while [ $i -lt {count} ]; do {one} || exit 1; i=$((i+1)); done"
            return bench.meter.run(tool.name, tool.command(["sh", "-c", script]), cwd, tool.env())

        bench.add("one compile", project.name, plain.name, loop(plain, 1))
        expected = tree.results()
        named = subprocess.run(
            [*shlex.split(command.partition(" -MMD")[0]), "-M", source_of(command)],
            cwd=cwd, env=plain.env(), check=True, capture_output=True, text=True,
        )  # fmt: skip
        headers = len(set(named.stdout.replace("\\", " ").split())) - 2
        bench.notes.append(f"{project.title}, one hit: `{source_of(command)}` with {headers} headers")
        # The caches do not trust files that are as new as the call.
        time.sleep(3)
        for tool in bench.tools:
            if tool.remembers:
                tool.reset()
                loop(tool, 2)
        for number in range(bench.rounds):
            for tool in bench.turns(number):
                tree.clean()
                if not tool.remembers:
                    script = f"i=0; while [ $i -lt {bench.hits} ]; do /bin/true; i=$((i+1)); done"
                    cost = bench.meter.run(tool.name, ["sh", "-c", script], cwd, tool.env())
                    bench.add("hit", project.name, "/bin/true", each(cost, bench.hits))
                    continue
                before = tool.counts()
                cost = loop(tool, bench.hits)
                gained = tool.counts()[0] - before[0]
                if gained != bench.hits:
                    raise Failed(f"hit {project.name} with {tool.name}: {gained} hits of {bench.hits}")
                compare(bench, f"{project.title}, hit, {tool.name}", tool, expected, tree.results())
                bench.add("hit", project.name, tool.name, each(cost, bench.hits))
        for tool in bench.tools:
            tool.stop()
        shutil.rmtree(tree.path)


def source_of(command):
    return re.search(r" -c (\S+)", command)[1]


def each(cost, count):
    return Cost(cost.cpu / count, cost.wall / count, cost.peak)


class Store:
    """A store with a toolchain, for cases that build derivations."""

    def __init__(self, bench):
        self.bench = bench
        self.directory = bench.work / "derivations"
        self.path = self.directory / "store"
        self.directory.mkdir()
        # Packages and crates that were fetched are kept.
        (bench.cache / "droste").mkdir(parents=True, exist_ok=True)
        (self.directory / "cache").symlink_to(bench.cache / "droste")
        self.env = BASE | {"DROSTE_DIR": str(self.directory), "NIX_CONF_DIR": str(self.directory)}
        self.env["PATH"] += ":" + os.environ["PATH"]
        self.env["CARGO_HOME"] = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
        (self.directory / "nix.conf").write_text("experimental-features = ca-derivations\nsubstituters =\n")
        self.toolchain = self.output("toolchain", "import", "--store", str(self.path)).split()[-1]

    def output(self, *arguments):
        return self.run([self.bench.droste, *arguments])

    def run(self, command):
        result = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if result.returncode != 0:
            raise Failed(f"{shlex.join(command)} ended with {result.returncode}: {result.stderr[-4000:]}")
        return result.stdout

    def instantiate(self, expression):
        """The path of a derivation; `tools` is the toolchain in its text."""
        text = f'let tools = builtins.storePath "{self.toolchain}"; in {expression}'
        return self.run(["nix-instantiate", "--store", str(self.path), "-E", text]).strip()

    def build(self, drv, *options):
        """Builds and says what it cost, and its children."""
        report = self.directory / "report.json"
        command = [self.bench.droste, "build", "--json", "--store", str(self.path), *options, drv]
        script = f"{shlex.join(command)} > {shlex.quote(str(report))}"
        cost = self.bench.meter.run("derivations", ["sh", "-c", script], self.directory, self.env, watch="droste")
        return cost, json.loads(report.read_text())[0]


def edits(bench):
    """One line of one source is edited: `droste build` of the new derivation, and
    `make` in a tree that was built before, with the derivation's own unpacking and
    installing."""
    if not shutil.which("nix-instantiate"):
        bench.notes.append("edit: left out, there is no nix-instantiate (Debian's nix-bin)")
        return
    store = bench.store
    for project in bench.projects:
        if project.name not in TOOLCHAIN_PROJECTS:
            continue
        pristine = bench.work / f"{project.name}-edit-source"
        shutil.copytree(fetch(project, bench.cache), pristine)
        file, old, new = EDITS[project.name]
        original = (pristine / file).read_text()
        if original.count(old) != 1:
            raise Failed(f"{project.name}: the edit's place is not there once")

        def edited(number):
            (pristine / file).write_text(original.replace(old, new.replace("@", str(number))))
            return store.instantiate(
                f'derivation {{ name = "{project.name}"; system = "x86_64-linux"; builder = "${{tools}}/bin/bash";'
                f' args = [ {RECIPES}/{project.recipe}.sh ]; makefile = {RECIPES}/{project.recipe}.mk;'
                f' src = builtins.path {{ path = {pristine}; name = "source"; }}; PATH = "${{tools}}/bin"; }}'
            )

        tree = Tree.unpack(project, bench.cache, bench.work / f"{project.name}-edit")
        plain = next(tool for tool in bench.tools if not tool.remembers)
        bench.meter.run(plain.name, tree.make(plain, bench.jobs), tree.path, plain.env())
        store.build(edited(0))
        for number in range(1, bench.rounds + 1):
            drv = edited(number)
            shutil.copy(pristine / file, tree.path / file)
            again, out = bench.work / "unpacked", bench.work / "installed"
            script = shlex.join(tree.make(plain, bench.jobs, [f"DESTDIR={out}", "install"]))
            incremental = f"cp -r {pristine} {again} && chmod -R u+w {again} && {script}"
            cost = bench.meter.run(plain.name, ["sh", "-c", incremental], tree.path, plain.env())
            bench.add("edit", project.name, "make", cost)
            shutil.rmtree(again)
            shutil.rmtree(out)
            cost, report = store.build(drv)
            if report["children"]["built"] < 1 or report["children"]["reused"] < 10:
                raise Failed(f"edit {project.name}: children {report['children']}")
            bench.add("edit", project.name, "droste build", cost)
        bench.notes.append(f"edit {project.name}: children of the last: {report['children']}, in place: {report['inPlaceReasons']}")


EDITS = {
    "lua": (
        "lmathlib.c",
        "l_mathop(sin)(luaL_checknumber(L, 1))",
        "l_mathop(sin)(luaL_checknumber(L, 1) + @.5 - @.5)",
    ),
    "zstd": (
        "common/entropy_common.c",
        "{ return FSE_VERSION_NUMBER; }",
        "{ return FSE_VERSION_NUMBER + @; }",
    ),
}


# One compile a source, 100 sources a directory, as large projects have them.
MANY = """
set -eu
cd "$NIX_BUILD_TOP"
i=0
while [ $i -lt $count ]; do
    d=d$((i / $per_directory))
    [ -d $d ] || mkdir $d
    echo "#include \\"../all.h\\"" > $d/f$i.c
    echo "int f$i(int x) { return x + ALL + $i; }" >> $d/f$i.c
    i=$((i + 1))
done
echo "#define ALL $seed" > all.h
printf '%s\\n' 'all: $(patsubst %.c,%.o,$(wildcard */*.c))' '%.o: %.c' '	gcc -c -o $@ $<' > Makefile
make -s -j"$NIX_BUILD_CORES"
echo done > "$out"
"""


def many(bench):
    """Many children in one build: what one costs, at 100 and at many."""
    if not shutil.which("nix-instantiate"):
        bench.notes.append("many: left out, there is no nix-instantiate (Debian's nix-bin)")
        return
    store = bench.store
    script = store.directory / "many.sh"
    script.write_text(MANY)

    def drv(count, per_directory, seed):
        return store.instantiate(
            f'derivation {{ name = "many"; system = "x86_64-linux"; builder = "${{tools}}/bin/bash";'
            f' args = [ {script} ]; count = "{count}"; per_directory = "{per_directory}"; seed = "{seed}";'
            ' PATH = "${tools}/bin"; }'
        )

    def measure(subject, count, per_directory, seed, *options):
        cost, report = store.build(drv(count, per_directory, seed), *options)
        built, reused = report["children"]["built"], report["children"]["reused"]
        if "off" not in options and built + reused != count:
            raise Failed(f"many: {report['children']}, in place: {report['inPlaceReasons']}")
        bench.add("many", subject, f"{count}", cost)

    seed = 0
    for _ in range(bench.rounds):
        for count in (0, 100, bench.children // 10):
            seed += 1
            measure("built", count, 100, seed)
            measure("reused", count, 100, seed, "--rebuild")
            measure("memo off", count, 100, seed + 1000000, "--memo", "off")
    # The large ones once: they take minutes.
    seed += 1
    measure("built", bench.children, 100, seed)
    measure("reused", bench.children, 100, seed, "--rebuild")
    measure("built, one directory", bench.children, bench.children, seed + 1)
    measure("reused, one directory", bench.children, bench.children, seed + 1, "--rebuild")



def sandbox(bench):
    """A child's sandbox, set up and torn down, and the kernel's own cost of the same
    namespaces and mounts."""
    repo = HERE.parents[1]
    cargo = ["cargo", "build", "--quiet", "--release", "-p", "droste-sandbox", "--example", "spawn_cost"]
    subprocess.run(cargo, cwd=repo, check=True)
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=repo, check=True, capture_output=True
    )
    spawn_cost = Path(json.loads(metadata.stdout)["target_directory"]) / "release" / "examples" / "spawn_cost"
    floor, program = bench.work / "floor", bench.work / "true"
    subprocess.run(["cc", "-O2", "-static", "-o", floor, HERE / "floor.c"], check=True)
    subprocess.run(["cc", "-O2", "-static", "-x", "c", "-o", program, "-"], input=b"int main(void) { return 0; }", check=True)
    # /tmp must let other users through.
    bench.work.chmod(0o755)
    for number in range(bench.rounds):
        for inputs in (2, 30, 200):
            kernel = ("kernel", [str(floor), str(SANDBOXES), str(inputs), str(program)])
            droste = ("droste", [str(spawn_cost), str(SANDBOXES), str(program), str(inputs)])
            for tool, command in (kernel, droste) if number % 2 == 0 else (droste, kernel):
                cost = bench.meter.run(tool, command, bench.work, BASE)
                bench.add("sandbox", f"{inputs} inputs", tool, each(cost, SANDBOXES))


# Sandboxes in one run.
SANDBOXES = 200


REDIS_CLI = (
    "anet.o adlist.o dict.o redis-cli.o zmalloc.o release.o ae.o redisassert.o crcspeed.o crc64.o siphash.o crc16.o"
    " monotonic.o cli_common.o mt19937-64.o ../deps/hiredis/libhiredis.a ../deps/linenoise/linenoise.o"
)

# (project, what, command) in the project's directory after a build of it.
BINUTILS = [
    ("lua", "ar, 33 objects", "rm -f bench.a; ar rcD bench.a l*.o"),
    ("lua", "ranlib", "ranlib -D liblua.a"),
    ("lua", "link of lua", "gcc -Wl,-E -o bench.out main.o liblua.a -lm -ldl"),
    ("redis", "ar, 7 objects", "cd deps/hiredis; rm -f bench.a; ar rcs bench.a alloc.o net.o hiredis.o sds.o async.o read.o sockcompat.o"),
    ("redis", "strip", "strip -o bench.out src/redis-server"),
    ("redis", "objcopy --only-keep-debug", "objcopy --only-keep-debug src/redis-server bench.out"),
    ("redis", "link of redis-cli", f"cd src; gcc -g -rdynamic -o bench.out {REDIS_CLI} -lm -ldl -pthread -lrt"),
    ("leveldb", "ar, 40 objects", "rm -f bench.a; ar rcD bench.a */*.o"),
    ("leveldb", "strip", "strip -o bench.out leveldbutil"),
    ("leveldb", "link of leveldbutil", "g++ -o bench.out db/leveldbutil.o libleveldb.a -pthread"),
]  # fmt: skip
BINUTILS_LOOP = 20


def binutils(bench):
    """What `ar` and its like take, beside a link: whether they are worth a memo."""
    plain = next(tool for tool in bench.tools if not tool.remembers)
    for project in bench.projects:
        commands = [(what, command) for name, what, command in BINUTILS if name == project.name]
        if not commands:
            continue
        tree = Tree.unpack(project, bench.cache, bench.work / f"{project.name}-binutils")
        bench.meter.run(plain.name, tree.make(plain, bench.jobs), tree.path, plain.env())
        for _ in range(bench.rounds):
            for what, command in commands:
                script = f"i=0; while [ $i -lt {BINUTILS_LOOP} ]; do ({command}) || exit 1; i=$((i+1)); done"
                cost = bench.meter.run(plain.name, ["sh", "-c", script], tree.path, plain.env())
                bench.add("binutils", project.name, what, each(cost, BINUTILS_LOOP))
        shutil.rmtree(tree.path)


# How many trivial derivations are built in one command.
TRIVIAL = 200

NIX_CONF = """build-users-group =
sandbox = true
sandbox-fallback = false
substituters =
sandbox-paths = /bin/sh=@busybox@
experimental-features = nix-command ca-derivations
"""


def nixes(bench):
    """Real Nix: the machine's own, and those of other Debian releases, unpacked into the cache."""
    found = {}
    own = shutil.which("nix-store")
    if own:
        found["nix-" + subprocess.run([own, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]] = Path(own).parent
    for suite in ("trixie", "forky"):
        prefix = bench.cache / f"nix-{suite}"
        got = subprocess.run([HERE.parent / "get-nix.sh", suite, prefix], capture_output=True, text=True)
        if got.returncode != 0:
            bench.notes.append(f"derivations: left out, the Nix of {suite}: {got.stderr.strip().splitlines()[-1:]}")
            continue
        found["nix-" + got.stdout.split()[-1]] = prefix / "usr" / "bin"
    return found


def derivations(bench):
    """Trivial derivations, each in a sandbox, by one command; then the same command, when all is
    valid. The stores are new each time, and each tool's results are compared with the others'."""
    busybox = shutil.which("busybox")
    if not busybox:
        bench.notes.append("derivations: left out, there is no busybox (Debian's busybox-static)")
        return
    programs = nixes(bench)
    if not programs:
        return
    instantiate = programs[list(programs)[-1]] / "nix-instantiate"
    directory = bench.work / "trivial"
    directory.mkdir()
    (directory / "nix.conf").write_text(NIX_CONF.replace("@busybox@", busybox))
    tools = directory / "tools" / "bin"
    tools.mkdir(parents=True)
    shutil.copy(busybox, tools / "busybox")
    (tools / "sh").symlink_to("busybox")
    env = BASE | {"DROSTE_DIR": str(directory / "droste"), "NIX_CONF_DIR": str(directory), "NIX_REMOTE": ""}
    # As it is when it is installed, and as the others are: what a linker has written lies in small
    # pieces in the kernel's cache, and takes a tenth longer to start.
    droste = Path(shutil.copy(bench.droste, directory / "droste-program"))
    kinds = {
        "input-addressed": "",
        "content-addressed": '__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";',
    }
    number = 0
    for _ in range(bench.rounds):
        for kind, attributes in kinds.items():
            number += 1
            seed = directory / "seed"
            expression = f"""let tools = builtins.path {{ path = {tools.parent}; name = "tools"; }}; in
                builtins.genList (n: derivation {{
                    name = "trivial-${{toString n}}"; system = "x86_64-linux"; builder = "${{tools}}/bin/sh";
                    args = [ "-c" "echo ${{toString n}} > $out" ]; {attributes}
                }}) {TRIVIAL}"""
            made = subprocess.run([instantiate, "--store", seed, "-E", expression], env=env, capture_output=True, text=True)
            if made.returncode != 0:
                raise Failed(f"derivations: cannot instantiate: {made.stderr[-2000:]}")
            drvs = [word.split("!")[0] for word in made.stdout.split()]
            commands = {
                name: [str(path / "nix-store"), "-r", "-j2", "--store", None, *drvs] for name, path in programs.items()
            }
            commands["droste"] = [str(droste), "build", "--quiet", "-j2", "--store", None, *drvs]
            names = list(commands)
            start = number % len(names)
            outputs = {}
            for name in names[start:] + names[:start]:
                store = directory / name
                shutil.copytree(seed, store, symlinks=True)
                command = [word or str(store) for word in commands[name]]
                for case in ("trivial", "trivial, valid"):
                    bench.add(case, kind, name, bench.meter.run(name, command, directory, env))
                contents = {path.name: path.read_text() for path in (store / "nix" / "store").glob("*-trivial-*") if path.suffix != ".drv"}
                outputs[name] = contents
                remove(store)
            # Nix 2.8 hashes content-addressed outputs another way only if they refer to themselves.
            for name, contents in outputs.items():
                if contents != outputs["droste"] or len(contents) != TRIVIAL:
                    raise Failed(f"derivations: {name} has other outputs than droste: {len(contents)} and {len(outputs['droste'])}")
            remove(seed)


def remove(path):
    """What is in stores may not be written to."""
    for inner, _, _ in os.walk(path):
        os.chmod(inner, 0o755)
    shutil.rmtree(path)
