"""`jaxpaged plan`: what fits, what steps cost, and the simulated engine beside the real one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.cli import main

from jaxpaged.bench.capacity import capacity
from jaxpaged.bench.cost_table import BucketCost, CostTable, HostCost, TableCost, default_costs, read_costs
from jaxpaged.bench.prediction import predict
from jaxpaged.bench.random_engine import random_engine
from jaxpaged.bench.shapes import SHAPES
from jaxpaged.bench.sheets import DEVICE_SHEETS
from jaxpaged.bench.simulate import SimulatedClock, SimulatedEngine
from jaxpaged.bench.step_cost import RooflineCost, StepCost, StepTime
from jaxpaged.bench.throughput import TraceServer, serve
from jaxpaged.bench.trace import Lengths, TraceRequest, random_trace, write_trace
from jaxpaged.buckets import Bucket
from jaxpaged.config import EngineConfig
from jaxpaged.errors import CapacityError, ConfigError
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families import read_config
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import Request, SamplingParams
from jaxpaged.roofline import Rates, keys_and_pairs, plan_work, step_work, work_of

TINY: dict[str, Any] = {"max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 128, "dtype": "float32"}


def model(name: str) -> ModelConfig:
    return read_config(SHAPES[name])


def plan_of(rows: list[tuple[int, int]], bucket: Bucket) -> StepPlan:
    requests = [
        Request(id=str(i), prompt=(1,) * (start + length), params=SamplingParams(), seed=0, max_tokens=1)
        for i, (start, length) in enumerate(rows)
    ]
    plans = [RowPlan(request, *row, True) for request, row in zip(requests, rows, strict=True)]
    return StepPlan(rows=tuple(plans), bucket=bucket)


def test_keys_and_pairs_of_rows() -> None:
    # two layers; three tokens after four see 5 + 6 + 7 keys, and read 7
    assert keys_and_pairs(model("tiny-llama"), [(4, 3), (9, 1)]) == (2 * (7 + 10), 2 * (18 + 10))
    # a window of 32: tokens 31 and 32 see 31 + 1 and 32 keys, and read 33; one after 99 reads 32
    assert keys_and_pairs(model("tiny-mistral"), [(31, 2), (99, 1)]) == (2 * (33 + 32), 2 * (64 + 32))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral", "tiny-mixtral", "llama-3.1-8b"])
def test_a_plan_of_equal_rows_without_padding_is_the_roofline_of_a_decode_step(name: str) -> None:
    rows = [(99, 1)] * 8
    planned = plan_work(model(name), rows, padded_tokens=8, padded_rows=8, dtype="bfloat16", kv_dtype="int8")
    assert planned == step_work(model(name), rows=8, context=100, dtype="bfloat16", kv_dtype="int8")


def test_padding_is_multiplied_but_has_no_keys() -> None:
    rows = [(9, 1)]
    tight = plan_work(model("tiny-llama"), rows, padded_tokens=1, padded_rows=1, dtype="float32", kv_dtype="float32")
    wide = plan_work(model("tiny-llama"), rows, padded_tokens=4, padded_rows=2, dtype="float32", kv_dtype="float32")
    # weights of a layer: 64 x (64 + 64) of q, k, v, 64 x 64 of o, 3 x 128 x 64 of the network; the head 256 x 64
    layers, head = 2 * (8192 + 4096 + 24576), 16384
    assert (tight.weight_flops, wide.weight_flops) == (2 * (layers + head), 2 * (4 * layers + 2 * head))
    assert tight.weight_bytes == wide.weight_bytes == 4 * (layers + head)
    assert tight.kv_bytes == wide.kv_bytes == 2 * 10 * (2 * 2 * 16 * 4)
    assert tight.attention_flops == wide.attention_flops == 4 * 2 * 10 * 64
    assert tight.written_bytes == wide.written_bytes == 2 * 1 * (2 * 2 * 16 * 4)
    assert tight.read_bytes == 4 * (layers + head) + 2 * 10 * (2 * 2 * 16 * 4)
    assert tight.flops == 2 * (layers + head) + 4 * 2 * 10 * 64


def test_what_requests_asked_for_has_no_padding_and_no_logits_of_unfinished_prompts() -> None:
    step = plan_of([(9, 1), (0, 3)], Bucket(tokens=16, rows=4))
    step = replace(step, rows=(step.rows[0], step.rows[1]._replace(samples=False)))
    types = {"dtype": "float32", "kv_dtype": "float32"}
    for padded, (tokens, rows) in {True: (16, 4), False: (4, 1)}.items():
        found = work_of(step, model("tiny-llama"), **types, padded=padded)
        expected = plan_work(model("tiny-llama"), [(9, 1), (0, 3)], padded_tokens=tokens, padded_rows=rows, **types)
        assert found == expected
        assert found.written_bytes == 4 * 2 * (2 * 2 * 16 * 4)


def test_a_roofline_says_what_bounds_a_step() -> None:
    # 90,112 weights of 4 bytes; 2 x (4 x 73,728 + 2 x 16,384) operations and 5,120 of attention
    step = plan_of([(9, 1)], Bucket(tokens=4, rows=2))
    for gb_s, tflop_s, bound, seconds in ((1.0, 1.0, "bytes", 365568e-9), (1e6, 1e-6, "flops", 660480e-6)):
        rates = Rates(name="toy", gb_s=gb_s, tflop_s=tflop_s, source="sheet")
        cost = RooflineCost(model=model("tiny-llama"), rates=rates, dtype="float32", kv_dtype="float32")
        time = cost(step)
        assert (time.bound, time.launch_s, time.commit_s) == (bound, 0, 0)
        assert time.device_s == pytest.approx(seconds)


def table_of(*buckets: tuple[int, int, float, float]) -> CostTable:
    costs = tuple(BucketCost(tokens=t, rows=s, base_s=base, unit_s=unit) for t, s, base, unit in buckets)
    host = HostCost(launch_s=0.5, launch_row_s=0.25, commit_s=0.125, commit_row_s=1.0)
    return CostTable(subject={"model": "m"}, host=host, buckets=costs)


TABLE = table_of((4, 4, 1.0, 0.01), (8, 8, 3.0, 0.03), (64, 8, 10.0, 0.001), (128, 8, 30.0, 0.003))


@pytest.mark.parametrize(
    ("rows", "bucket", "device_s"),
    [
        # two layers: rows of 10 and of 5 keys
        ([(9, 1), (4, 1)], (4, 4), 1.0 + 0.01 * 30),
        # a bucket halfway between 4 and 8 is measured by neither; its five rows lie a quarter of the way
        ([(9, 1)] * 5, (6, 6), 2.0 + 0.015 * 100),
        # a chunk of 3 after 4: 18 pairs a layer; the two rows beside it as in the bucket of four
        ([(9, 1), (9, 1), (4, 3)], (64, 8), 10.0 + 0.001 * 36 + 0.01 * 40),
        ([(0, 80)], (96, 8), 20.0 + 0.002 * 6480),
    ],
)
def test_a_table_tells_what_a_step_costs(rows: list[tuple[int, int]], bucket: tuple[int, int], device_s: float) -> None:
    cost = TableCost(table=TABLE, model=model("tiny-llama"))
    time = cost(plan_of(rows, Bucket(tokens=bucket[0], rows=bucket[1])))
    assert time.device_s == pytest.approx(device_s)
    assert (time.launch_s, time.commit_s) == (0.5 + 0.25 * len(rows), 0.125 + len(rows))


def test_a_line_through_what_was_timed() -> None:
    bucket = Bucket(tokens=4, rows=4)
    straight = BucketCost.fit(bucket, [(0, 1.0), (10, 2.0), (30, 4.0)])
    assert (straight.base_s, straight.unit_s) == (pytest.approx(1.0), pytest.approx(0.1))
    falling = BucketCost.fit(bucket, [(0, 2.0), (10, 1.0)])  # noise: the mean in which a second of one is half as sure
    assert (falling.base_s, falling.unit_s) == (pytest.approx(1.2), 0.0)
    assert BucketCost.fit(bucket, [(5, 3.0)]) == BucketCost(tokens=4, rows=4, base_s=3.0, unit_s=0.0)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "costs.json"
    TABLE.write(path)
    assert read_costs(path) == TABLE
    for content, told in (
        ("[]", "it is no table of costs"),
        ('{"format": 7}', "its format is 7, this version reads 1"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError, match=told):
            read_costs(path)
    with pytest.raises(ConfigError, match=r"No such file or directory.*plan --measure"):
        read_costs(tmp_path / "none.json")


def test_a_table_of_something_else_is_refused() -> None:
    buckets, where = fits("tiny-llama").buckets, Path("c.json")
    with pytest.raises(ConfigError, match=r"model of c.json is 'm': the plan is for 'other'"):
        TABLE.check({"model": "other"}, buckets, where=where)
    TABLE.check({"model": "m"}, buckets, where=where)
    with pytest.raises(ConfigError, match=r"tokens of the buckets of c.json is \[64\]: the plan has a bucket of 128"):
        table_of((4, 4, 1, 0), (64, 4, 1, 0)).check({}, buckets, where=where)


def fits(shape: str, **options: Any) -> SimulatedEngine:
    found = capacity(EngineConfig(**{**TINY, "model": shape, **options}), "here")
    return SimulatedEngine(found.config, found.model, fixed(0, 1, 0), SimulatedClock())


def fixed(launch_s: float, device_s: float, commit_s: float) -> StepCost:
    return lambda plan: StepTime(launch_s=launch_s, device_s=device_s, commit_s=commit_s, bound="measured")


def request(tokens: int, answer: int, arrival_s: float = 0.0) -> TraceRequest:
    return TraceRequest(prompt_ids=(1,) * tokens, max_tokens=answer, arrival_s=arrival_s)


@pytest.mark.parametrize(
    ("overlapped", "cost", "total_s", "first_s", "busy"),
    [
        # steps end at 5, 9 and 13; a step's tokens are read when the next one is launched: at 6, 10 and 14
        (True, (1, 4, 1), 14.0, 6.0, 12 / 14),
        (False, (1, 4, 1), 18.0, 6.0, 12 / 18),
        # the host is slower: launches at 4, 8 and 13, since the first commit ends at 9; read at 9, 14 and 15
        (True, (4, 1, 1), 15.0, 9.0, 3 / 15),
        (False, (4, 1, 1), 18.0, 6.0, 3 / 18),
    ],
)
def test_host_and_device_overlap(
    overlapped: bool, cost: tuple[float, float, float], total_s: float, first_s: float, busy: float
) -> None:
    found = capacity(EngineConfig(model="tiny-llama", async_scheduling=overlapped, **TINY), "here")
    row = predict(found, fixed(*cost), [request(3, 3)])
    assert (row["total_s"], row["ttft_p50_ms"], row["steps"]) == (total_s, first_s * 1e3, 3)
    assert row["device_busy"] == pytest.approx(busy, abs=1e-4)
    assert row["bound_by"] == {"measured": 1.0}
    assert row["req_s"] == pytest.approx(1 / total_s, rel=1e-3)


def test_arrivals_are_waited_for_and_one_by_one_is_one_by_one() -> None:
    found = capacity(EngineConfig(model="tiny-llama", async_scheduling=False, **TINY), "here")
    late = predict(found, fixed(0, 1, 0), [request(3, 2), request(4, 1, arrival_s=10.1)])
    assert (late["mode"], late["total_s"], late["ttft_p99_ms"]) == ("online", 11.1, 1000.0)
    alone = predict(found, fixed(0, 1, 0), [request(3, 2), request(4, 2)], max_concurrency=1)
    together = predict(found, fixed(0, 1, 0), [request(3, 2), request(4, 2)])
    assert (alone["total_s"], together["total_s"]) == (4.0, 2.0)


def test_a_request_that_the_engine_would_refuse() -> None:
    found = capacity(EngineConfig(model="tiny-llama", num_gpu_blocks_override=2, block_size=16, **TINY), "here")
    with pytest.raises(CapacityError, match="need 3 KV blocks of 16 tokens, and the pool has 1"):
        predict(found, fixed(0, 1, 0), [request(30, 10)])


def recorded(engine: TraceServer, scheduler: Any) -> list[Any]:
    """What every step that is launched computes: bucket, and of each row the request's name, start and length."""
    steps: list[Any] = []
    launch = scheduler.launch

    def spy(plan: StepPlan) -> None:
        rows = [(row.request.id, row.start, row.length, row.samples) for row in plan.rows]
        steps.append((plan.bucket, rows))
        launch(plan)

    scheduler.launch = spy
    return steps


