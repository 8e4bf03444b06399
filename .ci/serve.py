"""Check that an installed package serves: `serve.py JAXPAGED`. Its pages, an answer, and an end with status 0."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

START_S = 300.0


def get(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as reply:
        return reply.read()


def main(command: str) -> int:
    words = [command, "serve", "--port", "0", "--drain-grace", "0", "--max-model-len", "256"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := re.search(r"listening on (http\S+)", line)))
        until = time.monotonic() + START_S
        while True:
            try:
                get(f"{url}/health/ready")
                break
            except OSError:
                assert time.monotonic() < until, "it is not ready"
                time.sleep(0.1)
        for path in ("/", "/status", "/docs"):
            assert b"<html" in get(url + path), path
        reply = json.loads(get(f"{url}/v1/completions", {"prompt": "def fibonacci(n):", "max_tokens": 8}))
        assert reply["usage"]["completion_tokens"] == 8, reply
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        print(f"serves: {reply['choices'][0]['text']!r}")
        return 0
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
