"""Medians, spreads and ratios as Markdown tables."""

from statistics import median

# The best time of a peer is compared with; these are Droste and what is no cache.
NOT_PEERS = ("plain", "droste")


def spread(values, unit=1.0, digits=2):
    """`median (min–max)`."""
    values = [value * unit for value in values]
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Report:
    def __init__(self, bench):
        self.bench, self.results = bench, bench.results

    def cpu(self, case, subject, tool):
        costs = self.results.get((case, subject, tool))
        return median(cost.cpu for cost in costs) if costs else None

    def wall(self, case, subject, tool):
        costs = self.results.get((case, subject, tool))
        return median(cost.wall for cost in costs) if costs else None

    def tools(self, case, subject):
        return [tool for c, s, tool in self.results if (c, s) == (case, subject)]

    def subjects(self, case):
        return list(dict.fromkeys(s for c, s, _ in self.results if c == case))

    def ratio(self, value, base, digits=3):
        return "–" if not value or not base else f"{value / base:.{digits}f}"

    def best(self, case, subject, family, what):
        values = [what(case, subject, tool) for tool in self.tools(case, subject) if tool.startswith(family)]
        return min(values, default=None)

    def builds(self):
        """A table for each project: cold and warm beside each other."""
        for name in self.subjects("cold"):
            title = next(p.title for p in self.bench.projects if p.name == name)
            base_cpu, base_wall = self.cpu("cold", name, "plain"), self.wall("cold", name, "plain")
            rows = []
            for tool in self.tools("cold", name):
                row = [tool]
                for case in ("cold", "warm"):
                    costs = self.results.get((case, name, tool))
                    if not costs:
                        row += ["", "", "", ""]
                        continue
                    row += [
                        spread([cost.cpu for cost in costs]),
                        self.ratio(median(c.cpu for c in costs), base_cpu),
                        spread([cost.wall for cost in costs]),
                        self.ratio(median(c.wall for c in costs), base_wall),
                    ]
                rows.append(row)
            head = [title, "cold: CPU s", "× plain", "wall s", "× plain", "warm: CPU s", "× plain", "wall s", "× plain"]
            yield table(head, rows)

    def hits(self):
        rows = []
        for name in self.subjects("hit"):
            peer = self.best("hit", name, "ccache", self.cpu)
            for tool in self.tools("hit", name):
                costs = self.results["hit", name, tool]
                rows.append([
                    f"{name}: {tool}",
                    spread([cost.cpu for cost in costs], 1000),
                    spread([cost.wall for cost in costs], 1000),
                    self.ratio(self.cpu("hit", name, tool), peer),
                ])  # fmt: skip
        if rows:
            yield table(["one hit", "CPU ms", "wall ms", "CPU × the best ccache"], rows)

    def first(self):
        rows = []
        tools = dict.fromkeys(tool for case, _, tool in self.results if case == "first")
        for tool in tools:
            costs = [c for (case, _, t), cs in self.results.items() if (case, t) == ("first", tool) for c in cs]
            rows.append([tool, spread([c.cpu for c in costs]), spread([c.wall for c in costs])])
        if rows:
            yield table(["first use: two small compiles with an empty memory", "CPU s", "wall s"], rows)

    def edits(self):
        rows = []
        for name in self.subjects("edit"):
            for tool in self.tools("edit", name):
                costs = self.results["edit", name, tool]
                rows.append([
                    f"{name}: {tool}",
                    spread([c.cpu for c in costs]),
                    self.ratio(self.cpu("edit", name, tool), self.cpu("edit", name, "make"), 2),
                    spread([c.wall for c in costs]),
                    self.ratio(self.wall("edit", name, tool), self.wall("edit", name, "make"), 2),
                ])  # fmt: skip
        if rows:
            yield table(["one edited line", "CPU s", "× make", "wall s", "× make"], rows)

    def sandbox(self):
        rows = []
        for name in self.subjects("sandbox"):
            for tool in self.tools("sandbox", name):
                costs = self.results["sandbox", name, tool]
                rows.append([
                    f"{name}: {tool}",
                    spread([c.cpu for c in costs], 1000),
                    self.ratio(self.cpu("sandbox", name, tool), self.cpu("sandbox", name, "kernel"), 2),
                    spread([c.wall for c in costs], 1000),
                    self.ratio(self.wall("sandbox", name, tool), self.wall("sandbox", name, "kernel"), 2),
                ])  # fmt: skip
        if rows:
            yield table(["a child's sandbox", "CPU ms", "× kernel", "wall ms", "× kernel"], rows)

    def many(self):
        rows = []
        for subject in self.subjects("many"):
            # What the build costs without any; and with 100, one directory or not.
            plainly = subject.split(",")[0]
            base, base_wall = self.cpu("many", plainly, "0"), self.wall("many", plainly, "0")
            at_100 = self.per_child("many", plainly, "100", base)
            for count in self.tools("many", subject):
                if count == "0":
                    continue
                each = self.per_child("many", subject, count, base)
                wall = (self.wall("many", subject, count) - base_wall) / int(count)
                peak = max(cost.peak for cost in self.results["many", subject, count])
                rows.append([
                    f"{int(count):,} {subject}", f"{each * 1000:.2f}", self.ratio(each, at_100, 2),
                    f"{wall * 1000:.2f}", f"{peak / 2**20:.0f}",
                ])  # fmt: skip
        if rows:
            yield table(["children in one build", "CPU ms each", "× at 100", "wall ms each", "executor's peak MiB"], rows)

    def per_child(self, case, subject, count, base):
        value = self.cpu(case, subject, count)
        return None if value is None else (value - base) / int(count)

    def binutils(self):
        rows = []
        for name in self.subjects("binutils"):
            for what in self.tools("binutils", name):
                costs = self.results["binutils", name, what]
                rows.append([f"{name}: {what}", spread([c.cpu for c in costs], 1000), spread([c.wall for c in costs], 1000)])
        if rows:
            yield table(["a plain call", "CPU ms", "wall ms"], rows)

    def derivations(self):
        for case, title in (("trivial", "200 derivations, built"), ("trivial, valid", "200 derivations, valid")):
            rows = []
            for kind in self.subjects(case):
                for tool in self.tools(case, kind):
                    costs = self.results[case, kind, tool]
                    rows.append([
                        f"{kind}: {tool}",
                        spread([c.cpu for c in costs], 1, 3),
                        self.ratio(self.cpu(case, kind, "droste"), self.cpu(case, kind, tool)),
                        spread([c.wall for c in costs], 1, 3),
                        self.ratio(self.wall(case, kind, "droste"), self.wall(case, kind, tool)),
                    ])  # fmt: skip
            if rows:
                yield table([title, "CPU s", "Droste's ÷ this", "wall s", "Droste's ÷ this"], rows)

    def tables(self):
        for part in (self.builds, self.hits, self.first, self.edits, self.sandbox, self.many, self.binutils, self.derivations):
            yield from part()

    def targets(self):
        """(what, target, measured) for each target that this run has numbers for."""
        cpu, wall, best = self.cpu, self.wall, self.best
        for name in self.subjects("hit"):
            yield from ratio_line(f"{name}: one hit, CPU ÷ ccache's", 0.3, cpu("hit", name, "droste"), best("hit", name, "ccache", cpu))
        for name in self.subjects("warm"):
            droste = cpu("warm", name, "droste")
            yield from ratio_line(f"{name}: warm, CPU ÷ ccache's", 0.5, droste, best("warm", name, "ccache", cpu))
            yield from ratio_line(f"{name}: warm, CPU ÷ sccache's", 0.4, droste, cpu("warm", name, "sccache"))
            peers = [best("warm", name, family, wall) for family in ("ccache", "sccache")]
            peers = [value for value in peers if value]
            yield from ratio_line(f"{name}: warm, wall time ÷ the best peer's", 1.0, wall("warm", name, "droste"), min(peers, default=None))
        for name in self.subjects("cold"):
            droste = cpu("cold", name, "droste")
            yield from ratio_line(f"{name}: cold, CPU ÷ plain's", 1.05, droste, cpu("cold", name, "plain"))
            yield from ratio_line(f"{name}: cold, CPU ÷ ccache's", 1.0, droste, best("cold", name, "ccache", cpu))
        for name in self.subjects("edit"):
            yield from ratio_line(f"{name}: one edited line, CPU ÷ make's", 1.3, cpu("edit", name, "droste build"), cpu("edit", name, "make"))
        for name in self.subjects("sandbox"):
            yield from ratio_line(f"sandbox with {name}: wall time ÷ the bare kernel's", 2.0, wall("sandbox", name, "droste"), wall("sandbox", name, "kernel"))
        for subject in self.subjects("many"):
            count = self.tools("many", subject)[-1]
            base = cpu("many", subject.split(",")[0], "0")
            if not subject.startswith("memo"):
                each = self.per_child("many", subject, count, base)
                yield from ratio_line(f"{count} children {subject}: CPU of each ÷ at 100", 1.1, each, self.per_child("many", subject.split(",")[0], "100", base))
                peak = max(cost.peak for cost in self.results["many", subject, count])
                yield f"{count} children {subject}: executor's peak MiB", 200, peak / 2**20

        for case, targets in (("trivial", {"nix-2.34": 0.1, "nix-2.26": 0.3}), ("trivial, valid", {"nix-2.34": 0.2})):
            for kind in self.subjects(case):
                for tool in self.tools(case, kind):
                    for version, target in targets.items():
                        if tool.startswith(version):
                            yield from ratio_line(f"200 derivations ({case[9:] or 'built'}), {kind}: CPU ÷ {tool}'s", target, cpu(case, kind, "droste"), cpu(case, kind, tool))

    def markdown(self):
        parts = [*self.tables()]
        rows = [[what, f"≤ {target}", f"{value:.2f}", "yes" if value <= target else "**no**"] for what, target, value in self.targets()]
        if rows:
            parts.insert(0, table(["what", "target", "measured", "met"], rows))
        if self.bench.notes:
            parts.append("\n".join(f"- {note}" for note in dict.fromkeys(self.bench.notes)))
        return "\n\n".join(parts) + "\n"


def ratio_line(what, target, value, base):
    if value and base:
        yield what, target, value / base
