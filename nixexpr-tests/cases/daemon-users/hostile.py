"""hostile.py SOCKET SECRET PATH: what a user who is not trusted may try by the worker protocol, and
what came of it, a line each. SECRET is a file of somebody else's, PATH a valid path."""

import base64
import hashlib
import socket
import struct
import sys

SOCKET, SECRET, VALID = sys.argv[1:]


def number(value):
    return struct.pack("<Q", value)


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return number(len(value)) + value + bytes(-len(value) % 8)


def texts(values):
    return number(len(values)) + b"".join(map(text, values))


def base32(digest):
    value = int.from_bytes(digest, "little")
    digits = "0123456789abcdfghijklmnpqrsvwxyz"
    return "".join(digits[value >> 5 * i & 31] for i in reversed(range((len(digest) * 8 + 4) // 5)))


def path_of(kind, digest, name):
    whole = hashlib.sha256(f"{kind}:sha256:{digest.hex()}:/nix/store:{name}".encode()).digest()
    folded = bytearray(20)
    for i, byte in enumerate(whole):
        folded[i % 20] ^= byte
    return f"/nix/store/{base32(folded)}-{name}"


def nar(*node):
    return b"".join(map(text, ("nix-archive-1", "(", "type") + node + (")",)))


def file_nar(content):
    return nar("regular", "contents", content)


class Client:
    """A connection of protocol 1.37."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(SOCKET)
        self.read = self.socket.makefile("rb").read
        self.socket.sendall(number(0x6E697863) + number(1 << 8 | 37) + number(0) + number(0))
        self.number(), self.number(), self.text()
        self.is_trusted = self.number() == 1
        self.frames()

    def number(self):
        return struct.unpack("<Q", self.read(8))[0]

    def text(self):
        length = self.number()
        return self.read(length + -length % 8)[:length].decode(errors="replace")

    def frames(self):
        """Reads up to the end of the log; the error's text if there is one."""
        while True:
            frame = self.number()
            if frame == 0x616C7473:
                return None
            if frame == 0x63787470:
                self.text(), self.number(), self.text()
                error = self.text()
                self.number()
                for _ in range(self.number()):
                    self.number(), self.text()
                return error
            if frame == 0x6F6C6D67:
                self.text()
            elif frame == 0x53545254:
                self.number(), self.number(), self.number(), self.text(), self.fields(), self.number()
            elif frame == 0x53544F50:
                self.number()
            elif frame == 0x52534C54:
                self.number(), self.number(), self.fields()
            else:
                sys.exit(f"frame {frame:x}")

    def fields(self):
        for _ in range(self.number()):
            self.number() if self.number() == 0 else self.text()

    def ask(self, *request):
        self.socket.sendall(b"".join(request))
        return self.frames()

    def add(self, name, method, content):
        """The path, or an error."""
        framed = number(len(content)) + content + number(0)
        error = self.ask(number(7), text(name), text(method), texts([]), number(0), framed)
        return error or self.text()

    def add_nar(self, path, content, references=(), ca="", signatures=()):
        info = text(path) + text("") + text(hashlib.sha256(content).hexdigest()) + texts(references)
        info += number(0) + number(len(content)) + number(0) + texts(signatures) + text(ca)
        framed = number(len(content)) + content + number(0)
        return self.ask(number(39), info, number(0), number(0), framed)


def told(what, answer):
    print(f"{what}: {answer}")


def tried(what, *request):
    told(what, Client().ask(*request))


told("trusted", Client().is_trusted)

# Another content where that of an object is to be that refers to itself.
right = hashlib.sha256(b"the right one").digest()
path = path_of("source:self", right, "self")
evil = file_nar("not the right one, but " + path)
told("self", Client().add_nar(path, evil, [path], "fixed:r:sha256:" + base32(right)))

# Files of others.
link = nar("symlink", "target", SECRET)
told("link as derivation", Client().add("link.drv", "fixed:r:sha256", link))
link = Client().add("link", "fixed:r:sha256", link)
for operation in 22, 28, 41:
    tried(f"link by {operation}", number(operation), text(link))
tried("link built", number(9), texts([link + "!out"]), number(0))

# What is no signature.
for signature in "noc", "a b:AAAA":
    tried(f"signature {signature!r}", number(37), text(VALID), texts([signature]))
content = file_nar("signed")
digest = hashlib.sha256(content).digest()
path = path_of("source", digest, "signed")
ca = "fixed:r:sha256:" + base32(digest)
told("added with a signature", Client().add_nar(path, content, (), ca, ["noc"]))
good = "k:" + base64.b64encode(bytes(64)).decode()
told("added with a good one", Client().add_nar(path, content, (), ca, [good]))
