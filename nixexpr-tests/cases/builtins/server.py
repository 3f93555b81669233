"""server.py DIR: answers HTTP on two ports, and HTTPS on two more, until it is killed.

Writes the ports, one a line, to DIR/ports: HTTP, HTTP of another host, HTTPS with the certificate
DIR/server.pem, HTTPS with DIR/stranger.pem. Each request is a line of DIR/requests: port's
number, method, target, Authorization, Range. Files are those below DIR/files; what else there is:

  /status/N           status N and a short text
  /to/URL             redirects there
  /loop               redirects to itself
  /nowhere            redirects without saying where
  /auth/FILE          401 without `Authorization: Basic` of user:secret
  /hang, /hang-body   never answers; never goes on
  /short/FILE         announces more than it sends
  /resume/FILE        breaks off halfway, once for each Range; goes on where it is asked to
  /no-resume/FILE     breaks off halfway, and begins anew
  /fails-twice/FILE   status 503 twice
  /gzip/FILE          with Content-Encoding: gzip
  /chunked/FILE, /bad-chunks, /close/FILE, /garbage, /empty, /endless-head
"""
import collections
import gzip
import pathlib
import socket
import ssl
import sys
import threading
import time

top = pathlib.Path(sys.argv[1])
counts = collections.Counter()
lock = threading.Lock()


def answer(connection, number, first):
    reader = connection.makefile("rb")
    line = reader.readline().decode().split()
    if len(line) < 2:
        return
    method, target = line[:2]
    headers = {}
    while True:
        header = reader.readline().strip()
        if not header:
            break
        name, _, value = header.decode().partition(":")
        headers[name.lower()] = value.strip()
    with lock:
        with open(top / "requests", "a") as log:
            words = [headers.get("authorization", "-"), headers.get("range", "-")]
            print(number, method, target, *words, file=log)
    send = connection.sendall

    def head(status, *lines):
        text = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} Text", *lines))
        send(text.encode() + b"\r\n")

    def whole(status, body, *lines):
        head(status, f"Content-Length: {len(body)}", *lines)
        send(body)

    if method == "CONNECT" or target.startswith("http://proxied"):
        if method == "CONNECT":
            send(b"HTTP/1.1 200 OK\r\n\r\n")
            other = socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2])))
            copy(connection, other)
            return
        whole(200, b"proxied\n")
        return
    target = target.partition("?")[0]
    kind, _, rest = target.lstrip("/").partition("/")
    path = top / "files" / rest
    body = path.read_bytes() if rest and path.is_file() else b""
    if kind == "status":
        whole(int(rest), b"a text\n")
    elif kind == "to":
        head(302, f"Location: {rest}", "Content-Length: 0")
    elif kind == "loop":
        head(302, "Location: /loop", "Content-Length: 0")
    elif kind == "nowhere":
        head(302, "Content-Length: 0")
    elif kind == "auth":
        if headers.get("authorization") == "Basic dXNlcjpzZWNyZXQ=":
            whole(200, body)
        else:
            whole(401, b"", 'WWW-Authenticate: Basic realm="x"')
    elif kind == "hang":
        time.sleep(1000)
    elif kind == "hang-body":
        head(200, "Content-Length: 100")
        send(b"begin")
        time.sleep(1000)
    elif kind == "short":
        head(200, f"Content-Length: {len(body) + 100}")
        send(body)
    elif kind in ("resume", "no-resume"):
        begin = 0
        if headers.get("range", "").startswith("bytes=") and kind == "resume":
            begin = int(headers["range"][6:].rstrip("-"))
            head(206, f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}",
                 f"Content-Length: {len(body) - begin}", "Accept-Ranges: bytes")
        else:
            head(200, f"Content-Length: {len(body)}", *(["Accept-Ranges: bytes"] if kind == "resume" else []))
        end = begin + max(1, (len(body) - begin) // 2) if begin < len(body) * 3 // 4 else len(body)
        send(body[begin:end])
    elif kind == "fails-twice":
        with lock:
            counts[target] += 1
            count = counts[target]
        whole(503 if count <= 2 else 200, b"later" if count <= 2 else body)
    elif kind == "gzip":
        whole(200, gzip.compress(body), "Content-Encoding: gzip")
    elif kind in ("chunked", "bad-chunks"):
        head(200, "Transfer-Encoding: chunked")
        if kind == "bad-chunks":
            send(b"zz\r\nnothing\r\n")
            return
        for at in range(0, len(body), 1000):
            piece = body[at:at + 1000]
            send(b"%x;name=value\r\n%s\r\n" % (len(piece), piece))
        send(b"0\r\nTrailer: x\r\n\r\n")
    elif kind == "close":
        head(200)
        send(body)
    elif kind == "garbage":
        send(b"\x00\xff this is no HTTP\r\n\r\n" * 10)
    elif kind == "empty":
        pass
    elif kind == "endless-head":
        send(b"HTTP/1.1 200 OK\r\n")
        while True:
            send(b"X-Header: %s\r\n" % (b"x" * 10000))
    elif (top / "files" / target.lstrip("/")).is_file():
        whole(200, (top / "files" / target.lstrip("/")).read_bytes())
    else:
        whole(404, b"there is no such file\n")


def copy(one, other):
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    thread = threading.Thread(target=pump, args=(one, other), daemon=True)
    thread.start()
    pump(other, one)
    thread.join()


def serve(listener, number, context):
    def one(connection):
        try:
            if context:
                connection = context.wrap_socket(connection, server_side=True)
            answer(connection, number, None)
            if context:
                connection.unwrap()
        except (OSError, ValueError):
            pass
        finally:
            connection.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


listeners = []
for number, certificate in enumerate([None, None, "server.pem", "stranger.pem"]):
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(top / certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    listeners.append(listener)
    threading.Thread(target=serve, args=(listener, number, context), daemon=True).start()
(top / "ports.new").write_text("".join(f"{listener.getsockname()[1]}\n" for listener in listeners))
(top / "ports.new").rename(top / "ports")
threading.Event().wait()
