"""The subcommands of `jaxpaged` that need the server's libraries. [no jax]"""

from jaxpaged.commands import Command

COMMANDS = (
    Command(
        words=("bench", "serve"),
        summary="send a load to any OpenAI endpoint and report its latencies and rates",
        module="jaxpaged_server.commands.bench_serve",
    ),
)
