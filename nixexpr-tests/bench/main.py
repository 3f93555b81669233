"""Runs the cases that were asked for, prints the tables, keeps them in docs/benchmarks.md."""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cases
from cases import Bench, say
from meter import Failed, Meter
from projects import PROJECTS
from report import Report
from tools import Ccache, Droste, Sccache, Tool

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
# A section for compilers, and one for what is measured beside Nix.
BEGIN, END = "<!-- begin: written by nixexpr-tests/bench/run --update -->", "<!-- end -->"
BEGIN_NIX = "<!-- begin: written by nixexpr-tests/bench/run --cases {} --update -->"
CASES = {
    "builds": cases.builds,
    "hits": cases.hits,
    "edits": cases.edits,
    "sandbox": cases.sandbox,
    "many": cases.many,
    "binutils": cases.binutils,
}
NIX_CASES = {
    "derivations": cases.derivations,
}


def options():
    parser = argparse.ArgumentParser(prog="nixexpr-tests/bench/run", description=__doc__)
    names = [project.name for project in PROJECTS]
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured (5)")
    parser.add_argument("--projects", nargs="+", choices=names, default=names, metavar="PROJECT", help=" ".join(names))
    parser.add_argument("--cases", nargs="+", choices=CASES | NIX_CASES, default=list(CASES), metavar="CASE", help=" ".join(CASES | NIX_CASES) + "; the last ones, beside Nix, only if they are named, and each for itself")
    parser.add_argument("--tools", nargs="+", metavar="TOOL", help="only these, and plain")
    parser.add_argument("--ccache", action="append", default=[], metavar="PROGRAM", help="another ccache beside Debian's, such as the newest")
    parser.add_argument("--sccache", metavar="PROGRAM", help="an sccache; otherwise the newest is installed by cargo into the cache")
    parser.add_argument("--jobs", type=int, default=2, help="make -j (2)")
    parser.add_argument("--hits", type=int, default=200, help="hits in one loop (200)")
    parser.add_argument("--children", type=int, default=10000, help="children of the large build (10000)")
    parser.add_argument("--update", action="store_true", help="writes the tables to docs/benchmarks.md")
    return parser.parse_args()


def tools(arguments, directory, cache):
    """All tools that were asked for; sccache is made if it is wanted and missing."""

    def wanted(name):
        return arguments.tools is None or name in arguments.tools

    yield Tool(directory)
    debian = shutil.which("ccache", path="/usr/bin:/bin")
    if wanted("ccache") and debian:
        yield Ccache("ccache", debian, directory)
    for program in arguments.ccache:
        program = os.path.realpath(program)
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
        for name, settings in ((f"ccache-{version}", {}), (f"ccache-{version}-depend", {"CCACHE_DEPEND": "1"})):
            if wanted(name):
                yield Ccache(name, program, directory, settings)
    if wanted("sccache"):
        program = arguments.sccache or cache / "sccache" / "bin" / "sccache"
        if not Path(program).exists():
            say("installing sccache by cargo")
            subprocess.run(
                ["cargo", "install", "--quiet", "--locked", "--no-default-features", "--root", cache / "sccache", "sccache"],
                check=True,
            )
        yield Sccache(str(program), directory)
    if wanted("droste"):
        yield Droste(os.path.realpath(os.environ["DROSTE"]), directory)


def machine(load):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    else:
        model = os.uname().machine
    return f"{os.cpu_count()} × {model}, Linux {os.uname().release.split('-')[0]}, load average {load} before and {loadavg()} after"


def loadavg():
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def update(text, begin):
    """Replaces what is between the marks."""
    old = DOCS.read_text()
    before, rest = old.split(begin, 1)
    after = rest.split(END, 1)[1]
    DOCS.write_text(f"{before}{begin}\n\n{text}\n{END}{after}")


def main():
    arguments = options()
    is_beside_nix = any(name in NIX_CASES for name in arguments.cases)
    if is_beside_nix and len(arguments.cases) > 1:
        sys.exit("error: what is measured beside Nix is measured for itself: one of " + ", ".join(NIX_CASES))
    cache = Path(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))) / "droste-bench"
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="droste-bench."))
    meter, load = Meter(), loadavg()
    bench = Bench(
        work=work,
        cache=cache,
        meter=meter,
        tools=[] if is_beside_nix else list(tools(arguments, work / "tools", cache)),
        projects=[project for project in PROJECTS if project.name in arguments.projects],
        rounds=arguments.rounds,
        jobs=arguments.jobs,
        hits=arguments.hits,
        children=arguments.children,
        droste=os.path.realpath(os.environ["DROSTE"]),
    )
    versions = "; ".join(f"{tool.name}: {tool.version()}" for tool in bench.tools)
    status = 0
    try:
        for name in arguments.cases:
            say(f"== {name}")
            (CASES | NIX_CASES)[name](bench)
    except Failed as error:
        say(f"error: {error}")
        status = 1
    finally:
        for tool in bench.tools:
            tool.stop()
        meter.close()
        # What is in a store may not be written to, and so not removed as it is.
        for path, _, _ in os.walk(work):
            os.chmod(path, 0o755)
        shutil.rmtree(work)
    how = "" if is_beside_nix else f", `make -j{arguments.jobs}`"
    text = "\n\n".join([
        f"{datetime.date.today()}, {arguments.rounds} rounds{how}, {machine(load)}. CPU time by {meter.how()}.{f' {versions}.' if versions else ''}",
        Report(bench).markdown(),
    ])  # fmt: skip
    print(text)
    if arguments.update and status == 0:
        update(text, BEGIN_NIX.format(arguments.cases[0]) if is_beside_nix else BEGIN)
    return status


if __name__ == "__main__":
    sys.exit(main())
