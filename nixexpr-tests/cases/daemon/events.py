"""What happens, by `nix build --log-format internal-json` on standard input: what is started and
ends, phases, messages and lines, and how far it is at the end. Numbers and order of builds apart."""
import json
import re
import sys

started, kinds, last, seen = {}, {}, {}, []
plain = lambda text: re.sub(r"/nix/store/[a-z0-9]{32}-", "", text)
# The words of errors are each version's own.
cause = lambda text: "\n".join(re.findall("error:|failed with exit code .|> .*", re.sub(r"\x1b\[[0-9;]*m", "", text)))
for line in sys.stdin:
    if not line.startswith("@nix "):
        continue
    event = json.loads(line[5:])
    action, number = event["action"], event.get("id")
    if action == "start" and event["type"] in (101, 102, 104, 105, 111):
        kinds[number] = event["type"]
        started[number] = plain(event["text"])
        seen.append("start %d %d %s" % (event["type"], event["level"], started[number]))
    elif action == "stop" and number in started:
        seen.append("stop %d %s" % (kinds[number], started.pop(number)))
    elif action == "result" and event["type"] in (101, 104, 105) and kinds.get(number) in (101, 104, 105):
        if number not in started:
            seen.append("RESULT OF WHAT HAS ENDED")
        elif kinds[number] == 104:
            last[number] = event["fields"]
        else:
            seen.append("result %d %d %s" % (kinds[number], event["type"], event["fields"]))
    # Of what is no JSON, Nix says that it is not: it is a line of the log, too.
    elif action == "msg" and "builder" in event["msg"] and "bad JSON" not in event["msg"]:
        text = event["msg"]
        seen.append("message %d %s" % (event["level"], cause(text) if "error:" in text else text))
seen += ["NEVER STOPPED " + text for text in started.values()]
# How many are done is not compared: Nix counts a derivation, and what it is resolved to.
seen += ["at the end %d run, %d failed" % (n[2], n[3]) for n in last.values()]
print("\n".join(sorted(seen)))
