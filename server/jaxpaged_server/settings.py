"""Every option of the server itself; those of the engine are `EngineConfig`. [no jax]

Written once: the command line (`commands/serve.py`) is made of the fields, and its help of their docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxpaged.tiny import TINY_MODEL
from jaxpaged.weights.hub import snapshot_name
from jaxpaged_server import setting_checks as check
from jaxpaged_server.kv_events_config import KVEventsConfig, kv_events_config
from jaxpaged_server.logs import LogForm
from jaxpaged_server.structured_outputs_config import StructuredOutputsConfig, structured_outputs_config

BUNDLED_NAME = "jaxpaged-tiny"
"""What the bundled model is called where no other name was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Options of the server; names and meanings are vLLM's where it has them.

    JSON text becomes what it says where a field asks for it. No file is opened here. Raises ConfigError naming the
    option, its value and the limit; a key is never shown.
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the server to others, so give it keys."""
    port: int = 8000
    """Port to listen on; 0 takes any free one, which the log tells."""
    uds: str | None = None
    """Unix socket to listen on, in place of host and port."""
    served_model_name: tuple[str, ...] = ()
    """One or more names of the model in the API; the first is the one shown (default: its folder's name)."""
    api_key: tuple[str, ...] = field(default=(), repr=False)
    """One or more keys, of which requests must bear one; others can read a command line, so better in a file."""
    api_key_file: str | None = None
    """File of keys with their names and limits, readable by its owner alone."""
    ssl_keyfile: str | None = None
    """Private key for TLS, PEM (default: it is in the certificate's file)."""
    ssl_certfile: str | None = None
    """Certificate for TLS and its chain, PEM; without it the server speaks plain HTTP."""
    ssl_ca_certs: str | None = None
    """Certificates of those who sign the clients', PEM."""
    ssl_cert_reqs: int = 0
    """Certificates of clients: 0 none is asked for, 1 is checked where there is one, 2 is needed."""
    ssl_ciphers: str | None = None
    """Ciphers of TLS 1.2, in OpenSSL's words (default: OpenSSL's choice)."""
    enable_ssl_refresh: bool = False
    """Take new certificate files when they change; SIGHUP does so anyway."""
    root_path: str = ""
    """Path under which a proxy offers this server."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins, one or more, whose pages may call the API; * for all (default: none)."""
    max_num_queued_reqs: int | None = None
    """Requests that may wait; above it the answer is 429 (default: 4 times max_num_seqs)."""
    max_num_queued_tokens: int | None = None
    """Tokens of prompts that may wait; above it the answer is 429 (default: what is computed in ttft_target_s)."""
    ttft_target_s: float = 30.0
    """Longest that a prompt should wait for its first token: what waits is bounded by the measured rate times this."""
    request_timeout_s: float = 600.0
    """Longest a request may take, its waiting included; a request can ask for less."""
    shutdown_timeout: float = 30.0
    """After SIGTERM, seconds for running requests to finish; 0 aborts them."""
    drain_grace: float = 5.0
    """After SIGTERM, seconds in which new requests are still taken, though it says not ready: balancers can follow."""
    max_body_bytes: int = 2 * 1024**2
    """Longest body of a request."""
    header_timeout_s: float = 5.0
    """Longest that the head of a request may take to come."""
    body_timeout_s: float = 30.0
    """Longest that the body of a request may take to come."""
    write_timeout_s: float = 30.0
    """Longest that a client may leave what was sent unread."""
    keep_alive_s: float = 15.0
    """Longest that a connection may be idle between requests."""
    sse_keep_alive_interval: float = 15.0
    """Seconds of silence after which a stream gets a comment; 0: never."""
    stream_interval: int = 1
    """Tokens that a stream gathers before it sends them; the first is sent at once."""
    chat_template: str | None = None
    """File of the chat template (default: the model's own)."""
    trust_request_chat_template: bool = False
    """Let requests bring a chat template of their own; only where every client is trusted."""
    response_role: str = "assistant"
    """Role of the answers in a chat."""
    default_chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template, as JSON; those of a request come before them."""
    enable_auto_tool_choice: bool = False
    """Let the model choose whether to call a tool; needs tool_call_parser."""
    tool_call_parser: str | None = None
    """How the model writes calls of tools, as in hermes or llama3_json."""
    reasoning_parser: str | None = None
    """How the model marks what it thinks before it answers, as in deepseek_r1 or qwen3."""
    exclude_tools_when_tool_choice_none: bool = False
    """Show the model no tools where a request has them and tool_choice is none."""
    enable_log_requests: bool = False
    """Log a line per request when it ends; never its text."""
    disable_log_stats: bool = False
    """No periodic status line in the log; /metrics stays."""
    log_stats_interval: float = 10.0
    """Seconds between status lines."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    log_format: str = "text"
    """text, or json: one object a line, which needs the extra jaxpaged[json-logs]."""
    admin_socket: str | None = None
    """Unix socket for commands to the server: pause, resume, abort, profile, reset (default: none)."""
    profile_dir: str | None = None
    """Folder for profiles that are asked for on the admin socket (default: none can be)."""
    otlp_traces_endpoint: str | None = None
    """URL that takes traces in OTLP over HTTP; extra jaxpaged[otel] (default: none)."""
    structured_outputs_config: StructuredOutputsConfig | None = None
    """How answers of a form are made, as JSON, as in {"disable_any_whitespace": true} (default: as requests say)."""
    kv_events_config: KVEventsConfig | None = None
    """KV events over ZMQ, as JSON, as in {"enable_kv_cache_events": true}; extra jaxpaged[fleet] (default: none)."""
    kv_cache_metrics: bool = False
    """Measure how long KV blocks keep what they hold and how soon it is used again, for /metrics."""
    kv_cache_metrics_sample: float = 0.01
    """Share of the KV blocks that are measured so, above 0 and at most 1."""
    enable_mfu_metrics: bool = False
    """Estimate the operations of the steps and the bytes that they move, by formula, for /metrics."""
    max_engine_restarts: int = 3
    """How often an engine that crashed or hangs is started again within ten minutes, before the server ends."""
    engine_hang_timeout_s: float = 10.0
    """Longest that a step may take before the engine counts as hung; where steps are long, 20 times theirs."""

    def __post_init__(self) -> None:
        self._convert()
        for name in _SWITCHES:
            check.switch(name, getattr(self, name))
        for name, (low, high) in _COUNTS.items():
            check.count(name, getattr(self, name), low, high)
        for name, low in _SECONDS.items():
            check.seconds(name, getattr(self, name), low)
        check.share("kv_cache_metrics_sample", self.kv_cache_metrics_sample)
        check.host(self.host)
        check.names("served_model_name", self.served_model_name)
        check.keys(self.api_key)
        check.role(self.response_role)
        check.origins(self.allowed_origins)
        check.template_kwargs(self.default_chat_template_kwargs)
        check.template_file(self.chat_template)
        check.sockets(self.uds, self.admin_socket)
        check.url("otlp_traces_endpoint", self.otlp_traces_endpoint)
        check.dialect(self.tool_call_parser, self.reasoning_parser, auto=self.enable_auto_tool_choice)
        check.word("log_level", self.log_level, ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
        check.word("log_format", self.log_format, ("text", "json"))
        check.tls(
            certfile=self.ssl_certfile,
            keyfile=self.ssl_keyfile,
            ca_certs=self.ssl_ca_certs,
            cert_reqs=self.ssl_cert_reqs,
            ciphers=self.ssl_ciphers,
            refresh=self.enable_ssl_refresh,
        )

    def _convert(self) -> None:
        """Values in the forms that people write them become those of the fields."""
        put = object.__setattr__  # frozen: the one place where fields are set again
        for name in PATHS:
            put(self, name, check.path(name, getattr(self, name)))
        for name in ("served_model_name", "api_key", "allowed_origins"):
            put(self, name, check.texts(name, getattr(self, name)))
        put(self, "root_path", check.root_path(self.root_path))
        put(self, "default_chat_template_kwargs", check.json_object("default_chat_template_kwargs", self))
        put(self, "log_level", check.upper("log_level", self.log_level))
        if self.kv_events_config is not None:
            put(self, "kv_events_config", kv_events_config(self.kv_events_config))
        if self.structured_outputs_config is not None:
            put(self, "structured_outputs_config", structured_outputs_config(self.structured_outputs_config))

    @property
    def log_form(self) -> LogForm:
        """What the lines of the log look like, the engine's process included."""
        return LogForm(level=self.log_level, format=self.log_format)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # another name, whatever it stands for
            return False

    def model_names(self, model: str) -> tuple[str, ...]:
        """Names by which requests may call the model of `EngineConfig.model`; the first is the one shown.

        Without names of the user's: the folder's name, so that no path is shown, and the folder as it was given, which
        is the model's name in vLLM; of a model from the hub, its name there.
        """
        if self.served_model_name:
            return self.served_model_name
        if model == str(TINY_MODEL):
            return (BUNDLED_NAME,)
        own = snapshot_name(Path(model))
        return (own,) if own else tuple(dict.fromkeys((Path(model).name or model, model)))


_SWITCHES = (
    "enable_ssl_refresh",
    "trust_request_chat_template",
    "enable_auto_tool_choice",
    "exclude_tools_when_tool_choice_none",
    "enable_log_requests",
    "disable_log_stats",
    "kv_cache_metrics",
    "enable_mfu_metrics",
)
PATHS = (
    *("uds", "api_key_file", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs"),
    *("chat_template", "admin_socket", "profile_dir"),
)
"""Fields that are paths."""
_COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "port": (0, 65_535),
        "ssl_cert_reqs": (0, 2),
        "max_num_queued_reqs": (0, 10**6),
        "max_num_queued_tokens": (0, 10**12),
        "max_body_bytes": (1024, 64 * 1024**2),
        "stream_interval": (1, 10_000),
        "max_engine_restarts": (0, 1000),
    }
)
"""Whole numbers: the least and the most."""
_SECONDS: Mapping[str, float] = MappingProxyType(
    {
        "ttft_target_s": 0.001,
        "request_timeout_s": 0.001,
        "shutdown_timeout": 0.0,
        "drain_grace": 0.0,
        "header_timeout_s": 0.001,
        "body_timeout_s": 0.001,
        "write_timeout_s": 0.001,
        "keep_alive_s": 0.0,
        "sse_keep_alive_interval": 0.0,
        "log_stats_interval": 0.1,
        "engine_hang_timeout_s": 1.0,
    }
)
"""Spans of time: the least."""
