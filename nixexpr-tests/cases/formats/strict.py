# strict.py NIX DROSTE DIRECTORY: what each of them takes for a derivation, as ATerm and as JSON.
#
# Each text below is a derivation with one change. It is given to both, and a line is printed for
# each that only one of them takes, or takes under another path; but for those that Droste refuses
# by design, of which the reason stands beside them and in docs/compatibility.md: for them a line
# is printed if that is not so. NIX and DROSTE are programs, DIRECTORY is for stores.
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

nix, droste, directory = sys.argv[1:]
H = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-"
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
EMPTY = "/nix/store/k1c50z7bd3hha2gsrvjy4yf5mprcix3q-x"  # nothing, added as x by flat and SHA-256

# What Droste refuses by design.
NAMES = "an output that can have no path"
NOT_A_DERIVATION = "an input derivation that is not named like one"
NOTHING_OF_IT = "an input derivation of which nothing is an input: refused by Nix 2.36, too"
CANONICAL = "a store path in another spelling: refused by Nix 2.36, too"
VARIABLE = "an output's variable that is not its path: refused by all but Nix 2.33 to 2.35"
DEPTH = "JSON nested 128 deep"

PLAIN = (
    'Derive([("out","","r:sha256","")],[("' + H + 'a.drv",["dev","out"])],["' + H + 'src"],'
    '"x86_64-linux","/bin/sh",["-c","a\\"b\\\\c\\nd\\re\\tf"],[("A","1"),("B",""),("out","/x")])'
)
DYNAMIC = PLAIN.replace('["dev","out"]', '(["dev"],[("a",["out"]),("b",([],[("c",["out"])]))])').replace(
    "Derive(", 'DrvWithVersion("xp-dyn-drv",'
)
FIXED = (
    'Derive([("out","' + EMPTY + '","sha256","' + SHA256 + '")],[],[],"s","/bin/sh",[],[("out","' + EMPTY + '")])'
)
# name, text, what of it is changed and to what, why Droste refuses it where Nix does not
ATERM = [
    ("plain", PLAIN, "", "", None),
    ("dynamic", DYNAMIC, "", "", None),
    ("fixed", FIXED, "", "", None),
    ("line end behind it", PLAIN, "/x\")])", "/x\")])\n", None),
    ("something behind it", PLAIN, "/x\")])", "/x\")])Derive(", None),
    ("space before it", PLAIN, "Derive", " Derive", None),
    ("space in it", PLAIN, "],[", "], [", None),
    ("other name", PLAIN, "Derive", "Drive", None),
    ("empty", "", "", "", None),
    ("not ended", PLAIN, '/x")])', '/x")]', None),
    ("string not ended", PLAIN, '/x")])', "/x", None),
    ("ends in a backslash", PLAIN, '/x")])', "/x\\", None),
    ("needless escape", PLAIN, "-c", "\\-\\c", None),
    ("escaped name", PLAIN, '"A"', '"\\A"', None),
    ("plain line end", PLAIN, "\\n", "\n", None),
    ("null byte", PLAIN, "-c", "\0", None),
    ("byte that is no text", PLAIN, "-c", b"\xff", None),
    ("early comma", PLAIN, '["-c"', '[,"-c"', None),
    ("late comma", PLAIN, 'f"]', 'f",]', None),
    ("missing comma", PLAIN, '"-c","a', '"-c""a', None),
    ("missing comma between parts", PLAIN, '],"x86', ']"x86', None),
    ("unsorted variables", PLAIN, '("A","1"),("B","")', '("B",""),("A","1")', None),
    ("variable twice", PLAIN, '("A","1")', '("A","1"),("A","2")', None),
    ("unsorted outputs of an input", PLAIN, '"dev","out"', '"out","dev"', None),
    ("output of an input twice", PLAIN, '"dev","out"', '"dev","dev"', None),
    ("source twice", PLAIN, '["' + H + 'src"]', '["' + H + 'src","' + H + 'src"]', None),
    ("input twice", PLAIN, '["dev","out"])', '["dev"]),("' + H + 'a.drv",["out"])', None),
    ("output twice", PLAIN, '"r:sha256","")', '"r:sha256",""),("out","","sha1","")', None),
    ("unsorted outputs", PLAIN, '("out",""', '("z","","r:sha256",""),("out",""', None),
    ("no outputs", PLAIN, '("out","","r:sha256","")', "", None),
    ("nothing of an input", PLAIN, '["dev","out"]', "[]", NOTHING_OF_IT),
    ("input is no derivation", PLAIN, "-a.drv", "-a", NOT_A_DERIVATION),
    ("source is a relative path", PLAIN, '["' + H + 'src', '["src', None),
    ("source is elsewhere", PLAIN, H + "src", "/usr/bin", None),
    ("source is below a path", PLAIN, H + "src", H + "src/x", None),
    ("source is no store path", PLAIN, H + "src", "/nix/store/src", None),
    ("source with two slashes", PLAIN, H + "src", H.replace("store/", "store//") + "src", CANONICAL),
    ("source with a slash behind", PLAIN, H + "src", H + "src/", CANONICAL),
    ("source by way of a dot", PLAIN, H + "src", H.replace("store/", "store/./") + "src", CANONICAL),
    ("hash with a letter that is none", PLAIN, "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-src", "emdqa9w1p6cmli6976v4wi0sw9r4p5pr-src", None),
    ("empty output name", PLAIN, '("out",""', '("",""', NAMES),
    ("slash in an output's name", PLAIN, '("out",""', '("o/t",""', NAMES),
    ("dots as an output's name", PLAIN, '("out",""', '("..",""', NAMES),
    ("slash in the name of an input's output", PLAIN, '["dev",', '["d/v",', NAMES),
    ("unknown algorithm", PLAIN, "r:sha256", "r:sha3", None),
    ("upper case", PLAIN, "r:sha256", "r:SHA256", None),
    ("unknown method", PLAIN, "r:sha256", "x:sha256", None),
    ("text by sha1", PLAIN, "r:sha256", "text:sha1", None),
    ("git by md5", PLAIN, "r:sha256", "git:md5", None),
    ("blake3", PLAIN, "r:sha256", "r:blake3", None),
    ("impure", PLAIN, '"r:sha256",""', '"r:sha256","impure"', None),
    ("path of a floating output", PLAIN, '("out",""', '("out","' + EMPTY + '"', None),
    ("path of an impure output", PLAIN, '("out","","r:sha256",""', '("out","' + EMPTY + '","r:sha256","impure"', None),
    ("structured attributes", PLAIN, '("A","1")', '("__json","{\\"a\\":1}")', None),
    ("structured attributes that are no object", PLAIN, '("A","1")', '("__json","[1]")', None),
    ("structured attributes that are no JSON", PLAIN, '("A","1")', '("__json","{")', None),
    ("empty structured attributes", PLAIN, '("A","1")', '("__json","")', None),
    ("dynamic input without its version", DYNAMIC, 'DrvWithVersion("xp-dyn-drv",', "Derive(", None),
    ("unknown version", DYNAMIC, "xp-dyn-drv", "xp-other", None),
    ("version in other words", DYNAMIC, "xp-dyn-drv", "xp-\\dyn-drv", None),
    ("version without need", DYNAMIC, '(["dev"],[("a",["out"]),("b",([],[("c",["out"])]))])', '["dev"]', None),
    ("no dynamic input in the list", DYNAMIC, '("a",["out"]),("b",([],[("c",["out"])]))', "", None),
    ("unsorted dynamic inputs", DYNAMIC, '("a",["out"]),', '("c",["out"]),', None),
    ("dynamic input twice", DYNAMIC, '("a",["out"]),', '("a",["out"]),("a",["dev"]),', None),
    ("nothing of a dynamic input", DYNAMIC, '("a",["out"])', '("a",[])', NOTHING_OF_IT),
    ("slash in the name of a dynamic output", DYNAMIC, '("a",["out"])', '("a/b",["out"])', NAMES),
    ("node of another kind", DYNAMIC, '("a",["out"])', '("a","out")', None),
    ("hash in capitals", FIXED, SHA256, SHA256.upper(), None),
    ("hash in base 32", FIXED, SHA256, "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73", None),
    ("hash in base 64", FIXED, SHA256, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", None),
    ("hash with its algorithm", FIXED, SHA256, "sha256:" + SHA256, None),
    ("short hash", FIXED, SHA256, SHA256[:-1], None),
    ("hash with a digit that is none", FIXED, SHA256, "x" + SHA256[1:], None),
    ("fixed output with another name", FIXED, '("out","' + EMPTY + '",', '("dev","' + EMPTY + '",', None),
    ("fixed output without a path", FIXED, '("out","' + EMPTY + '",', '("out","",', None),
    ("fixed output whose variable is missing", FIXED, '[("out","' + EMPTY + '")]', "[]", None),
    ("fixed output whose variable is another", FIXED, '[("out","' + EMPTY + '")]', '[("out","/x")]', None),
    ("unknown path of an output", FIXED, '"sha256","' + SHA256 + '"', '"",""', None),
    ("output that should have a path", FIXED, EMPTY + '","sha256","' + SHA256 + '"', '","",""', None),
]

H = H.split("/")[-1]
BARE = {
    "args": [],
    "builder": "/bin/sh",
    "env": {"out": ""},
    "inputs": {"drvs": {}, "srcs": []},
    "name": "x",
    "outputs": {"out": {}},
    "system": "s",
    "version": 4,
}
FLOATING = {"method": "nar", "hashAlgo": "sha256"}
CONTENT = {"method": "nar", "hash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}
GONE = object()


# A way into the derivation, what stands there, why Droste refuses it where Nix does not
def at(way, value, design=None):
    whole = json.loads(json.dumps(BARE))
    *most, last = way.split("/")
    for step in most:
        whole = whole[step]
    if value is GONE:
        del whole[last]
    else:
        whole[last] = value
    name = f"{way} is {'gone' if value is GONE else json.dumps(value)[:50]}"
    return name, json.dumps(whole).encode(), design


def raw(name, old, new, design=None):
    text = json.dumps(BARE).encode()
    assert old in text, old
    return name, text.replace(old, new, 1), design


def outputs(value, design=None):
    return at("outputs", value, design)


JSON = (
    [at("name", "x")]
    + [at(name, GONE) for name in BARE]
    + [at(name, 1) for name in BARE]
    + [at(name, "x") for name in BARE]
    + [at(name, None) for name in BARE]
    + [at(name, []) for name in BARE]
    + [at("version", version) for version in (3, 5, 4.0, -4, "4", [4])]
    + [at("name", name) for name in ("", ".", "..", "a/b", ".a", "x.drv", "ü", "a" * 207, "a" * 208)]
    + [
        at("env/out", "/nix/store"),
        at("env/out", 1),
        at("env/x", "\0"),
        at("env/__json", "{}"),
        at("env/__json", ""),
        at("args", [1]),
        at("args", ["ü", "\0", "\n"]),
        at("more", [{}]),
        at("structuredAttrs", {}),
        at("structuredAttrs", {"b": [1, 1.5, None], "a": "x"}),
        at("structuredAttrs", None),
        at("structuredAttrs", "{}"),
        outputs({"out": FLOATING}),
        outputs({"out": FLOATING, "dev": FLOATING}),
        outputs({"out": FLOATING, "dev": {}}),
        outputs({"out": FLOATING, "dev": FLOATING | {"hashAlgo": "sha1"}}),
        outputs({"out": FLOATING | {"impure": True}}),
        outputs({"out": FLOATING | {"impure": False}}),
        outputs({"out": FLOATING | {"impure": "no"}}),
        outputs({"out": FLOATING | {"path": H + "x"}}),
        outputs({"out": FLOATING | {"method": "recursive"}}),
        outputs({"out": FLOATING | {"method": 1}}),
        outputs({"out": FLOATING | {"method": "text"}}),
        outputs({"out": FLOATING | {"hashAlgo": "SHA256"}}),
        outputs({"out": {"method": "nar"}}),
        outputs({"out": {"hashAlgo": "sha256"}}),
        outputs({"out": {"path": H + "x"}}),
        outputs({"out": {"path": "/nix/store/" + H + "x"}}),
        outputs({"out": {"x": 1}}),
        outputs({"out": []}),
        outputs({"dev": FLOATING}),
        outputs({"a/b": FLOATING}, NAMES),
        outputs({"": FLOATING}, NAMES),
        outputs({"out": CONTENT}),
        outputs({"dev": CONTENT}),
        outputs({"out": CONTENT, "dev": CONTENT}),
        outputs({"out": CONTENT | {"hash": CONTENT["hash"].replace("=", "")}}),
        outputs({"out": CONTENT | {"hash": CONTENT["hash"].replace("-", ":")}}),
        outputs({"out": CONTENT | {"hash": "sha256:" + SHA256}}),
        outputs({"out": CONTENT | {"hash": "sha256-AAAA"}}),
        outputs({"out": CONTENT | {"hash": "sha3-AAAA"}}),
        outputs({"out": CONTENT | {"hash": CONTENT["hash"] + "more"}}),
        at("inputs/srcs", [H + "src"]),
        at("inputs/srcs", ["/nix/store/" + H + "src"]),
        at("inputs/srcs", [1]),
        at("inputs/srcs", GONE),
        at("inputs/drvs", GONE),
        at("inputs/drvs", {H + "a.drv": {"outputs": ["out"], "dynamicOutputs": {}}}),
        at("inputs/drvs", {H + "a.drv": {"outputs": ["out"]}}),
        at("inputs/drvs", {H + "a.drv": {"dynamicOutputs": {}}}),
        at("inputs/drvs", {H + "a.drv": ["out"]}),
        raw("a member twice", b'"system": "s"', b'"system": "t", "system": "s"'),
        raw("something behind it", b'"version": 4}', b'"version": 4} x'),
        raw("white space around it", b'{"args": []', b' \t\r\n{"args": []'),
        raw("a byte order mark", b'{"args"', b'\xef\xbb\xbf{"args"'),
        raw("a comment", b'{"args"', b'/**/{"args"'),
        raw("a late comma", b'"version": 4', b'"version": 4,'),
        raw("not ended", b'"version": 4}', b'"version": 4'),
        raw("single quotes", b'"s"', b"'s'"),
        raw("a byte that is no text", b'"s"', b'"\xff"'),
        raw("half a surrogate pair", b'"s"', b'"\\ud800"'),
        raw("a surrogate pair", b'"s"', b'"\\ud83d\\ude00"'),
        raw("a plain control character", b'"s"', b'"\n"'),
        raw("unknown escape", b'"s"', b'"\\x41"'),
        raw("a number that is none", b'"s"', b"NaN"),
        raw("a number that is too large", b'"args"', b'"structuredAttrs": {"a": 1e999}, "args"'),
        raw("large numbers", b'"args"', b'"structuredAttrs": {"a": [18446744073709551615, 1e300, 123456789012345678901]}, "args"'),
        raw("a number with a zero before it", b'"version": 4', b'"version": 04'),
        raw("a hundred arrays in each other", b'"args"', b'"more": ' + b"[" * 100 + b"]" * 100 + b', "args"'),
        raw("more than a hundred arrays in each other", b'"args"', b'"more": ' + b"[" * 200 + b"]" * 200 + b', "args"', DEPTH),
    ]
)


def run(program, arguments, text):
    done = subprocess.run([program, *arguments], input=text, capture_output=True)
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}", done.stderr
    return done.stdout.decode().strip() if done.returncode == 0 else "refused", done.stderr


def compare(case):
    number, kind, (name, text, design) = case
    if kind == "ATerm":
        file = f"{directory}/{number}"
        with open(file, "wb") as out:
            out.write(text)
        add = ["--mode", "text", "--name", "x.drv", file]
        theirs, _ = run(nix, ["store", "add", "--store", f"{directory}/theirs", *add], b"")
        ours, why = run(droste, ["store", "add", "--store", f"{directory}/ours", *add], b"")
    else:
        theirs, _ = run(nix, ["derivation", "add", "--store", f"{directory}/theirs"], text)
        ours, why = run(droste, ["derivation", "add", "--store", f"{directory}/ours"], text)
    if design is not None:
        # Nix may refuse it, too.
        return None if ours == "refused" and theirs != "refused" else f"{kind}, {name}: {design}: {theirs}, {ours}"
    return None if ours == theirs else f"{kind}, {name}: Nix: {theirs}, Droste: {ours} {why.decode(errors='replace')}"


def changed(case):
    name, text, old, new, design = case
    text, old, new = (part if isinstance(part, bytes) else part.encode() for part in (text, old, new))
    assert old in text, name
    return name, text.replace(old, new, 1), design


cases = [("ATerm", changed(case)) for case in ATERM] + [("JSON", case) for case in JSON]
# Each makes its store once.
compare((len(cases), *cases[0]))
with ThreadPoolExecutor(os.cpu_count()) as pool:
    for line in pool.map(compare, [(number, *case) for number, case in enumerate(cases)]):
        if line:
            print(line)