@pytest.mark.parametrize("overlapped", [True, False])
@pytest.mark.parametrize("blocks", [17, 6])  # all rows fit, and the youngest is preempted
def test_simulation_and_engine_plan_the_same_steps(overlapped: bool, blocks: int) -> None:
    options = {**TINY, "block_size": 16, "num_gpu_blocks_override": blocks, "async_scheduling": overlapped}
    trace = random_trace(
        num_requests=9,
        inputs=Lengths(mean=24, sigma=0.7, most=40),
        outputs=Lengths(mean=12, sigma=0.7, most=20),
        rate=0,
        vocab=256,
        seed=1,
    )
    config = EngineConfig(warmup=False, attention_backend="xla", **options)
    real = random_engine(config, "tiny-llama")
    found = capacity(EngineConfig(model="tiny-llama", attention_backend="xla", **options), "here")
    clock = SimulatedClock()
    simulated = SimulatedEngine(found.config, found.model, fixed(0.1, 1, 0.1), clock)
    rows, steps = [], []
    for engine in (real, simulated):
        steps.append(recorded(engine, engine.scheduler))
        rows.append(
            serve(engine, trace, progress={"disable": True}, max_concurrency=None, clock=clock, sleep=clock.sleep)
        )
    assert len(steps[0]) > 20
    assert steps[0] == steps[1]
    counted = ("steps", "preemptions", "padding_share", "kv_waste", "kv_slots", "cached_tokens", "out_tokens")
    assert [rows[0][name] for name in counted] == [rows[1][name] for name in counted]
    assert (rows[0]["preemptions"] > 0) == (blocks == 6)


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["plan", *line.split()])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_draft_model_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    served = "--model llama-3.1-8b --device mi300x"
    asked = f'{served} --speculative-config {{"model":"llama-150m","num_speculative_tokens":4}}'
    row, plain = (json.loads(run(f"{line} --json", capsys)[1]) for line in (asked, served))
    per_token = 2 * 12 * 4 * 64 * 2  # keys and values of 12 layers, 4 kv heads of 64, in bfloat16
    assert row["draft_kv_bytes"] == row["settings"]["num_blocks"] * row["settings"]["block_size"] * per_token
    assert 0 < row["draft_weight_bytes"] < row["weight_bytes"]
    assert row["weight_bytes"] == plain["weight_bytes"] + row["draft_weight_bytes"]
    assert row["settings"]["num_blocks"] < plain["settings"]["num_blocks"]
    assert plain["draft_kv_bytes"] == plain["draft_weight_bytes"] == 0
    assert "beside the KV pool" in run(asked, capsys)[1]
    status, _, err = run('--speculative-config {"model":"nowhere","num_speculative_tokens":4}', capsys)
    assert status == 2
    assert "speculative_config.model is 'nowhere'" in err


