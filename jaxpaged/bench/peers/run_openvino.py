"""OpenVINO GenAI's continuous batching pipeline on the CPU; prompts are given as token ids.

`model` is a folder that `optimum-cli export openvino` wrote. Options: max_num_seqs, max_num_batched_tokens,
cache_gb (2), inference_precision and kv_cache_precision (left out: OpenVINO's own choice), prefix_caching (false).
"""

import os
import time
from importlib import import_module

from peer_records import drive, read_job, read_requests, versions, warm_requests, write_row


class Pipeline:
    """The pipeline as an engine that is stepped."""

    def __init__(self, job):
        options = job["options"]
        self.openvino, self.genai = import_module("openvino"), import_module("openvino_genai")
        self.numpy = import_module("numpy")
        self.properties = {"INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY"}
        for option, name in (
            ("inference_precision", "INFERENCE_PRECISION_HINT"),
            ("kv_cache_precision", "KV_CACHE_PRECISION"),
        ):
            if option in options:
                self.properties[name] = options[option]
        self.scheduler = {
            "cache_size": options.get("cache_gb", 2),
            "max_num_seqs": options.get("max_num_seqs", 32),
            "max_num_batched_tokens": options.get("max_num_batched_tokens", 512),
            "dynamic_split_fuse": True,
            "enable_prefix_caching": options.get("prefix_caching", False),
        }
        scheduler = self.genai.SchedulerConfig()
        for name, value in self.scheduler.items():
            setattr(scheduler, name, value)
        self.pipeline = self.genai.ContinuousBatchingPipeline(job["model"], scheduler, "CPU", self.properties)
        self.going = {}

    def add(self, request):
        settings = self.genai.GenerationConfig()
        settings.max_new_tokens = request.max_tokens
        settings.ignore_eos = True
        settings.do_sample = False
        ids = self.openvino.Tensor(self.numpy.asarray([request.prompt_ids], dtype=self.numpy.int64))
        number = request.index if request.index >= 0 else 10**6 - request.index
        self.going[request.index] = (self.pipeline.add_request(number, ids, settings), request.max_tokens)

    def step(self):
        self.pipeline.step()
        moved = []
        idle = not self.pipeline.has_non_finished_requests()
        for index, (handle, left) in list(self.going.items()):
            new = sum(len(out.generated_ids) for out in handle.read().values()) if handle.can_read() else 0
            finished = new >= left or idle
            if finished:
                del self.going[index]
            else:
                self.going[index] = (handle, left - new)
            if new or finished:
                moved.append((index, new, finished))
        return moved

    def precision(self):
        """What the CPU plugin computes in: as asked, or as it says of itself."""
        return str(
            self.properties.get("INFERENCE_PRECISION_HINT")
            or self.openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
        )


def main():
    """Serve the job's trace."""
    began_s = time.perf_counter()
    job = read_job()
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    requests, most = read_requests(job), job["max_concurrency"]
    engine = Pipeline(job)
    drive(engine, warm_requests(requests, most), most)
    startup_s = time.perf_counter() - began_s
    records, total_s = drive(engine, requests, most)
    write_row(
        job,
        records,
        total_s,
        startup_s,
        precision=engine.precision(),
        settings={**engine.properties, **engine.scheduler},
        package_versions=versions("openvino", "openvino-genai", "openvino-tokenizers"),
    )


if __name__ == "__main__":
    main()
