"""stand-in"""
from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    served_model_name: tuple[str, ...] = ()
    api_key: tuple[str, ...] = ()
    api_key_file: str | None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    root_path: str = ""
    allowed_origins: tuple[str, ...] = ()
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    request_timeout_s: float = 600.0
    shutdown_timeout: float = 30.0
    drain_grace: float = 5.0
    max_body_bytes: int = 2 * 1024 * 1024
    header_timeout_s: float = 5.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    sse_keep_alive_interval: float = 15.0
    chat_template: str | None = None
    trust_request_chat_template: bool = False
    default_chat_template_kwargs: Any = None
    enable_log_requests: bool = False
    disable_log_stats: bool = False
    log_stats_interval: float = 10.0
    log_level: str = "info"
    log_format: str = "text"
    admin_socket: str | None = None
    profile_dir: str | None = None
    otlp_traces_endpoint: str | None = None
    kv_events_config: Any = None
    max_engine_restarts: int = 3
    engine_hang_timeout_s: float = 10.0