SIZES = "--max-model-len 64 --max-num-seqs 4 --max-num-batched-tokens 128"


def test_a_plan_for_a_gpu_that_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, [request(300, 40)] * 4)
    line = f"--model llama-3.1-8b --device mi300x --trace {trace}"
    status, out, _ = run(line + " --json", capsys)
    assert status == 0
    row = json.loads(out)
    weights = 2 * 8_030_261_248
    assert row["weight_bytes"] == pytest.approx(weights, rel=1e-4)  # norms are float32
    assert row["kv_bytes_per_token"] == 32 * 2 * 8 * 128 * 2
    assert row["settings"]["attention_backend"] == "triton"
    assert row["device"] == {"name": "AMD Instinct MI300X", "platform": "rocm", "total_bytes": 192 * 10**9}
    assert 0.9 * 192e9 - weights > row["kv_bytes"] > 0.9 * 192e9 - weights - 4e9
    assert row["contexts_of_mean_len"] == (row["settings"]["num_blocks"] - 1) // 22  # 340 tokens in blocks of 16
    assert row["costs"].startswith("UPPER BOUND, never measured")
    served = row["prediction"]
    assert (served["requests"], served["out_tokens"], served["preemptions"]) == (4, 160, 0)
    # 39 steps of 4 rows read 15.0 GB of weights and 0.17 of KV each: 112 ms; the first one, of 1,200 tokens in a bucket
    # of 2,048, multiplies 28.7 TFLOP: 22 ms
    assert served["total_s"] == pytest.approx(0.134, abs=0.0005)
    assert served["bound_by"] == {"bytes": 0.975, "flops": 0.025}
    status, out, _ = run(line, capsys)
    assert status == 0
    assert re.search(r"device +AMD Instinct MI300X \(rocm\), not here: 192 GB, 5,300 GB/s", out)
    assert "of the trace's mean of 340 tokens fit" in out
    assert "UPPER BOUND, never measured" in out


