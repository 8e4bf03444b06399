"""An engine process without an engine, which starts in no time: what the supervisor's tests start and see end.

It serves tokens that count up from the prompt's last one, and misbehaves as `--behaviour` says.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import socket
import threading
import time
import warnings
from pathlib import Path

from beats import engine_info
from jaxpaged_server.engine_process.error_fields import fields_of
from jaxpaged_server.engine_process.own_log import add_log_arguments, start_log
from jaxpaged_server.engine_process.wire import (
    Abort,
    Beat,
    Broken,
    Call,
    Finish,
    Frames,
    Item,
    Message,
    Phase,
    Ready,
    Refused,
    Reply,
    Start,
    Stop,
    Submit,
    Tokens,
    engine_decoder,
    frame,
)

from jaxpaged.errors import ConfigError
from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics

SILENT_TOKEN = 0
"""A prompt that ends with it gets one token and no end."""
LEDGER = KVLedger(live=0, behind=0, shared=0, tail=0, cached=0, free=16, null=4, tokens=0, contiguous=0)
INFO = engine_info(max_model_len=64, vocab=100, block_size=4, num_blocks=5)


def beat(*, step_age_s: float = 0.0, full_step_s: float = 0.01) -> Beat:
    return Beat(
        metrics=EngineMetrics(),
        ledger=LEDGER,
        running=0,
        waiting=0,
        step_age_s=step_age_s,
        oldest_wait_s=0.0,
        longest_step_s=full_step_s,
        steps=[],
        full_step_s=full_step_s,
    )


class FakeEngine:
    def __init__(self, sock: socket.socket, behaviour: str, told: Path | None) -> None:
        self.sock, self.behaviour, self.told = sock, behaviour, told
        self.frames, self.decoder = Frames(), engine_decoder()

    def send(self, message: Message) -> None:
        self.sock.sendall(frame(message))

    def run(self) -> None:
        self.receive()  # the start
        self.send(Phase("compiling", 3, 4, 0.5))
        if self.behaviour == "mute":
            time.sleep(60)
        if self.behaviour == "refuse":
            self.send(Broken(fields_of(ConfigError(name="dtype", value="int3", limit="there is none")), True))
            os._exit(1)
        self.send(Ready(INFO))
        if self.behaviour == "noisy":
            be_noisy()
        if self.behaviour in ("die", "noisy"):
            os._exit(3)
        if self.behaviour == "garbage":
            self.sock.sendall(b"\x02\0\0\0\xc1\xc1")
        self.serve()

    def serve(self) -> None:
        self.sock.settimeout(0.05)
        hung_s = 0.0
        while True:
            try:
                self.receive()
            except TimeoutError:
                if self.behaviour == "hang":
                    hung_s += 0.05
                if self.behaviour != "silent":
                    self.send(beat(step_age_s=hung_s))

    def receive(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            os._exit(1)
        for body in self.frames.push(data):
            self.obey(self.decoder.decode(body))

    def obey(self, message: object) -> None:
        if self.told is not None:
            with self.told.open("a") as file:
                file.write(f"{message}\n")
        match message:
            case Submit(number, ids, params, _, followers):
                for each, of_one in [(number, params), *followers]:
                    self.answer(each, ids[-1], of_one.max_tokens or 1)
            case Call(number, name, argument):
                if name != "nothing":
                    self.send(Reply(number, f"{name} {argument}"))
            case Stop():
                if self.behaviour != "stubborn":
                    os._exit(0)
            case Start() | Abort() | Finish():
                pass
            case _:
                raise AssertionError(message)

    def answer(self, number: int, last: int, count: int) -> None:
        if last >= INFO.vocab:
            self.send(Refused(number, fields_of(ConfigError(name="prompt", value=last, limit="no such token"))))
        elif last == SILENT_TOKEN:
            self.send(Tokens([Item(number, 1, num_cached=3)]))
        else:
            for i in range(count):
                self.send(Tokens([Item(number, last + 1 + i, "length" if i == count - 1 else None)]))


def be_noisy() -> None:
    """Write by all the ways there are, as libraries do, with a key and a prompt in what they say."""
    logging.getLogger("jaxpaged.fake").warning("a line of\nthe log")
    warnings.warn("a warning", stacklevel=1)
    thread = threading.Thread(target=int, args=("a prompt",), name="careless")
    thread.start()
    thread.join()
    os.write(1, b"to stdout\n\n")
    os.write(2, b"E1127 xla: with the key sk-secret\n\xff\x1b[31m" + b"x" * 5000 + b"\nwithout an end")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--faults", action="store_true")
    add_log_arguments(parser)
    parser.add_argument("--behaviour", default="serve")
    parser.add_argument("--told", type=Path)
    options = parser.parse_args()
    start_log(options)
    faulthandler.register(signal.SIGUSR1)
    FakeEngine(socket.socket(fileno=options.fd), options.behaviour, options.told).run()


if __name__ == "__main__":
    main()
