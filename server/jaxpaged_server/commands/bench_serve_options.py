"""Options of `jaxpaged bench serve`, under vLLM's words. [no jax, and nothing that takes long to import]"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

import tyro

from jaxpaged.commands.bench import require_counts
from jaxpaged.commands.flags import OptionalCount, OptionalPath, OptionalText, Switch
from jaxpaged.errors import ConfigError

OptionalNumber = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")]
_PATHS: Mapping[str, str] = MappingProxyType({"completions": "/v1/completions", "chat": "/v1/chat/completions"})
_BACKENDS: Mapping[str, str] = MappingProxyType({"openai": "completions", "vllm": "completions", "openai-chat": "chat"})
DATASETS = ("random", "sharegpt", "custom", "prefix_repetition")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server that is asked."""

    base_url: OptionalText = None
    """Where it is, in place of --host and --port: http://host:8000; with or without /v1 at the end."""
    host: str = "127.0.0.1"
    """Its host."""
    port: int = 8000
    """Its port."""
    backend: str = "openai"
    """openai (/v1/completions; vllm means the same) or openai-chat (/v1/chat/completions)."""
    endpoint: OptionalText = None
    """Path of the endpoint (default: the one of --backend); one that ends in chat/completions means openai-chat."""
    model: OptionalText = None
    """Name of the model (default: the first that the server lists)."""
    served_model_name: OptionalText = None
    """Name of the model in requests, where it is another than --model."""
    tokenizer: OptionalPath = None
    """Folder with the model's tokenizer (default: --model where it is a folder, then what the server tells)."""
    header: Pairs = ()
    """Headers of every request. OPENAI_API_KEY, where it is set, becomes the Authorization header."""
    insecure: Switch = False
    """Accept any TLS certificate."""
    ready_check_timeout_sec: float = 0.0
    """Seconds to wait for the server to be ready."""
    request_timeout: float = 21600.0
    """Seconds after which an answer counts as failed."""

    def check(self) -> None:
        """Raise ConfigError for a word that is not known, or words that contradict each other."""
        if self.backend not in _BACKENDS:
            raise ConfigError(name="--backend", value=self.backend, limit=f"it must be one of {', '.join(_BACKENDS)}")
        if self.endpoint is not None and self.backend == "openai-chat" and self.kind != "chat":
            raise ConfigError(
                name="--endpoint",
                value=self.endpoint,
                limit="--backend openai-chat needs one that ends in chat/completions",
            )
        if not self.request_timeout > 0:
            raise ConfigError(name="--request-timeout", value=self.request_timeout, limit="it must be above 0")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(name="--base-url", value=self.base_url, limit="it must begin with http:// or https://")

    @property
    def kind(self) -> Any:
        """ "completions" or "chat"."""
        if self.endpoint is None:
            return _BACKENDS[self.backend]
        return "chat" if self.endpoint.rstrip("/").endswith("chat/completions") else "completions"

    @property
    def root(self) -> str:
        """The URL without a path of the API."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.base_url or f"http://{host}:{self.port}").rstrip("/").removesuffix("/v1")

    @property
    def url(self) -> str:
        """The URL that requests go to."""
        return f"{self.root}/{(self.endpoint or _PATHS[self.kind]).lstrip('/')}"

    def headers(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Of every request."""
        key = environment.get("OPENAI_API_KEY")
        return {**({"Authorization": f"Bearer {key}"} if key else {}), **pairs("--header", self.header)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """What is asked."""

    dataset_name: str = "random"
    """random, sharegpt, prefix_repetition, or custom: lines of JSON with "prompt" and maybe "output_tokens"."""
    dataset_path: OptionalPath = None
    """File of the dataset, for sharegpt and custom."""
    num_prompts: int = 1000
    """Requests to send."""
    seed: int = 0
    """Of the prompts, their lengths, their order and the arrivals."""
    input_len: OptionalCount = None
    """Tokens of a prompt, whatever the dataset of random prompts."""
    output_len: OptionalCount = None
    """Tokens of an answer, whatever the dataset."""
    random_input_len: int = 1024
    """random: tokens of a prompt, without the prefix."""
    random_output_len: int = 128
    """random: tokens of an answer."""
    random_range_ratio: str = "0"
    """random: lengths spread over length * (1 - ratio) to length * (1 + ratio); two: {"input": 0.1, "output": 0.5}."""
    random_prefix_len: int = 0
    """random: tokens that all prompts begin with, before those of their own."""
    prefix_repetition_prefix_len: int = 256
    """prefix_repetition: tokens of a prefix."""
    prefix_repetition_suffix_len: int = 256
    """prefix_repetition: tokens after it."""
    prefix_repetition_num_prefixes: int = 10
    """prefix_repetition: how many prefixes there are."""
    prefix_repetition_output_len: int = 128
    """prefix_repetition: tokens of an answer."""
    sharegpt_output_len: OptionalCount = None
    """sharegpt: tokens of an answer (default: as many as the file's answer has)."""
    custom_output_len: OptionalCount = None
    """custom: tokens of an answer (default: the line's, or 256; -1: the line's, which must be there)."""
    disable_shuffle: Switch = False
    """Take a file's entries in their order."""
    no_oversample: Switch = False
    """Take none of a file's entries twice, and send fewer requests where it has fewer."""
    skip_chat_template: Switch = False
    """custom, on /v1/completions: send the text as it is, where otherwise the tokenizer's chat template is applied."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be."""
        if self.dataset_name not in DATASETS:
            raise ConfigError(
                name="--dataset-name", value=self.dataset_name, limit=f"it must be one of {', '.join(DATASETS)}"
            )
        needs_file = self.dataset_name in ("sharegpt", "custom")
        if needs_file != (self.dataset_path is not None):
            verb = "needs" if needs_file else "takes no"
            raise ConfigError(
                name="--dataset-path", value=self.dataset_path, limit=f"--dataset-name {self.dataset_name} {verb} file"
            )
        ones = ("num_prompts", "input_len", "output_len", "random_output_len", "sharegpt_output_len")
        zeros = ("random_input_len", "random_prefix_len", "prefix_repetition_prefix_len")
        more = ("prefix_repetition_suffix_len", "prefix_repetition_output_len")
        require_counts(self, {**dict.fromkeys((*ones, *more), 1), **dict.fromkeys(zeros, 0)})
        if self.custom_output_len is not None and self.custom_output_len < 1 and self.custom_output_len != -1:
            raise ConfigError(
                name="--custom-output-len", value=self.custom_output_len, limit="it must be at least 1, or -1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """When it is asked."""

    request_rate: float = math.inf
    """Requests a second; inf: all at once."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps: 1 Poisson, below 1 bursts, above 1 more even, inf a metronome."""
    max_concurrency: OptionalCount = None
    """So many requests under way at most; without it a request never waits for a slow server."""
    ramp_up_strategy: OptionalText = None
    """linear or exponential: a rate that grows from --ramp-up-start-rps to --ramp-up-end-rps."""
    ramp_up_start_rps: OptionalNumber = None
    """Requests a second at the start."""
    ramp_up_end_rps: OptionalNumber = None
    """Requests a second at the end."""
    num_warmups: int = 0
    """Requests before the run that are not counted; they must be answered."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be; rates are looked at where they are used."""
        require_counts(self, {"max_concurrency": 1, "num_warmups": 0})
        ends = (self.ramp_up_start_rps, self.ramp_up_end_rps)
        if self.ramp_up_strategy is None and any(end is not None for end in ends):
            raise ConfigError(name="--ramp-up-strategy", value=None, limit="--ramp-up-start-rps and -end-rps need it")
        if self.ramp_up_strategy is not None and None in ends:
            raise ConfigError(
                name="--ramp-up-strategy",
                value=self.ramp_up_strategy,
                limit="it needs --ramp-up-start-rps and --ramp-up-end-rps",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How it is answered. What is not given is left to the server."""

    ignore_eos: Switch = False
    """Ask for answers of full length; random datasets always do."""
    temperature: OptionalNumber = None
    """0: greedy."""
    top_p: OptionalNumber = None
    """Nucleus sampling."""
    top_k: OptionalCount = None
    """The most likely tokens only."""
    min_p: OptionalNumber = None
    """The least probability, relative to the most likely token's."""
    frequency_penalty: OptionalNumber = None
    """OpenAI's."""
    presence_penalty: OptionalNumber = None
    """OpenAI's."""
    repetition_penalty: OptionalNumber = None
    """vLLM's."""
    logprobs: OptionalCount = None
    """Log-probabilities of each token."""
    extra_body: OptionalText = None
    """JSON object that is added to each request; a null takes a field away."""
    continuous_usage_stats: Switch = False
    """Ask for a count of tokens with every event: events of several tokens are counted as such as they come."""

    def fields(self, *, ignore_eos: bool) -> dict[str, Any]:
        """Fields of each request's body."""
        names = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
        )
        given = {name: value for name in (*names, "logprobs") if (value := getattr(self, name)) is not None}
        return {**({"ignore_eos": True} if ignore_eos or self.ignore_eos else {}), **given, **self._extra()}

    def _extra(self) -> dict[str, Any]:
        try:
            extra = json.loads(self.extra_body or "{}")
        except ValueError as error:
            raise ConfigError(name="--extra-body", value=self.extra_body, limit=f"it is no JSON: {error}") from None
        if not isinstance(extra, dict):
            raise ConfigError(name="--extra-body", value=self.extra_body, limit="it must be a JSON object")
        return extra


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """What is told."""

    percentile_metrics: str = "ttft,tpot,itl,e2el"
    """Which of ttft, tpot, itl, e2el, client_queue_time and e2el_including_client_queue."""
    metric_percentiles: str = "50,90,99"
    """Which percentiles."""
    goodput: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC:MS ...")] = ()
    """Limits that a good request keeps, in milliseconds: ttft:500 tpot:50 e2el:5000."""
    label: OptionalText = None
    """Name of the run (default: the backend)."""
    metadata: Pairs = ()
    """More fields of the result."""
    save_result: Switch = False
    """Write the result as JSON."""
    append_result: Switch = False
    """Add it to the file as a line."""
    save_detailed: Switch = False
    """With it every request: lengths, times, texts, errors."""
    result_dir: OptionalPath = None
    """Folder of the file."""
    result_filename: OptionalText = None
    """Its name (default: label, rate, model and date)."""
    html: OptionalPath = None
    """Write a page with plots to this file; it needs nothing else."""
    request_id_prefix: str = "bench-"
    """Of the X-Request-Id of each request; "" sends none."""
    disable_tqdm: Switch = False
    """No progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchServeOptions:
    """Send a load to any OpenAI endpoint and report its latencies and rates.

    Requests are sent at their times whatever the server does (open loop), unless --max-concurrency holds them back.
    Flags and names in the result are those of `vllm bench serve`. Interrupted (Ctrl-C) it reports what it has. Exit
    status 1 where a request was not answered.
    """

    server: tyro.conf.OmitArgPrefixes[ServerOptions] = field(default_factory=ServerOptions)
    dataset: tyro.conf.OmitArgPrefixes[DatasetOptions] = field(default_factory=DatasetOptions)
    traffic: tyro.conf.OmitArgPrefixes[TrafficOptions] = field(default_factory=TrafficOptions)
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    result: tyro.conf.OmitArgPrefixes[ResultOptions] = field(default_factory=ResultOptions)

    def check(self) -> None:
        """Raise ConfigError for what cannot be."""
        self.server.check()
        self.dataset.check()
        self.traffic.check()
        pairs("--metadata", self.result.metadata)


def pairs(name: str, words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words as a mapping. Raises ConfigError for another word; its value is not shown, it may be a secret."""
    found: dict[str, str] = {}
    for number, word in enumerate(words, 1):
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise ConfigError(name=name, value="(not shown)", limit=f"word {number} of it must be KEY=VALUE")
        found[key.strip()] = value.strip()
    return found
