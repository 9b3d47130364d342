"""Headless Chromium, driven over its own protocol."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager

from websockets.sync.client import connect

__all__ = ["CHROMIUM", "browsing"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", "--disable-background-networking"]  # fmt: skip


class Page:
    """One tab; ``requested`` has the addresses that it asked for, ``problems`` the errors of its scripts."""

    def __init__(self, socket):
        self.socket, self.count, self.requested, self.problems = socket, 0, [], []
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method, **parameters):
        """The result of a command of the protocol."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message):
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(given["request"]["url"])
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(given)[:500])

    def value(self, expression):
        """The value of a JavaScript expression, waited for where it is a promise."""
        found = self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true; half a minute at most."""
        look = f"({expression}) ? yes(true) : ++n > 300 ? yes(false) : setTimeout(look, 100)"
        assert self.value(f"new Promise(yes => {{ let n = 0; const look = () => {look}; look(); }})"), expression

    def open(self, address, width=1000, height=800, dark=False):
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.do(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.do("Page.navigate", url=address)
        self.wait("document.readyState == 'complete'")

    def choose(self, selector, *paths):
        """Give files to a file input."""
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path):
        image = self.do("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(image))


@contextmanager
def browsing():
    """A page of a browser that ends with the context."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                found = re.search(r"ws://([\d.:]+)/", line)
                if found:
                    break
            with urllib.request.urlopen(f"http://{found[1]}/json/list") as answer:
                (tab,) = [each for each in json.load(answer) if each["type"] == "page"]
            with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Page(socket)
        finally:
            process.kill()
            process.wait()
