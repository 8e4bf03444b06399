"""What `jaxpaged bench serve` tells: the result under vLLM's names, sentences to know before it, the files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxpaged.commands.terminal import say, write
from jaxpaged.errors import OutputError
from jaxpaged_server.commands.bench_serve_options import BenchServeOptions, ResultOptions, TrafficOptions, pairs
from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.figures import Selection, figures, per_request
from jaxpaged_server.load.lag import Lag
from jaxpaged_server.load.report import page
from jaxpaged_server.load.run import Run
from jaxpaged_server.load.server_facts import shown_url
from jaxpaged_server.load.spread import spreads
from jaxpaged_server.load.table import table
from jaxpaged_server.load.vocabulary import Vocabulary

_SEVERAL = 1.02
"""Tokens an event, on average, from which on it is worth a word."""


def tell(
    options: BenchServeOptions,
    selection: Selection,
    endpoint: Endpoint,
    vocabulary: Vocabulary | None,
    run: Run,
    lag: Lag,
) -> None:
    """Print the table, say the notes, write the files that were asked for. Raises OutputError where one cannot be."""
    found = spreads(run.outcomes, selection.percentiles)
    date = datetime.now().strftime("%Y%m%d-%H%M%S")
    result = {
        **_circumstances(options, endpoint, vocabulary, date),
        **figures(run, selection, found),
        "client": {key: round(value, 4) for key, value in asdict(lag).items()},
    }
    notes = notes_on(result, run, lag)
    write(table(result, selection) + "\n")
    for note in notes:
        say(f"note: {note}")
    wanted = options.result
    if wanted.save_result or wanted.append_result:
        file = _result_file(wanted, options.traffic, label=result["label"], model=endpoint.model, date=date)
        detailed = per_request(run.outcomes) if wanted.save_detailed else {}
        _save(file, json.dumps({**result, **detailed}) + "\n", append=wanted.append_result)
        say(f"result: {file}")
    if wanted.html is not None:
        _save(wanted.html, page(result, run, found, notes=notes, settings=_settings(options)))
        say(f"report: {wanted.html}")


def notes_on(result: Mapping[str, Any], run: Run, lag: Lag) -> list[str]:
    """What a reader of the figures must know; nothing where nothing was out of the ordinary."""
    notes = list(lag.warnings)
    if run.interrupted:
        notes.insert(
            0,
            f"Interrupted: of {result['num_prompts']} requests {len(run.outcomes)} were sent, and "
            f"{result['unfinished']} of these were cut off and are not counted.",
        )
    if run.outcomes and not result["completed"]:
        notes.append("No request was answered: look at the errors.")
    if (per_event := result["tokens_per_event"] or 1.0) > _SEVERAL:
        notes.append(
            f"An event held {per_event:.2f} tokens on average: ITL is the time between events, TPOT is for one token."
        )
    if refused := result["refused"]:
        told, mean_s = result["refused_with_retry_after"], result["mean_retry_after_s"]
        when = f"; {told} said when to come again, on average in {mean_s:.3g} s" if told else ""
        notes.append(f"{refused} requests were refused with status 429{when}.")
    return notes


def _circumstances(
    options: BenchServeOptions, endpoint: Endpoint, vocabulary: Vocabulary | None, date: str
) -> dict[str, Any]:
    traffic, data, server = options.traffic, options.dataset, options.server
    ramp = ("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps")
    return {
        "date": date,
        "endpoint_type": "openai-chat" if endpoint.kind == "chat" else server.backend,
        "backend": server.backend,
        "label": options.result.label or server.backend,
        "model_id": endpoint.model,
        "tokenizer_id": None if vocabulary is None else vocabulary.source,
        "num_prompts": data.num_prompts,
        "server": shown_url(server.root),
        "dataset_name": data.dataset_name,
        "seed": data.seed,
        **pairs("--metadata", options.result.metadata),
        "request_rate": _finite(traffic.request_rate),
        "burstiness": _finite(traffic.burstiness),
        "max_concurrency": traffic.max_concurrency,
        **({name: getattr(traffic, name) for name in ramp} if traffic.ramp_up_strategy else {}),
    }


def _settings(options: BenchServeOptions) -> dict[str, Any]:
    """Of the command line; of headers the names alone, of an URL no password."""
    shown = asdict(options)
    shown["server"]["header"] = list(pairs("--header", options.server.header))
    shown["server"]["base_url"] = shown_url(options.server.root)
    return shown


def _result_file(result: ResultOptions, traffic: TrafficOptions, *, label: str, model: str, date: str) -> Path:
    """Where the result goes: named as vLLM names it."""
    most = f"-concurrency{traffic.max_concurrency}" if traffic.max_concurrency is not None else ""
    rate = f"{traffic.request_rate}qps"
    if traffic.ramp_up_strategy is not None:
        rate = f"ramp-up-{traffic.ramp_up_strategy}-{traffic.ramp_up_start_rps:g}qps-{traffic.ramp_up_end_rps:g}qps"
    name = result.result_filename or f"{label}-{rate}{most}-{model.rsplit('/', 1)[-1]}-{date}.json"
    return Path(result.result_dir or ".") / name


def _finite(value: float) -> float | str:
    """JSON has no infinity."""
    return value if math.isfinite(value) else "inf"


def _save(file: Path, text: str, *, append: bool = False) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if append else "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise OutputError(
            name="result", value=str(file), limit=f"it cannot be written: {error.strerror or error}"
        ) from None
