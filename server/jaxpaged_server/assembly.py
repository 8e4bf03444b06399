"""The parts of a server, put together: who listens to whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.sampling_defaults import sampling_defaults
from jaxpaged.structured.grammars import Grammars
from jaxpaged.tokenize import Tokenizer
from jaxpaged.weights.folder import model_folder
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.engine_process.restart_policy import DELAYS_S, RestartPolicy
from jaxpaged_server.engine_process.supervisor import EngineState, EngineSupervisor
from jaxpaged_server.engine_process.watchdog import WatchLimits
from jaxpaged_server.engine_process.wire import Beat, EngineInfo
from jaxpaged_server.flights import Flights
from jaxpaged_server.forms import Forms
from jaxpaged_server.metrics.kv_events import payload
from jaxpaged_server.metrics.kv_publisher import KVPublisher
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.services import Services
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.text import TextWorker
from jaxpaged_server.traces import Traces

_CHARACTERS_PER_BYTE = 4
"""A rendered conversation may have so many characters per byte that a body may have."""
_MAX_TEMPLATE_BYTES = 1024 * 1024


def make_services(engine_config: EngineConfig, settings: ServerConfig) -> Services:
    """None of them started.

    Raises JaxPagedError for keys, a template, a tokenizer or a generation_config.json that cannot be read.
    """
    sampling_defaults(engine_config)  # the engine reads them; what it would refuse is refused before it is started
    keys = Keys(
        file=None if settings.api_key_file is None else Path(settings.api_key_file),
        plain=settings.api_key,
    )
    names = settings.model_names(engine_config.model)
    admission = Admission(keys.keys)

    def shared() -> bool:
        return len(keys.keys) > 1

    text = TextWorker(
        engine_config.tokenizer or str(model_folder(engine_config.model)),
        template=_template(settings.chat_template),
        most_characters=settings.max_body_bytes * _CHARACTERS_PER_BYTE,
        model=engine_config.model,
        generation_config=engine_config.generation_folder,
        shared=shared,
    )
    services = Services(
        settings=settings,
        names=names,
        engine=EngineSupervisor(
            engine_config,
            policy=RestartPolicy(delays_s=_delays(settings.max_engine_restarts)),
            limits=WatchLimits(step_s=settings.engine_hang_timeout_s),
            block_share=settings.kv_cache_metrics_sample if settings.kv_cache_metrics else 0.0,
            estimates=settings.enable_mfu_metrics,
            log_form=settings.log_form,
        ),
        keys=keys,
        text=text,
        forms=make_forms(text.tokenizer, shared),
        metrics=ServerMetrics(
            names[0],
            keys=[key.name for key in keys.keys],
            queue=admission.waiting_by_reason,
            rejections=lambda: admission.rejections,
            residency=settings.kv_cache_metrics,
            estimates=settings.enable_mfu_metrics,
        ),
        flights=Flights(),
        admission=admission,
        created=int(time.time()),
        began=time.monotonic(),
        traces=None if settings.otlp_traces_endpoint is None else Traces(settings.otlp_traces_endpoint),
    )
    services.engine.add_beat_listener(lambda beat: _on_beat(services, beat))
    if settings.kv_events_config is not None and settings.kv_events_config.enabled:
        publisher = services.publisher = KVPublisher(settings.kv_events_config)
        services.engine.add_cache_listener(lambda told: publisher.publish(payload(told, services.engine.info)))
    services.engine.add_state_listener(lambda state: _on_state(services, state))
    return services


def make_forms(tokenizer: Tokenizer, shared: Callable[[], bool]) -> Forms:
    """What looks at forms of answers, for this tokenizer."""
    grammars = Grammars(tokenizer, width=tokenizer.vocab_size)
    return Forms(grammars.check, close=grammars.close, shared=shared)


def _on_beat(services: Services, beat: Beat) -> None:
    services.last_beat = time.monotonic()
    services.steps.extend(beat.steps)
    services.admission.observe(beat.waiting)
    if (info := services.engine.info) is not None:
        services.metrics.on_beat(beat, info)


def _on_state(services: Services, state: EngineState) -> None:
    """Who waits goes on waiting while the engine is started again; those inside have lost their tokens."""
    if not services.draining:
        services.metrics.on_phase(state.phase)
    if state.phase == "ready":
        assert services.engine.info is not None
        services.last_beat = time.monotonic()
        services.admission.ready(admission_sizes(services.engine.info, services.settings))
    elif state.phase == "starting" and state.restarts:
        services.metrics.on_restart()
    elif state.phase == "restarting":
        services.admission.pause("starting its engine again", retry_after_s=max(1, round(state.left_s or 1)))


def admission_sizes(info: EngineInfo, settings: ServerConfig) -> AdmissionConfig:
    return AdmissionConfig(
        max_num_seqs=info.max_num_seqs,
        max_num_batched_tokens=info.max_num_batched_tokens,
        max_model_len=info.max_model_len,
        max_num_queued_reqs=settings.max_num_queued_reqs,
        max_num_queued_tokens=settings.max_num_queued_tokens,
        ttft_target_s=settings.ttft_target_s,
    )


def _delays(count: int) -> tuple[float, ...]:
    """Seconds before each restart; those after the usual ones wait as long as the last."""
    return tuple(DELAYS_S[min(i, len(DELAYS_S) - 1)] for i in range(count))


def _template(path: str | None) -> str | None:
    """The text of a chat template's file. Raises ConfigError."""
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(name="chat_template", value=path, limit=f"it cannot be read: {reason}") from error
    if len(text) > _MAX_TEMPLATE_BYTES:
        raise ConfigError(name="chat_template", value=path, limit=f"it has more than {_MAX_TEMPLATE_BYTES} characters")
    return text
