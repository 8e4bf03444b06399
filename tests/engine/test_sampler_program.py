"""What XLA makes of the sampler: no sort of the vocabulary, nothing done that no row asks for, few temporaries."""

from __future__ import annotations

import re
from functools import cache

import jax
import jax.numpy as jnp
from sampling_options import neutral

from jaxpaged.sampler import sample

ROWS, VOCAB, LENGTH, BIASES = 8, 32_000, 24, 4


def unconditional(hlo: str) -> str:
    """The text of every computation that runs whatever the data: the branches of conditionals left out."""
    bodies = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", hlo, re.MULTILINE | re.DOTALL))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.MULTILINE)
    assert entry
    found: list[str] = []
    todo = [entry[1]]
    while todo:
        body = bodies[todo.pop()]
        found.append(body)
        todo += re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", body)
    return "\n".join(found)


@cache
def compiled() -> jax.stages.Compiled:
    shapes = (
        jax.ShapeDtypeStruct((ROWS, VOCAB), jnp.float32),
        jax.eval_shape(lambda: neutral(ROWS)),
        jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32),
        jax.ShapeDtypeStruct((ROWS, BIASES), jnp.int32),
        jax.ShapeDtypeStruct((ROWS, BIASES), jnp.float32),
        jax.ShapeDtypeStruct((ROWS, VOCAB // 32), jnp.int32),
    )
    return jax.jit(sample).lower(*shapes).compile()


def compiled_text() -> str:
    hlo = compiled().as_text()
    assert hlo
    return hlo


def test_temporaries_are_two_arrays_of_the_logits_size() -> None:
    """One with biases and penalties, and one that XLA makes on a CPU of whatever it sums up."""
    memory = compiled().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 2.2 * ROWS * VOCAB * 4


def test_the_vocabulary_is_never_sorted() -> None:
    assert not re.search(r" sort\(", compiled_text())
    assert compiled_text().count('custom_call_target="TopK"') == 2


def test_greedy_steps_skip_everything_else() -> None:
    hlo = compiled_text()
    always = unconditional(hlo)
    costly = r"\b(sort|topk|TopK|exponential|scatter|while|dot|copy)\("
    assert " conditional(" in always
    assert not re.findall(costly, always)
    assert len(re.findall(r" conditional\(", hlo)) >= 10
    assert re.search(r"exponential\(", hlo)  # the search above can find something
    assert re.search(r" while\(", hlo)
