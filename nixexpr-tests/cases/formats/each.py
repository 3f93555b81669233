# each.py SHOWN DIRECTORY: writes the derivations that `nix derivation show` of 2.34 or 2.26 has
# printed to files of a directory, each after those that it needs, and prints their paths: once as
# they are, and, those of 2.34, once without the paths of outputs, which follow from the rest. Those
# are to be filled in.
import json
import sys

with open(sys.argv[1]) as file:
    derivations = json.load(file)
is_new = "version" in derivations
derivations = derivations["derivations"] if is_new else derivations
order = []


def visit(path):
    if path not in order:
        of = derivations[path]
        for needed in of["inputs"]["drvs"] if is_new else of["inputDrvs"]:
            visit(needed)
        order.append(path)


for path in sorted(derivations):
    visit(path)
for number, path in enumerate(order):
    derivation = derivations[path]
    for kind in ("full", "bare") if is_new else ("full",):
        if kind == "bare":
            for name, output in derivation["outputs"].items():
                if "path" in output:
                    del output["path"]
                    derivation["env"][name] = ""
                elif "hash" in output:
                    del derivation["env"][name]
        with open(f"{sys.argv[2]}/{number:04}-{kind}", "w") as file:
            json.dump(derivation, file)
    print(path)
