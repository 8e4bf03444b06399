"""Transformers' continuous batching: its manager in a thread of its own, requests added as they arrive.

Options: kv_tokens (16384), page_size (64), max_num_seqs, max_num_batched_tokens, attn_implementation ("sdpa").
"""

import os
import time
from importlib import import_module

from peer_records import drive, read_job, read_requests, versions, warm_requests, write_row

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class Manager:
    """The manager as an engine that is stepped: a step waits for the next result."""

    def __init__(self, job):
        torch, transformers = import_module("torch"), import_module("transformers")
        torch.set_num_threads(job["threads"])
        options = job["options"]
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            job["model"],
            dtype=getattr(torch, _DTYPES[job["precision"]]),
            attn_implementation=options.get("attn_implementation", "sdpa"),
        ).eval()
        page_size = options.get("page_size", 64)
        self.settings = {
            "page_size": page_size,
            "num_blocks": options.get("kv_tokens", 16384) // page_size,
            "max_batch_tokens": options.get("max_num_batched_tokens", 512),
            "max_requests_per_batch": options.get("max_num_seqs", 32),
            "allow_block_sharing": False,
        }
        self.manager = self.model.init_continuous_batching(
            generation_config=transformers.GenerationConfig(
                do_sample=False, max_new_tokens=1024, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=transformers.ContinuousBatchingConfig(**self.settings),
        )
        self.seen = {}
        self.manager.start()

    def add(self, request):
        self.seen[str(request.index)] = 0
        self.manager.add_request(
            request.prompt_ids, request_id=str(request.index), max_new_tokens=request.max_tokens, streaming=True
        )

    def step(self):
        result = self.manager.get_result(timeout=0.005)
        if result is None:
            if not self.manager.is_running():
                raise SystemExit("the thread of continuous batching has ended")
            return []
        if result.error:
            raise SystemExit(f"request {result.request_id} failed: {result.error}")
        new = len(result.generated_tokens) - self.seen[result.request_id]
        self.seen[result.request_id] += new
        return [(int(result.request_id), new, result.is_finished())]


def main():
    """Serve the job's trace."""
    began_s = time.perf_counter()
    job = read_job()
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    requests, most = read_requests(job), job["max_concurrency"]
    engine = Manager(job)
    drive(engine, warm_requests(requests, most), most)
    startup_s = time.perf_counter() - began_s
    records, total_s = drive(engine, requests, most)
    write_row(
        job,
        records,
        total_s,
        startup_s,
        precision=str(engine.model.dtype).removeprefix("torch."),
        settings={**engine.settings, "attention": engine.model.config._attn_implementation},
        package_versions=versions("torch", "transformers"),
    )
    os._exit(0)  # its thread would be waited for


if __name__ == "__main__":
    main()
