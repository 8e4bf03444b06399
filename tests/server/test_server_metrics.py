"""/metrics: what feeds it, in which forms it is told, and what an engine's end leaves of it."""

from __future__ import annotations

import random

import pytest
from beats import LEDGER, beat, engine_info
from jaxpaged_server.metrics.front_counts import MAX_ROUTES
from jaxpaged_server.metrics.registry import OPEN_METRICS, TEXT, ServerMetrics
from jaxpaged_server.metrics.request_figures import RequestFigures
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from jaxpaged.metrics import EngineMetrics
from jaxpaged.residency import ResidencyCounts


def make(**options: object) -> ServerMetrics:
    return ServerMetrics("tiny", clock=lambda: 100.0, wall_clock=lambda: 1700000000.0, **options)  # pyright: ignore[reportArgumentType]


def figures(**changes: object) -> RequestFigures:
    fields: dict[str, object] = {
        **{"model": "tiny", "finish_reason": "stop", "prompt_tokens": 20, "cached_tokens": 16, "generation_tokens": 5},
        **{
            "e2e_s": 1.25,
            "queue_s": 0.25,
            "ttft_s": 0.5,
            "prefill_s": 0.25,
            "decode_s": 0.75,
            "n": 1,
            "max_tokens": 16,
        },
    }
    return RequestFigures(**(fields | changes))  # pyright: ignore[reportArgumentType]


def families(metrics: ServerMetrics) -> dict[str, Metric]:
    return {family.name: family for family in parse_text(metrics.render(None)[0].decode())}


def value(metrics: ServerMetrics, name: str, **labels: str) -> float:
    """The one sample of that name whose labels hold those."""
    found = [
        sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def everything() -> ServerMetrics:
    metrics = make(keys=("team-a", "team-b"))
    metrics.on_beat(beat(EngineMetrics(steps=1, step_tokens=7), steps=[7]), engine_info())
    metrics.on_reply("/v1/completions", 200)
    return metrics


def test_a_gateway_finds_what_it_scores_by() -> None:
    metrics = everything()
    assert value(metrics, "vllm:num_requests_running") == 2
    assert value(metrics, "vllm:num_requests_waiting") == 3
    assert value(metrics, "vllm:kv_cache_usage_perc") == 64 / 144  # held of all but the null block
    info = families(metrics)["vllm:cache_config_info"].samples[0]
    assert info.value == 1
    assert info.labels == {
        **{"model_name": "tiny", "engine": "0", "block_size": "16", "num_gpu_blocks": "10"},
        **{"kv_cache_size_tokens": "144", "cache_dtype": "bfloat16", "enable_prefix_caching": "True"},
        "prefix_caching_hash_algo": "sha256",
    }
    metrics.on_beat(beat(EngineMetrics(), steps=[]), engine_info(num_groups=2))  # a token takes a place in each
    assert families(metrics)["vllm:cache_config_info"].samples[0].labels["kv_cache_size_tokens"] == "64"
    adapters = families(metrics)["vllm:lora_requests_info"].samples[0]
    assert adapters.value == 1700000000.0
    assert {key: adapters.labels[key] for key in ("max_lora", "running_lora_adapters", "waiting_lora_adapters")} == {
        "max_lora": "0",
        "running_lora_adapters": "",
        "waiting_lora_adapters": "",
    }


def test_the_text_form_is_golden() -> None:
    body, kind = everything().render("text/plain;version=0.0.4;q=0.3,*/*;q=0.2")
    assert kind == "text/plain; version=0.0.4; charset=utf-8" == TEXT
    lines = body.decode().splitlines()
    at = lines.index("# HELP vllm:num_requests_running Requests that the engine computes.")
    assert lines[at : at + 9] == [
        "# HELP vllm:num_requests_running Requests that the engine computes.",
        "# TYPE vllm:num_requests_running gauge",
        'vllm:num_requests_running{engine="0",model_name="tiny"} 2.0',
        "# HELP vllm:num_requests_waiting Requests that wait to be computed.",
        "# TYPE vllm:num_requests_waiting gauge",
        'vllm:num_requests_waiting{engine="0",model_name="tiny"} 3.0',
        "# HELP vllm:num_requests_waiting_by_reason "
        "Waiting requests: capacity, for room in the engine; deferred, since the room is kept for other keys.",
        "# TYPE vllm:num_requests_waiting_by_reason gauge",
        'vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 3.0',
    ]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, TEXT),
        ("", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text", OPEN_METRICS),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPEN_METRICS),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.5", OPEN_METRICS),
        ("text/plain; q=0.5, Application/OpenMetrics-Text; version=1.0.0; q=0.1", OPEN_METRICS),
        (";;=,,", TEXT),
    ],
)
def test_the_form_is_what_the_client_accepts(accept: str | None, kind: str) -> None:
    body, got = everything().render(accept)
    assert got == kind
    assert body.endswith(b"# EOF\n") == (kind == OPEN_METRICS)


