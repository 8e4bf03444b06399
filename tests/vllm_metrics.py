"""The metrics of vLLM 0.33.0, and our own beside them: names, types, labels, bounds of histograms."""

from __future__ import annotations

BOTH = ("model_name", "engine")
LATENCY = "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 480.0 960.0 1920.0 7680.0"
FIRST_TOKEN = (
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 640.0 2560.0"
)
GAP = "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0"
BLOCK = "0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1.0 2.0 5.0 10.0 20.0 30.0 60.0 120.0 300.0 600.0 1200.0 1800.0"
STEP = "1.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 2048.0 4096.0 8192.0 16384.0"
TOKENS = "1.0 2.0 5.0 10.0 20.0 50.0 100.0"  # with a longest context of 100
# as vLLM 0.33.0 has them (v1/metrics/loggers.py): name without _total, type, labels, bounds
VLLM = {
    "vllm:num_requests_running": ("gauge", BOTH, ""),
    "vllm:num_requests_waiting": ("gauge", BOTH, ""),
    "vllm:num_requests_waiting_by_reason": ("gauge", (*BOTH, "reason"), ""),
    "vllm:kv_cache_usage_perc": ("gauge", BOTH, ""),
    "vllm:prompt_tokens": ("counter", BOTH, ""),
    "vllm:prompt_tokens_by_source": ("counter", (*BOTH, "source"), ""),
    "vllm:prompt_tokens_cached": ("counter", BOTH, ""),
    "vllm:generation_tokens": ("counter", BOTH, ""),
    "vllm:request_success": ("counter", (*BOTH, "finished_reason"), ""),
    "vllm:num_preemptions": ("counter", BOTH, ""),
    "vllm:prefix_cache_queries": ("counter", BOTH, ""),
    "vllm:prefix_cache_hits": ("counter", BOTH, ""),
    "vllm:admission_rejections": ("counter", ("model_name", "reason"), ""),
    "vllm:time_to_first_token_seconds": ("histogram", BOTH, FIRST_TOKEN),
    "vllm:inter_token_latency_seconds": ("histogram", BOTH, GAP),
    "vllm:time_per_output_token_seconds": ("histogram", BOTH, GAP),  # its old name
    "vllm:request_time_per_output_token_seconds": ("histogram", BOTH, GAP),
    "vllm:e2e_request_latency_seconds": ("histogram", BOTH, LATENCY),
    "vllm:request_queue_time_seconds": ("histogram", BOTH, LATENCY),
    "vllm:request_prefill_time_seconds": ("histogram", BOTH, LATENCY),
    "vllm:request_decode_time_seconds": ("histogram", BOTH, LATENCY),
    "vllm:request_inference_time_seconds": ("histogram", BOTH, LATENCY),
    "vllm:request_prompt_tokens": ("histogram", BOTH, TOKENS),
    "vllm:request_generation_tokens": ("histogram", BOTH, TOKENS),
    "vllm:request_prefill_kv_computed_tokens": ("histogram", BOTH, TOKENS),
    "vllm:request_params_max_tokens": ("histogram", BOTH, TOKENS),
    "vllm:request_params_n": ("histogram", BOTH, "1.0 2.0 5.0 10.0 20.0"),
    "vllm:iteration_tokens_total": ("histogram", BOTH, STEP),
}
# with --kv-cache-metrics, --enable-mfu-metrics (v1/metrics/perf.py), --speculative-config (v1/spec_decode/metrics.py)
OPTIONAL = {
    "vllm:kv_block_lifetime_seconds": ("histogram", BOTH, BLOCK),
    "vllm:kv_block_idle_before_evict_seconds": ("histogram", BOTH, BLOCK),
    "vllm:kv_block_reuse_gap_seconds": ("histogram", BOTH, BLOCK),
    "vllm:estimated_flops_per_gpu": ("counter", BOTH, ""),
    "vllm:estimated_read_bytes_per_gpu": ("counter", BOTH, ""),
    "vllm:estimated_write_bytes_per_gpu": ("counter", BOTH, ""),
    "vllm:spec_decode_num_drafts": ("counter", BOTH, ""),
    "vllm:spec_decode_num_draft_tokens": ("counter", BOTH, ""),
    "vllm:spec_decode_num_accepted_tokens": ("counter", BOTH, ""),
    "vllm:spec_decode_num_accepted_tokens_per_pos": ("counter", (*BOTH, "position"), ""),
}
OWN = {
    "jaxpaged:kv_tokens": ("gauge", (*BOTH, "class")),
    "jaxpaged:kv_waste_ratio": ("gauge", BOTH),
    "jaxpaged:kv_contiguous_waste_ratio": ("gauge", BOTH),
    "jaxpaged:bucket_occupancy": ("gauge", BOTH),
    "jaxpaged:compiles": ("counter", (*BOTH, "when")),
    "jaxpaged:padding_tokens": ("counter", BOTH),
    "jaxpaged:step_seconds": ("summary", (*BOTH, "phase")),
    "jaxpaged:engine_restarts": ("counter", ("model_name",)),
    "jaxpaged:engine_phase": ("gauge", ("model_name", "phase")),
    "jaxpaged:http_requests": ("counter", ("model_name", "route", "status")),
    "jaxpaged:sse_bytes": ("counter", ("model_name",)),
    "jaxpaged:key_requests": ("counter", ("model_name", "engine", "key")),
    "jaxpaged:key_tokens": ("counter", ("model_name", "engine", "key", "kind")),
}