def test_weights_in_int8_leave_their_room_to_the_pool() -> None:
    options = EngineConfig(model="llama-3.1-8b", max_model_len=8192)
    plain = capacity(options, "mi300x")
    quantised = capacity(replace(options, quantization="int8"), "mi300x")
    # two bytes a weight against one and a scale an output; the table of the input stays in bfloat16
    table = 128_256 * 4096 * 2
    assert 0.5 < (quantised.weight_bytes - table) / (plain.weight_bytes - table) < 0.501
    assert quantised.config.num_blocks > plain.config.num_blocks


def test_measured_here_and_planned_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, costs = tmp_path / "trace.jsonl", tmp_path / "costs.json"
    write_trace(trace, [request(20, 8)] * 3)
    line = f"--model tiny-llama --attention-backend xla --trace {trace} --costs {costs} {SIZES}"
    status, out, err = run(f"{line} --measure --json --dtype float32", capsys)
    assert status == 0
    assert str(costs) in err
    row = json.loads(out)
    assert [[cost.tokens, cost.rows] for cost in read_costs(costs).buckets] == row["buckets"]
    assert row["costs"].startswith("measured on ")
    assert 1 < row["prediction"]["out_tok_s"] < 1e6
    again = run(f"{line} --dtype float32", capsys)
    assert (again[0], again[2]) == (0, "")
    assert f"{row['prediction']['out_tok_s']:,} output tokens/s" in again[1]
    status, _, err = run(f"{line} --dtype bfloat16", capsys)
    assert status == 2
    assert f"error: dtype of {costs} is 'float32': the plan is for 'bfloat16'" in err


