"""The subcommands of `jaxpaged` that speak HTTP, beside those of `jaxpaged.commands`. [no jax]"""

from __future__ import annotations

from jaxpaged.commands import Command

COMMANDS = (
    Command(
        words=("serve",),
        summary="serve a model over HTTP with OpenAI's API",
        module="jaxpaged_server.commands.serve",
    ),
    Command(
        words=("bench", "serve"),
        summary="send a load to any OpenAI endpoint and report its latencies and rates",
        module="jaxpaged_server.commands.bench_serve",
    ),
)
