"""A file server on this machine that misbehaves on request; nothing leaves the machine."""

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["FileServer", "serving"]


class FileServer:
    """Files by path, and what goes wrong: ``script`` has what is to become of the next requests, one after another.

    Each is a function that answers with a handler and the file's bytes; when none is left, files are served whole or
    from the byte that is asked for.

    Attributes:
        asked: (path, headers) of each request so far.
    """

    def __init__(self, address):
        self.address = address
        self.files, self.script, self.asked = {}, [], []
        self.etag = None  # that of every file; None for one that follows from the file

    def ranges(self):
        """The Range header of each request so far."""
        return [headers.get("Range") for _, headers in self.asked]


@contextmanager
def serving():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = re.sub(r"^https?://[^/]+", "", self.path)  # a proxy is asked for the whole address
            server.asked.append((self.path, dict(self.headers)))
            answer = server.script.pop(0) if server.script else whole
            content = server.files.get(path)
            self.etag = server.etag or f'"{hashlib.sha256(content or b"").hexdigest()[:8]}"'
            if content is None:
                answer = status(404)
            answer(self, content)

        def log_message(self, *arguments):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments):
            pass

    httpd = Quiet(("127.0.0.1", 0), Handler)
    server = FileServer(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


def head(handler, code, length, **more):
    handler.send_response(code)
    handler.send_header("Content-Length", str(length))
    for name, value in {"ETag": handler.etag, **more}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def whole(handler, content):
    """The file, or the rest of it that is asked for."""
    wanted = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(wanted[1]) if wanted and handler.headers.get("If-Range") == handler.etag else 0
    if start >= len(content):
        head(handler, 416, 0)
        return
    more = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
    head(handler, 206 if start else 200, len(content) - start, **more)
    handler.wfile.write(content[start:])


def regardless(handler, content):
    """The whole file, whatever is asked for."""
    head(handler, 200, len(content))
    handler.wfile.write(content)


def cut(count):
    """``count`` bytes of the file, or of the rest of it, then the connection ends."""

    def answer(handler, content):
        whole_write = handler.wfile.write

        def write(data):
            if data.startswith(b"HTTP/"):
                return whole_write(data)
            handler.close_connection = True
            return whole_write(data[:count])

        handler.wfile.write = write
        whole(handler, content)
        handler.wfile.flush()
        handler.connection.shutdown(2)

    return answer


def status(code, **headers):
    """An answer without a file."""

    def answer(handler, content):
        head(handler, code, 0, **headers)

    return answer


def page(handler, content):
    """A page of HTML instead of the file, as Google Drive answers for large files."""
    text = b"<!DOCTYPE html><html><title>Virus scan warning</title>Download anyway?</html>"
    head(handler, 200, len(text), Content_Type="text/html; charset=utf-8")
    handler.wfile.write(text)


def stalled(handler, content):
    """Half of the file, then nothing."""
    head(handler, 200, len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    time.sleep(20)  # in a thread that nobody waits for
    handler.close_connection = True


def slow(handler, content):
    """The file in ten pieces with pauses, each shorter than the time-out, all together longer."""
    head(handler, 200, len(content))
    for i in range(10):
        handler.wfile.write(content[len(content) * i // 10 : len(content) * (i + 1) // 10])
        handler.wfile.flush()
        time.sleep(0.12)


def redirect(path, **headers):
    """To another path of this server."""

    def answer(handler, content):
        head(handler, 302, 0, Location=path, **headers)

    return answer
