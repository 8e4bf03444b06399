"""From the options of `jaxpaged bench serve` to its requests: the vocabulary, the arrivals, the samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from jaxpaged.commands.terminal import say
from jaxpaged_server.commands.bench_serve_options import DatasetOptions, ServerOptions, TrafficOptions
from jaxpaged_server.load.arrivals import Arrivals, RampUp
from jaxpaged_server.load.datasets import Choice, custom_samples, sharegpt_samples
from jaxpaged_server.load.endpoint import Kind
from jaxpaged_server.load.random_samples import RandomPrompts, RangeRatio, prefix_repetition_samples, random_samples
from jaxpaged_server.load.sample import Sample
from jaxpaged_server.load.server_facts import ServerFacts
from jaxpaged_server.load.vocabulary import Vocabulary, find_vocabulary, vocabulary_of_folder


def arrivals_of(traffic: TrafficOptions) -> Arrivals:
    """When requests are sent. Raises ConfigError for rates that cannot be."""
    ramp = None
    if traffic.ramp_up_strategy is not None:
        assert traffic.ramp_up_start_rps is not None, "checked before"
        assert traffic.ramp_up_end_rps is not None, "checked before"
        ramp = RampUp(
            strategy=traffic.ramp_up_strategy, start_rps=traffic.ramp_up_start_rps, end_rps=traffic.ramp_up_end_rps
        )
    return Arrivals(rate=traffic.request_rate, burstiness=traffic.burstiness, ramp_up=ramp)


def vocabulary_of(server: ServerOptions, facts: ServerFacts) -> Vocabulary | None:
    """The model's, as far as it can be known. Raises TokenizerError for a --tokenizer that cannot be read."""
    if server.tokenizer is not None:
        return vocabulary_of_folder(server.tokenizer)
    return find_vocabulary({"id": server.model, **facts.model}, facts.tokenizer_info)


def samples_of(
    data: DatasetOptions, count: int, *, kind: Kind, vocabulary: Vocabulary | None, facts: ServerFacts
) -> list[Sample]:
    """So many of the dataset's requests, in the form that the endpoint takes.

    Raises ConfigError for a file that cannot be used, and for lengths that cannot be.
    """
    if data.dataset_path is not None:
        return _of_file(data, data.dataset_path, count, kind, vocabulary)
    if kind == "chat" and vocabulary is not None and vocabulary.tokenizer is None:
        vocabulary = None  # its ids alone are of no use where text is sent
    if vocabulary is None:
        say(
            "note: the model's tokenizer is not known: prompts are words, and their lengths about what was asked "
            "(--tokenizer FOLDER makes them exact)"
        )
    prompts = RandomPrompts(
        vocabulary=vocabulary,
        random=Random(data.seed),
        as_text=kind == "chat",
        words_per_token=facts.words_per_token,
    )
    if data.dataset_name == "prefix_repetition":
        return prefix_repetition_samples(
            prompts,
            count,
            prefix_len=data.prefix_repetition_prefix_len,
            suffix_len=data.prefix_repetition_suffix_len,
            num_prefixes=data.prefix_repetition_num_prefixes,
            output_len=data.output_len or data.prefix_repetition_output_len,
        )
    return random_samples(
        prompts,
        count,
        input_len=data.input_len or data.random_input_len,
        output_len=data.output_len or data.random_output_len,
        prefix_len=data.random_prefix_len,
        ratio=RangeRatio.parse(data.random_range_ratio),
    )


def _of_file(data: DatasetOptions, file: Path, count: int, kind: Kind, vocabulary: Vocabulary | None) -> list[Sample]:
    choice = Choice(
        count=count, random=Random(data.seed), shuffle=not data.disable_shuffle, oversample=not data.no_oversample
    )
    if data.dataset_name == "sharegpt":
        length = data.output_len or data.sharegpt_output_len
        return sharegpt_samples(file, choice, vocabulary=vocabulary, output_len=length)
    return custom_samples(
        file,
        choice,
        vocabulary=vocabulary,
        output_len=data.output_len or data.custom_output_len,
        template=None if data.skip_chat_template else _template(kind, vocabulary),
    )


def _template(kind: Kind, vocabulary: Vocabulary | None) -> Callable[[str], str] | None:
    """What a chat model wants round a text. On the chat endpoint the server does that: never twice."""
    tokenizer = None if vocabulary is None else vocabulary.tokenizer
    if kind == "chat" or tokenizer is None or not tokenizer.has_chat_template:
        return None
    return lambda text: tokenizer.apply_chat_template([{"role": "user", "content": text}])
