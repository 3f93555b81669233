#!/usr/bin/env python3
"""nar.py [--rounds N]: what it costs to read a tree of 500 MB as an archive and to hash it.

`nix-store --dump | sha256sum` and `nix-hash` of each Nix (the one on the PATH, and those in the
directories of $DROSTE_TEST_NIX_DIRS) beside `store/nar/examples/scan_cost.rs`, which looks for a
thousand references as well. They take turns, and the first of them changes each round. Another hash
is an error. Prints a table in Markdown; docs/benchmarks.md has one.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from meter import Failed, Meter
from report import spread, table

REPO = Path(__file__).resolve().parents[2]
# How many files, how long, of which bytes.
FILES = [(25_000, 4 << 10, "text"), (100, 1 << 20, "text"), (300, 1 << 20, "random")]
# Droste's part of what Nix takes that is not to be exceeded.
TARGET = 0.5


def make_tree(tree):
    """The same one each time; a tenth of the words in its text could be hash parts."""
    rng = random.Random(1)
    words = [rng.randbytes(rng.randrange(1, 8)).hex() for _ in range(900)]
    words += ["".join(rng.choices("0123456789abcdfghijklmnpqrsvwxyz", k=32)) for _ in range(100)]
    text = " ".join(rng.choices(words, k=1 << 20)).encode()
    number = 0
    for count, length, kind in FILES:
        for _ in range(count):
            directory = tree / str(number // 250)
            directory.mkdir(parents=True, exist_ok=True)
            start = rng.randrange(len(text) - length)
            content = text[start : start + length] if kind == "text" else rng.randbytes(length)
            (directory / str(number)).write_bytes(content)
            number += 1


def scan_cost():
    """The program that the example is."""
    build = ["cargo", "build", "--quiet", "--release", "-p", "store-nar", "--example", "scan_cost"]
    subprocess.run(build, cwd=REPO, check=True)
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    found = subprocess.run(metadata, cwd=REPO, check=True, capture_output=True).stdout
    return Path(json.loads(found)["target_directory"]) / "release" / "examples" / "scan_cost"


def commands(tree):
    """What is measured, by name. Each writes its hash to the file `hash`."""
    directories = os.environ["PATH"].split(":") + os.environ.get("DROSTE_TEST_NIX_DIRS", "").split(":")
    found = {}
    for directory in directories:
        program = Path(directory) / "nix-store"
        if directory and program.exists():
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
            version = version.stdout.split()[-1]
            found[f"nix-store {version} --dump \\| sha256sum"] = f"{program} --dump {tree} | sha256sum > hash"
            # In base 16, as it has always been by default.
            found[f"nix-hash {version}"] = f"{program.with_name('nix-hash')} --type sha256 {tree} > hash"
    if not found:
        sys.exit("error: there is no `nix-store` on the PATH or in DROSTE_TEST_NIX_DIRS")
    found["droste"] = f"{scan_cost()} {tree} > hash"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (9)")
    rounds = parser.parse_args().rounds
    work = Path(tempfile.mkdtemp(prefix="droste-bench."))
    meter, costs, hashes = Meter(), defaultdict(list), set()
    load = os.getloadavg()[0]
    try:
        tree = work / "tree"
        make_tree(tree)
        tools = commands(tree)
        names = list(tools)
        for number in range(rounds + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                group = f"tool-{names.index(name)}"
                cost = meter.run(group, ["sh", "-c", tools[name]], work, dict(os.environ), watch="scan_cost")
                hashes.add((work / "hash").read_text().split()[0])
                # The first round brings the tree into the kernel's cache.
                if number > 0:
                    costs[name].append(cost)
        if len(hashes) != 1:
            raise Failed(f"several hashes of one tree: {hashes}")
    finally:
        meter.close()
        shutil.rmtree(work)
    own_cpu, own_wall = (median(getattr(c, what) for c in costs["droste"]) for what in ("cpu", "wall"))
    rows, is_met = [], True
    for name in names:
        cpu, wall = ([getattr(c, what) for c in costs[name]] for what in ("cpu", "wall"))
        peak = max(c.peak for c in costs[name])
        ratios = own_cpu / median(cpu), own_wall / median(wall)
        if "sha256sum" in name:
            is_met &= max(ratios) <= TARGET
        rows.append([
            name, spread(cpu), f"{ratios[0]:.2f}", spread(wall), f"{ratios[1]:.2f}",
            f"{peak / 2**20:.1f}" if peak else "",
        ])  # fmt: skip
    head = ["500 MB, 25,400 files", "CPU s", "Droste's ÷ this", "wall s", "Droste's ÷ this", "peak MiB"]
    print(f"{rounds} rounds, {os.cpu_count()} processors, load average {load:.1f} before and {os.getloadavg()[0]:.1f} after.\n")
    print(table(head, rows))
    print(f"\nTarget: at most {TARGET} of `nix-store --dump \\| sha256sum`, CPU and wall: {'met' if is_met else '**missed**'}.")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"error: {error}")
