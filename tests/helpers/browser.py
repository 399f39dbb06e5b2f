"""Chromium driven through a pair of pipes: no package is needed for it."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

import pytest

OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Browser:
    """One page, of `width` pixels, in a Chromium that can reach 127.0.0.1 and nothing else."""

    def __init__(self, folder, width):
        chromium = shutil.which("chromium")
        if not chromium:
            pytest.skip("needs chromium")
        theirs, self._out = os.pipe()
        self._in, back = os.pipe()

        def connect():  # Chromium reads commands from 3 and answers at 4
            read, write = os.dup(theirs), os.dup(back)
            os.dup2(read, 3)
            os.dup2(write, 4)

        options = [*OPTIONS, OFFLINE, f"--user-data-dir={folder}", f"--window-size={width},900"]
        self._process = subprocess.Popen(
            [chromium, *options, "--remote-debugging-pipe", "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._number, self._rest, self.asked, self._session = 0, b"", [], None
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "DOM"):
            self.send(f"{domain}.enable")
        self.resize(width)

    def send(self, method, **params):
        """The answer to one command of the DevTools protocol; addresses that are asked for go to `asked`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            while b"\0" in self._rest:
                line, self._rest = self._rest.split(b"\0", 1)
                got = json.loads(line)
                if got.get("method") == "Network.requestWillBeSent":
                    self.asked.append(got["params"]["request"]["url"])
                if got.get("id") == self._number:
                    assert "error" not in got, got
                    return got["result"]
            if select.select([self._in], [], [], 1)[0]:
                self._rest += os.read(self._in, 1 << 20)
        raise TimeoutError(method)

    def resize(self, width):
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    def open(self, url):
        self.send("Page.navigate", url=url)

    def js(self, expression):
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression, seconds=40):
        """What `expression` is once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, (
                f"never: {expression}; the page: {self.js('document.body.innerText')}"
            )
            time.sleep(0.1)
        return value

    def upload(self, *paths):
        """Put files into the page's field for them."""
        self.wait("document.querySelector('#files input[type=file]')?.type")
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector="#files input[type=file]")["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path):
        """The whole page as a PNG."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def close(self):
        self._process.terminate()
        self._process.wait(20)
        os.close(self._out)
        os.close(self._in)
