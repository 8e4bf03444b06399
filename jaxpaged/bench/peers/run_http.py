"""A server over HTTP: one that runs, or one that is started for the run; requests stream their tokens.

Options: url (of a server that runs), or command (a list of words, {port}, {threads} and {model} are filled in);
api ("openai": POST /v1/completions with token ids; "llamacpp": POST /completion), served_model (the name in requests),
extra (an object that is added to each request), wait_s (180: for the server to answer), port (8790), version_command.
"""

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import threading
import time
from urllib.parse import urlsplit

from peer_records import Record, read_job, read_requests, tree_peak_rss_mb, versions, warm_requests, write_row


class Endpoint:
    """Where requests go, and how one is asked and read."""

    def __init__(self, job, url):
        options = job["options"]
        self.place = urlsplit(url)
        self.api = options.get("api", "openai")
        self.extra = options.get("extra", {})
        self.served_model = options.get("served_model", job["model"])

    def serve(self, request, record):
        """Send a request and note its tokens in `record`; a fault is noted as its error."""
        connection = http.client.HTTPConnection(self.place.hostname or "127.0.0.1", self.place.port or 80, timeout=600)
        try:
            path, body = self._body(request)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", self.place.path.rstrip("/") + path, json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise OSError(f"status {answer.status}: {answer.read(300).decode(errors='replace')}")
            for line in answer:
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    self._note(json.loads(data), record, time.perf_counter())
        except (OSError, http.client.HTTPException, ValueError) as error:
            record.error = f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def _body(self, request):
        if self.api == "llamacpp":
            return "/completion", {
                "prompt": request.prompt_ids,
                "n_predict": request.max_tokens,
                "ignore_eos": True,
                "temperature": 0.0,
                "cache_prompt": False,
                "return_tokens": True,
                "stream": True,
                **self.extra,
            }
        return "/v1/completions", {
            "model": self.served_model,
            "prompt": request.prompt_ids,
            "max_tokens": request.max_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }

    def _note(self, event, record, now_s):
        if "error" in event:
            record.error = json.dumps(event["error"])
        elif self.api == "llamacpp":
            record.add(len(event.get("tokens") or ([0] if event.get("content") else [])), now_s)
            if event.get("stop") and "tokens_predicted" in event:
                record.num_output = event["tokens_predicted"]
        else:
            record.add(sum(bool(choice.get("text")) for choice in event.get("choices") or []), now_s)
            if event.get("usage"):  # an event may hold several tokens, or none that is whole text
                record.num_output = event["usage"]["completion_tokens"]


def serve_all(endpoint, requests, max_concurrency):
    """Serve all requests, a thread for each that is under way; returns (records, seconds)."""
    waiting = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    records = {}
    began_s = time.perf_counter()

    def work():
        while True:
            try:
                request = waiting.get_nowait()
            except queue.Empty:
                return
            time.sleep(max(0.0, began_s + request.arrival_s - time.perf_counter()))
            due_s = time.perf_counter() if max_concurrency else began_s + request.arrival_s
            record = records[request.index] = Record(due_s, len(request.prompt_ids), request.max_tokens)
            endpoint.serve(request, record)

    threads = [threading.Thread(target=work) for _ in range(min(max_concurrency or len(requests), len(requests)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(records.values()), time.perf_counter() - began_s


def wait_for(endpoint, request, process, wait_s):
    """Until a request is answered. Raises SystemExit where the server ended or the time is over."""
    until_s = time.monotonic() + wait_s
    while True:
        record = Record(0.0, 0, request.max_tokens)
        endpoint.serve(request, record)
        if record.times_s and not record.error:
            return
        if process is not None and process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}")
        if time.monotonic() > until_s:
            raise SystemExit(f"no answer from the server in {wait_s:g} s; the last try: {record.error or 'no token'}")
        time.sleep(0.2)


@contextlib.contextmanager
def server(job):
    """(url, process) of the job's server; the process is None for one that runs by itself."""
    options = job["options"]
    if options.get("url"):
        yield options["url"], None
        return
    port = options.get("port", 8790)
    words = {"port": port, "threads": job["threads"], "model": job["model"]}
    command = [word.format(**words) for word in options["command"]]
    with open(job["log"], "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def said_version(options):
    """The first line that the server's own version command prints."""
    if not options.get("version_command"):
        return {}
    done = subprocess.run(options["version_command"], capture_output=True, text=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"server": lines[0] if lines else f"status {done.returncode}"}


def main():
    """Serve the job's trace."""
    began_s = time.perf_counter()
    job = read_job()
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    requests, most, options = read_requests(job), job["max_concurrency"], job["options"]
    with server(job) as (url, process):
        endpoint = Endpoint(job, url)
        warm = warm_requests(requests, most)
        wait_for(endpoint, warm[0], process, options.get("wait_s", 180))
        serve_all(endpoint, warm, most)
        startup_s = time.perf_counter() - began_s
        records, total_s = serve_all(endpoint, requests, most)
        rss_mb = tree_peak_rss_mb(process.pid) if process is not None else 0
    write_row(
        job,
        records,
        total_s,
        startup_s,
        precision=None,
        settings={name: value for name, value in options.items() if name != "version_command"},
        package_versions={**versions(), **said_version(options)},
        rss_mb=rss_mb or 0,
    )


if __name__ == "__main__":
    main()
