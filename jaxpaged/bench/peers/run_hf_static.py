"""Transformers' `generate` on batches in the order of the trace, padded on the left to the longest prompt.

A batch runs until its longest answer is done; only the tokens that a request asked for are counted. With
`max_concurrency` a batch holds at most so many, and its requests' waiting begins when it does.
Options: batch (8), attn_implementation ("sdpa"), compile (false: no static cache and no torch.compile).
"""

import os
import time
from importlib import import_module

from peer_records import Record, read_job, read_requests, versions, warm_requests, write_row

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class StepTimes:
    """What `generate` calls a streamer: the first call is the prompt, then one a step."""

    def __init__(self):
        self.calls_s = []

    def put(self, value):
        del value
        self.calls_s.append(time.perf_counter())

    def end(self):
        """Nothing is kept open."""


class StaticBatches:
    """A model, and how a batch goes through it."""

    def __init__(self, job):
        self.torch, transformers = import_module("torch"), import_module("transformers")
        self.torch.set_num_threads(job["threads"])
        options = job["options"]
        self.compiled = bool(options.get("compile", False))
        self.settings_of = transformers.GenerationConfig
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            job["model"],
            dtype=getattr(self.torch, _DTYPES[job["precision"]]),
            attn_implementation=options.get("attn_implementation", "sdpa"),
        ).eval()

    def serve(self, requests):
        """Records of one batch."""
        torch = self.torch
        width = max(len(request.prompt_ids) for request in requests)
        steps = max(request.max_tokens for request in requests)
        ids = torch.zeros((len(requests), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        settings = self.settings_of(
            do_sample=False,
            max_new_tokens=steps,
            min_new_tokens=steps,
            pad_token_id=0,
            eos_token_id=None,
            **({"cache_implementation": "static"} if self.compiled else {}),
        )
        times, due_s = StepTimes(), time.perf_counter()
        with torch.inference_mode():
            self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, streamer=times)
        records = [Record(due_s, len(request.prompt_ids), request.max_tokens) for request in requests]
        for record in records:
            for now_s in times.calls_s[1 : record.num_wanted + 1]:
                record.add(1, now_s)
        return records


def main():
    """Serve the job's trace."""
    began_s = time.perf_counter()
    job = read_job()
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    requests = read_requests(job)
    if any(request.arrival_s for request in requests):
        raise SystemExit("static batches cannot wait for arrivals: use a trace whose requests are all there at once")
    most = job["max_concurrency"]
    batch = min(job["options"].get("batch", 8), most or len(requests))
    engine = StaticBatches(job)
    engine.serve([warm_requests(requests, most)[0]] * batch)
    startup_s = time.perf_counter() - began_s
    records = []
    began_s = time.perf_counter()
    for first in range(0, len(requests), batch):
        served = engine.serve(requests[first : first + batch])
        for record in served:
            record.due_s = record.due_s if most else began_s
        records += served
    total_s = time.perf_counter() - began_s
    write_row(
        job,
        records,
        total_s,
        startup_s,
        precision=str(engine.model.dtype).removeprefix("torch."),
        settings={**job["options"], "batch": batch, "attention": engine.model.config._attn_implementation},
        package_versions=versions("torch", "transformers"),
    )


if __name__ == "__main__":
    main()
