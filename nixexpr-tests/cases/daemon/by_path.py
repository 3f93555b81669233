"""by_path.py SOCKET DERIVATION [hold]: speaks 1.38 with `realisation-with-path-not-hash`, as clients of
harmonia and of Nix since 2.35 do, and prints what a floating derivation turned out to be, each time
it is told. With `hold` it stays."""

import socket
import struct
import sys

stream = socket.socket(socket.AF_UNIX)
stream.settimeout(60)
stream.connect(sys.argv[1])
read = stream.makefile("rb").read
drv = sys.argv[2]
ABSENT = "/nix/store/00000000000000000000000000000000-absent"


def number(value):
    return struct.pack("<Q", value)


def text(value):
    value = value.encode()
    return number(len(value)) + value + bytes(-len(value) % 8)


def texts(values):
    return number(len(values)) + b"".join(map(text, values))


def get_number():
    return struct.unpack("<Q", read(8))[0]


def get_text():
    length = get_number()
    return read(length + -length % 8)[:length].decode()


def get_texts():
    return [get_text() for _ in range(get_number())]


def fields():
    for _ in range(get_number()):
        get_number() if get_number() == 0 else get_text()


def ask(request):
    """Reads up to the end of the log; the error's text if there is one."""
    stream.sendall(request)
    while True:
        frame = get_number()
        if frame == 0x616C7473:
            return None
        if frame == 0x63787470:
            get_text(), get_number(), get_text()
            error = get_text()
            get_number()
            for _ in range(get_number()):
                get_number(), get_text()
            return error
        if frame == 0x6F6C6D67:
            get_text()
        elif frame == 0x53545254:
            get_number(), get_number(), get_number(), get_text(), fields(), get_number()
        elif frame == 0x53544F50:
            get_number()
        elif frame == 0x52534C54:
            get_number(), get_number(), fields()
        else:
            sys.exit(f"frame {frame:x}")


def realisation(key):
    error = ask(number(43) + key)
    if error is None and get_number() == 1:
        return f"{get_text()} {get_texts()}"
    return error


def register(key, path):
    return ask(number(42) + key + text(path) + texts([]))


stream.sendall(number(0x6E697863) + number(1 << 8 | 38))
get_number(), get_number()
stream.sendall(texts(["realisation-with-path-not-hash"]) + number(0) + number(0))
features = get_texts()
get_text(), get_number()
print("features", features, ask(b""))
print("build", ask(number(46) + texts([drv + "!*", ABSENT]) + number(0)))
made = ABSENT
for _ in range(get_number()):
    path, status, message = get_text(), get_number(), get_text()
    for _ in range(4):
        get_number()
    for _ in range(2):
        if get_number() == 1:
            get_number()
    outputs = [(get_text(), get_text(), get_texts()) for _ in range(get_number())]
    print("result", path, status, message, outputs)
    made = outputs[0][1] if outputs else made
key = text(drv) + text("out")
print("query", realisation(key))
# Of a derivation that is not here.
other_drv = text("/nix/store/11111111111111111111111111111111-other.drv")
other = other_drv + text("out")
print("query", realisation(other))
print("register", register(other, made))
print("query", realisation(other))
print("register", register(key, ABSENT))
print("query", realisation(key))
# By its path and not its name alone.
if sys.argv[3:] == ["hold"]:
    print("holding", flush=True)
    stream.recv(1)
print("log", ask(number(45) + other_drv + number(4) + b"log\n" + number(0)), get_number())
