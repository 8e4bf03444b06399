"""The options of the server: what they may be, and what the environment says of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.environment import variables
from jaxpaged_server.kv_events_config import KVEventsConfig
from jaxpaged_server.settings import ServerConfig

from jaxpaged.commands.flags import field_docs
from jaxpaged.errors import ConfigError
from jaxpaged.tiny import TINY_MODEL


def config(**values: Any) -> ServerConfig:
    return ServerConfig(**values)


@pytest.mark.parametrize("kind", [ServerConfig, KVEventsConfig])
def test_every_option_has_a_docstring(kind: type) -> None:
    assert set(field_docs(kind)) == {item.name for item in fields(kind)}


def test_the_defaults_are_closed() -> None:
    plain = ServerConfig()
    assert (plain.host, plain.port, plain.is_loopback) == ("127.0.0.1", 8000, True)
    assert plain.allowed_origins == ()
    assert (plain.admin_socket, plain.profile_dir, plain.trust_request_chat_template) == (None, None, False)
    assert (plain.request_timeout_s, plain.shutdown_timeout, plain.drain_grace) == (600.0, 30.0, 5.0)
    assert plain.max_body_bytes == 2_097_152


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"host": ""}, "host is ''"),
        ({"host": "/tmp/x"}, "a Unix socket is --uds"),
        ({"port": 65_536}, "port is 65536: it must be a whole number from 0 to 65,535"),
        ({"port": "8000"}, "port is '8000'"),
        ({"port": True}, "port is True"),
        ({"shutdown_timeout": -1}, "shutdown_timeout is -1: it must be from 0 to 604,800 seconds"),
        ({"keep_alive_s": float("nan")}, "keep_alive_s is nan"),
        ({"body_timeout_s": 0}, "body_timeout_s is 0"),
        ({"write_timeout_s": "5"}, "write_timeout_s is '5'"),
        ({"engine_hang_timeout_s": float("inf")}, "engine_hang_timeout_s is inf"),
        ({"max_body_bytes": 100}, "max_body_bytes is 100"),
        ({"stream_interval": 0}, "stream_interval is 0"),
        ({"max_num_queued_reqs": -1}, "max_num_queued_reqs is -1"),
        ({"kv_cache_metrics_sample": 0}, "kv_cache_metrics_sample is 0: it must be above 0 and at most 1"),
        ({"kv_cache_metrics_sample": 1.01}, r"kv_cache_metrics_sample is 1\.01"),
        ({"kv_cache_metrics_sample": float("nan")}, "kv_cache_metrics_sample is nan"),
        ({"kv_cache_metrics_sample": True}, "kv_cache_metrics_sample is True"),
        ({"kv_cache_metrics": 1}, "kv_cache_metrics is 1: it must be True or False"),
        ({"enable_log_requests": "yes"}, "enable_log_requests is 'yes': it must be True or False"),
        ({"served_model_name": ("a", " ")}, "served_model_name is ' '"),
        ({"served_model_name": ("a\n",)}, "printable"),
        ({"served_model_name": 3}, "a text, or a list of texts"),
        ({"allowed_origins": ("https://a/b",)}, "allowed_origins is 'https://a/b'"),
        ({"root_path": "llm"}, "root_path is 'llm'"),
        ({"root_path": "/a/../b"}, "root_path is '/a/../b'"),
        ({"response_role": "a b"}, "response_role is 'a b'"),
        ({"log_level": "loud"}, "log_level is 'LOUD': it must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ({"log_format": "xml"}, "log_format is 'xml'"),
        ({"otlp_traces_endpoint": "grpc://x"}, "http://"),
        ({"chat_template": "{{ messages }}"}, "it must be a file"),
        ({"profile_dir": ""}, "profile_dir is ''"),
        ({"uds": "/" + "x" * 107}, "107 bytes"),
        ({"uds": "/run/s", "admin_socket": "/run/s"}, "admin_socket is '/run/s'"),
        ({"default_chat_template_kwargs": "{"}, "it is not JSON"),
        ({"default_chat_template_kwargs": "[1]"}, "it must be a JSON object"),
        ({"default_chat_template_kwargs": {"a": [1]}}, r"default_chat_template_kwargs\.a is \[1\]"),
        ({"default_chat_template_kwargs": {"a b": 1}}, "variable's name"),
        ({"default_chat_template_kwargs": {"messages": "a"}}, "variable's name"),
        ({"default_chat_template_kwargs": {f"k{i}": 1 for i in range(17)}}, "there may be 16"),
        ({"ssl_keyfile": "k.pem"}, "ssl_keyfile is 'k.pem': it needs a certificate"),
        ({"ssl_cert_reqs": 2}, "it needs a certificate"),
        ({"enable_ssl_refresh": True}, "it needs a certificate"),
        ({"ssl_certfile": "c.pem", "ssl_cert_reqs": 2}, "Give ssl_ca_certs"),
        ({"ssl_certfile": "c.pem", "ssl_ca_certs": "ca.pem"}, "no client's certificate is asked for"),
        ({"ssl_certfile": "c.pem", "ssl_cert_reqs": 3}, "ssl_cert_reqs is 3"),
        ({"kv_events_config": '{"publishr": "zmq"}'}, r"kv_events_config\.publishr.*Did you mean 'publisher'"),
        ({"kv_events_config": {"endpoint": "5557"}}, r"kv_events_config\.endpoint is '5557'"),
        ({"kv_events_config": {"hwm": 0}}, r"kv_events_config\.hwm is 0"),
        ({"kv_events_config": "[]"}, "it must be a JSON object"),
        ({"structured_outputs_config": "[]"}, "it must be a JSON object"),
        ({"structured_outputs_config": "{"}, "it is not JSON"),
        (
            {"structured_outputs_config": {"backend": "regex"}},
            r"structured_outputs_config\.backend is 'regex': .*guidance",
        ),
        ({"structured_outputs_config": {"disable_whitespace": True}}, "Did you mean 'disable_any_whitespace'"),
        ({"structured_outputs_config": {"disable_any_whitespace": 1}}, "it must be true or false"),
        ({"structured_outputs_config": {"reasoning_parser": "qwen3"}}, "Use --reasoning-parser"),
    ],
)
def test_values_that_cannot_be_are_named(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**values)


def test_a_key_is_never_shown() -> None:
    assert "sesame" not in repr(ServerConfig(api_key=("sesame",)))
    for bad in ("sesame open", "sesame\n", "sésame", "sesame" * 100, ""):
        with pytest.raises(ConfigError, match=r"api_key \(number 2\) is '\(not shown\)'") as told:
            ServerConfig(api_key=("fine", bad))
        assert "same" not in str(told.value)
    with pytest.raises(ConfigError, match="not shown"):
        config(api_key=("sesame", 3))


def test_what_people_write_becomes_what_it_means() -> None:
    made = config(
        api_key="one",
        served_model_name='["a", "b"]',
        allowed_origins=["https://a.example:8443", "*"],
        root_path="/llm/v2/",
        log_level="debug",
        profile_dir=Path("/var/p"),
        default_chat_template_kwargs='{"enable_thinking": false}',
        kv_events_config='{"enable_kv_cache_events": true, "topic": "kv"}',
    )
    assert made.api_key == ("one",)
    assert made.served_model_name == ("a", "b")
    assert made.allowed_origins == ("https://a.example:8443", "*")
    assert (made.root_path, made.log_level, made.profile_dir) == ("/llm/v2", "DEBUG", "/var/p")
    assert made.default_chat_template_kwargs == {"enable_thinking": False}
    assert made.kv_events_config == KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", topic="kv")
    assert made.kv_events_config is not None
    assert made.kv_events_config.enabled


def test_events_are_published_only_where_they_were_asked_for() -> None:
    assert KVEventsConfig().publisher == "null"
    assert not KVEventsConfig(publisher="zmq").enabled
    assert not KVEventsConfig(enable_kv_cache_events=True, publisher="null").enabled


@pytest.mark.parametrize(
    ("values", "loopback"),
    [
        ({"host": "127.0.0.2"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "localhost.example"}, False),
        ({"host": "0.0.0.0", "uds": "/run/s"}, True),
    ],
)
def test_who_can_reach_it(values: dict[str, Any], loopback: bool) -> None:
    assert config(**values).is_loopback is loopback


def test_names_of_the_model() -> None:
    assert ServerConfig().model_names(str(TINY_MODEL)) == ("jaxpaged-tiny",)
    assert ServerConfig().model_names("/models/llama") == ("llama", "/models/llama")
    assert ServerConfig().model_names("llama") == ("llama",)
    assert ServerConfig().model_names("/") == ("/",)
    assert ServerConfig(served_model_name=("x", "y")).model_names("/models/llama") == ("x", "y")


def test_the_environment_speaks_in_both_tongues() -> None:
    told = {
        "JAXPAGED_API_KEY": "ours",
        "VLLM_API_KEY": "theirs",
        "VLLM_LOGGING_LEVEL": "debug",
        "JAXPAGED_PORT": "9000",
        "JAXPAGED_HOST_IP": "::1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "7",
        "JAXPAGED_LOG_STATS_INTERVAL": "  ",
        "JAXPAGED_CACHE_ROOT": "/cache",
        "JAXPAGED_SOMETHING": "x",
    }
    assert {item.flag: (item.name, item.value) for item in variables(told)} == {
        "api-key": ("JAXPAGED_API_KEY", "ours"),
        "log-level": ("VLLM_LOGGING_LEVEL", "debug"),
        "port": ("JAXPAGED_PORT", "9000"),
        "host": ("JAXPAGED_HOST_IP", "::1"),
        "keep-alive-s": ("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "7"),
        "compile-cache": ("JAXPAGED_CACHE_ROOT", "/cache/programs"),
    }


def test_vllms_cache_folder_is_shared_and_its_inner_addresses_are_not_ours() -> None:
    told = {"VLLM_CACHE_ROOT": "/c", "VLLM_PORT": "5000", "VLLM_HOST_IP": "0.0.0.0"}
    assert [(item.flag, item.value) for item in variables(told)] == [("compile-cache", "/c/jaxpaged/programs")]


def test_the_port_that_kubernetes_tells_of_a_service_is_no_port() -> None:
    assert variables({"JAXPAGED_PORT": "tcp://10.0.0.7:8000"}) == ()