def test_every_absent_device_has_rates_and_memory() -> None:
    assert DEVICE_SHEETS["h100-nvl"].rates.gb_s == 3900
    assert DEVICE_SHEETS["a100-40gb"].rates.gb_s == 1555
    assert [sheet.memory_gb for sheet in DEVICE_SHEETS.values()] == [192, 256, 288, 141, 80, 94, 80, 80, 40]
    assert {sheet.rates.name for sheet in DEVICE_SHEETS.values()} > {"MI300X", "H200", "H100", "A100"}
    assert default_costs({"a": "1", "b": "2"}) == default_costs({"b": "2", "a": "1"}) != default_costs({"a": "1"})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--device h101", "--device is 'h101': it is neither here nor cpu nor one of mi300x"),
        ("--model llama-9b", "--model is 'llama-9b': it is no folder, no config.json and none of llama-150m"),
        (
            "--model mixtral-8x7b --device h100",
            "its weights take 86.99 GiB in bfloat16, and NVIDIA H100 has 67.06 GiB for an engine, of 74.51 GiB",
        ),
        ("--trace nowhere.jsonl", "--trace is 'nowhere.jsonl': No such file or directory"),
        ("--limit 3", "--limit is 3: it is of a trace"),
        ("--max-concurrency 0", "--max-concurrency is 0: it must be at least 1"),
        ("--measure --device h200", "--measure is 'h200': only the device that is here can be timed"),
        ("--device h200 --kv-cache-dtype int4", "kv_cache_dtype"),
        ("--bundle b", "--bundle is 'b': a plan has no programs"),
        ("--device h200 --model llama-3.1-8b --max-model-len 200000", "the model's positions end at 131072"),
    ],
)
def test_what_cannot_be_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(line, capsys)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) == 1


def test_nobody_timed_this_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, [request(20, 8)])
    status, out, err = run(f"--model tiny-llama --device cpu --trace {trace} {SIZES}", capsys)
    assert (status, out) == (2, "")
    assert "nobody timed the steps of this model on" in err
