#!/usr/bin/env python3
"""gen.py TEMPLATES NAMES SOURCE HEADER: makes a C source and its header."""
import os
import sys

import helper

templates, names, source, header = sys.argv[1:]
if not os.path.exists(os.path.join(templates, "main.c.in")):
    print("gen.py: no main.c.in", file=sys.stderr)
    sys.exit(3)
text = ""
for name in sorted(os.listdir(templates)):
    with open(os.path.join(templates, name)) as file:
        text += helper.render(file.read())
os.makedirs(os.path.dirname(source), exist_ok=True)
with open(source, "w") as file:
    file.write(f"/* {sys.argv[0]}: {os.environ.get('GEN_WHO', 'nobody')} */\n{text}")
with open(header, "w") as file:
    file.write("/* " + " ".join(sorted(os.listdir(names))) + " */\n")
print("made", source)
print("warning: none", file=sys.stderr)