def test_both_forms_say_the_same_and_colons_stay() -> None:
    metrics = everything()

    def samples(found: list[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in found
            for sample in family.samples
            if not sample.name.startswith("process_")
        }

    text = samples(list(parse_text(metrics.render(None)[0].decode())))
    opened = samples(list(parse_open_metrics(metrics.render("application/openmetrics-text")[0].decode())))
    assert text == opened
    assert all(name.startswith(("vllm:", "jaxpaged:")) for name, _ in text)


def test_counters_come_from_the_beats() -> None:
    metrics = make()
    engine = EngineMetrics(
        steps=3,
        step_tokens=30,
        padded_tokens=10,
        prompt_tokens=20,
        cached_tokens=16,
        output_tokens=9,
        preemptions=2,
        compiles_at_start=7,
        compiles_after_ready=1,
        plan_s=0.5,
        pack_s=0.25,
        execute_s=1.0,
        wait_s=2.0,
        commit_s=0.125,
    )
    metrics.on_beat(beat(engine), engine_info())
    assert value(metrics, "vllm:prompt_tokens_total") == 20
    assert value(metrics, "vllm:prompt_tokens_cached_total") == 16
    assert value(metrics, "vllm:prompt_tokens_by_source_total", source="local_compute") == 4
    assert value(metrics, "vllm:prompt_tokens_by_source_total", source="local_cache_hit") == 16
    assert value(metrics, "vllm:prefix_cache_queries_total") == 20
    assert value(metrics, "vllm:prefix_cache_hits_total") == 16
    assert value(metrics, "vllm:generation_tokens_total") == 9
    assert value(metrics, "vllm:num_preemptions_total") == 2
    assert value(metrics, "jaxpaged:padding_tokens_total") == 10
    assert value(metrics, "jaxpaged:bucket_occupancy") == 0.75
    assert value(metrics, "jaxpaged:compiles_total", when="start") == 7
    assert value(metrics, "jaxpaged:compiles_total", when="ready") == 1
    seconds = {phase: value(metrics, "jaxpaged:step_seconds_sum", phase=phase) for phase in ("plan", "wait", "commit")}
    assert seconds == {"plan": 0.5, "wait": 2.0, "commit": 0.125}
    assert value(metrics, "jaxpaged:step_seconds_count", phase="pack") == 3


def test_the_pool_is_told_by_class_and_the_classes_sum_to_it() -> None:
    metrics = everything()
    slots = {s.labels["class"]: s.value for s in families(metrics)["jaxpaged:kv_tokens"].samples}
    assert slots == {"live": 30, "behind": 4, "shared": 16, "tail": 14, "cached": 32, "free": 48, "null": 16}
    assert sum(slots.values()) == LEDGER.total == 160
    assert value(metrics, "jaxpaged:kv_waste_ratio") == 14 / 64
    assert value(metrics, "jaxpaged:kv_contiguous_waste_ratio") == 0.75


def test_steps_are_counted_by_their_tokens() -> None:
    metrics, info = make(), engine_info()
    metrics.on_beat(beat(EngineMetrics(steps=2, step_tokens=41), steps=[1, 40]), info)
    metrics.on_beat(beat(EngineMetrics(steps=4, step_tokens=51), steps=[1, 40, 8, 2]), info)
    metrics.on_beat(beat(EngineMetrics(steps=1, step_tokens=20000), steps=[20000]), engine_info())
    name = "vllm:iteration_tokens_total"
    counts = [value(metrics, f"{name}_bucket", le=le) for le in ("1.0", "8.0", "32.0", "64.0", "16384.0", "+Inf")]
    assert counts == [1, 3, 3, 4, 4, 5]
    assert value(metrics, f"{name}_sum") == 20051
    assert value(metrics, f"{name}_count") == 5


def test_a_request_is_counted_when_it_ends() -> None:
    metrics = make(keys=("team-a",))
    metrics.on_beat(beat(), engine_info())
    metrics.on_first_token(0.5)
    metrics.on_tokens(1, 0.015)
    metrics.on_tokens(3, 0.36)  # three tokens in one go: 0.12 s each
    metrics.on_request(figures(key="team-a"))
    assert value(metrics, "vllm:request_success_total", finished_reason="stop") == 1
    sums = {
        "time_to_first_token_seconds": 0.5,
        "e2e_request_latency_seconds": 1.25,
        "request_queue_time_seconds": 0.25,
        "request_prefill_time_seconds": 0.25,
        "request_decode_time_seconds": 0.75,
        "request_inference_time_seconds": 1.0,
        "request_time_per_output_token_seconds": 0.1875,
        "request_prompt_tokens": 20,
        "request_prefill_kv_computed_tokens": 4,
        "request_generation_tokens": 5,
        "request_params_max_tokens": 16,
        "request_params_n": 1,
    }
    for name, total in sums.items():
        assert value(metrics, f"vllm:{name}_sum") == total, name
        assert value(metrics, f"vllm:{name}_count") == 1, name
    for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"):
        assert value(metrics, f"{name}_count") == 4
        assert value(metrics, f"{name}_sum") == pytest.approx(0.375)
        assert value(metrics, f"{name}_bucket", le="0.1") == 1
        assert value(metrics, f"{name}_bucket", le="0.15") == 4
    assert value(metrics, "jaxpaged:key_requests_total", key="team-a") == 1
    assert value(metrics, "jaxpaged:key_tokens_total", key="team-a", kind="prompt") == 20
    assert value(metrics, "jaxpaged:key_tokens_total", key="team-a", kind="generation") == 5


def test_a_request_that_never_ran_has_no_times_but_its_wait() -> None:
    metrics = make()
    nothing = {"cached_tokens": 0, "generation_tokens": 0, "ttft_s": None, "prefill_s": None, "decode_s": None}
    metrics.on_request(figures(finish_reason="abort", n=None, max_tokens=None, **nothing))
    assert value(metrics, "vllm:request_success_total", finished_reason="abort") == 1
    assert value(metrics, "vllm:request_queue_time_seconds_count") == 1
    for name in ("request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds"):
        assert value(metrics, f"vllm:{name}_count") == 0, name
    for name in ("request_time_per_output_token_seconds", "request_prefill_kv_computed_tokens", "request_params_n"):
        assert value(metrics, f"vllm:{name}_count") == 0, name


def test_an_unknown_key_becomes_no_label() -> None:
    metrics = make(keys=("team-a",))
    metrics.on_request(figures(key="stranger"))
    assert [s.labels["key"] for s in families(metrics)["jaxpaged:key_requests"].samples] == ["team-a"]
    assert "jaxpaged:key_requests" not in families(make())


def test_counters_never_go_back_when_engines_come_and_go() -> None:
    draw = random.Random(3)
    metrics = make()
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count")
    seen, expected = [0.0, 0.0, 0.0], [0, 0, 0]
    for _ in range(6):
        info = engine_info()
        metrics.on_phase("ready")
        engine = [0, 0, 0]
        for _ in range(draw.randint(0, 4)):  # an engine may die before its first beat
            engine = [total + draw.randint(0, 9) for total in engine]
            prompt, output, steps = engine
            told = EngineMetrics(prompt_tokens=prompt, output_tokens=output, steps=steps)
            metrics.on_beat(beat(told, steps=[1] * steps), info)
            now = [value(metrics, name) for name in names]
            assert all(a >= b for a, b in zip(now, seen, strict=True)), (now, seen)
            seen = now
        expected = [a + b for a, b in zip(expected, engine, strict=True)]
        metrics.on_phase(draw.choice(["restarting", "loading", "failed"]))
        assert value(metrics, "vllm:num_requests_running") == 0
        assert value(metrics, "vllm:kv_cache_usage_perc") == 0
        assert metrics.load() == {"kv_cache_usage_perc": 0.0, "num_requests_waiting": 0.0}
        assert [value(metrics, name) for name in names] == seen
    assert seen == expected
    assert value(metrics, "jaxpaged:engine_restarts_total") == 0
    metrics.on_restart()
    assert value(metrics, "jaxpaged:engine_restarts_total") == 1


def test_blocks_and_work_are_counted_over_all_engines() -> None:
    metrics = make(residency=True, estimates=True)
    blocks = ("lifetime", "idle_before_evict", "reuse_gap")
    names = [f"vllm:kv_block_{name}_seconds" for name in blocks]
    work = [f"vllm:estimated_{name}_per_gpu_total" for name in ("flops", "read_bytes", "write_bytes")]
    assert [value(metrics, f"{name}_count") for name in names] + [value(metrics, name) for name in work] == [0] * 6
    for factor in (1, 2):  # two engines, the second one told twice
        info = engine_info()
        for seconds in (0.5,) if factor == 1 else (0.5, 40.0):
            counts = ResidencyCounts()
            counts.lifetime.add(seconds)
            counts.lifetime.add(2000.0)
            counts.idle.add(seconds / 2)
            counts.gap.add(0.125)
            told = EngineMetrics(flops=1e12 * factor, read_bytes=5e9 * factor, written_bytes=1e6 * factor)
            metrics.on_beat(beat(told, residency=counts), info)
        metrics.on_phase("restarting")
    assert [value(metrics, f"{name}_count") for name in names] == [4, 2, 2]
    assert [value(metrics, f"{name}_sum") for name in names] == [4040.5, 20.25, 0.25]
    by_bound = {le: value(metrics, f"{names[0]}_bucket", le=le) for le in ("0.2", "0.5", "30.0", "60.0", "1800.0")}
    assert by_bound == {"0.2": 0, "0.5": 1, "30.0": 1, "60.0": 2, "1800.0": 2}
    assert [value(metrics, name) for name in work] == [3e12, 15e9, 3e6]


def test_a_queue_before_the_engine_counts_as_waiting() -> None:
    depths = [4, 5]
    metrics = make(queue=lambda: (depths[0], depths[1]))
    metrics.on_beat(beat(waiting=3), engine_info())
    assert value(metrics, "vllm:num_requests_waiting") == 12
    assert value(metrics, "vllm:num_requests_waiting_by_reason", reason="capacity") == 7
    assert value(metrics, "vllm:num_requests_waiting_by_reason", reason="deferred") == 5
    depths[:] = [0, 0]
    assert metrics.waiting == 3
    assert metrics.load() == {"kv_cache_usage_perc": 64 / 144, "num_requests_waiting": 3.0}


def test_refusals_and_replies() -> None:
    refused = {"queue_full": 1, "queue_tokens": 0, "tokens_per_minute": 2}
    metrics = make(rejections=lambda: refused)
    for status in (200, 200, 429):
        metrics.on_reply("/v1/chat/completions", status)
    metrics.on_sse(70)
    metrics.on_sse(30)
    assert value(metrics, "vllm:admission_rejections_total", reason="max_num_queued_reqs") == 1
    assert value(metrics, "vllm:admission_rejections_total", reason="max_num_queued_tokens") == 0
    assert value(metrics, "vllm:admission_rejections_total", reason="tokens_per_minute") == 2
    assert value(metrics, "jaxpaged:http_requests_total", route="/v1/chat/completions", status="200") == 2
    assert value(metrics, "jaxpaged:http_requests_total", route="/v1/chat/completions", status="429") == 1
    assert value(metrics, "jaxpaged:sse_bytes_total") == 100


def test_routes_are_bounded() -> None:
    metrics = make()
    for i in range(3 * MAX_ROUTES):
        metrics.on_reply(f"/{i}", 200)
    samples = families(metrics)["jaxpaged:http_requests"].samples
    assert len(samples) == MAX_ROUTES + 1
    assert value(metrics, "jaxpaged:http_requests_total", route="other") == 2 * MAX_ROUTES


def test_one_phase_at_a_time() -> None:
    metrics = make()
    for phase in ("loading", "ready", "draining", "failed"):
        metrics.on_phase(phase)
        shown = {s.labels["phase"]: s.value for s in families(metrics)["jaxpaged:engine_phase"].samples}
        assert {name for name, number in shown.items() if number} == {phase}
        assert len(shown) == 8


def test_two_servers_share_nothing() -> None:
    one, two = make(), make()
    one.on_first_token(0.5)
    one.on_sse(3)
    assert value(one, "jaxpaged:sse_bytes_total") == 3
    assert value(two, "jaxpaged:sse_bytes_total") == 0
    assert value(two, "vllm:time_to_first_token_seconds_count") == 0


def test_a_model_name_may_hold_anything() -> None:
    metrics = ServerMetrics('a"b\\c\nd')
    labels = families(metrics)["vllm:num_requests_running"].samples[0].labels
    assert labels["model_name"] == 'a"b\\c\nd'
