"""The device half of a step: parameters, KV pool, and the compiled programs run on them.

Owns the donated pool, and the last token drawn at every seat, which goes from step to step without the host. Owns
nothing of the policy, and nothing of what the programs are (`programs.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from jax import Array
from jax.stages import Compiled

from jaxpaged.batch import StepInputs
from jaxpaged.buckets import Bucket
from jaxpaged.config import ResolvedConfig
from jaxpaged.errors import EngineError
from jaxpaged.masks import mask_words
from jaxpaged.models.kv import KVPool
from jaxpaged.plan import StepPlan
from jaxpaged.programs import Programs
from jaxpaged.request import Logprob
from jaxpaged.sampler import Sampled, SamplingRows
from jaxpaged.sampling_params import MAX_BIASES
from jaxpaged.scored_tokens import ScoredTokens
from jaxpaged.scoring import Scored, StepScores, by_token
from jaxpaged.weights.load import LoadedModel
from jaxpaged.wide_logprobs import WideLogprobs, slices_of

StandIns = dict[int, tuple[Array, Array, Array, Array]]
"""By a number of rows, on the device: history, bias ids, bias values and masks that ask for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What the model's part of a step computed, still on the device: what its tokens are drawn from."""

    inputs: StepInputs
    num_rows: int
    logits: Array  # f32[S, V]
    last: tuple[Array, Array]
    rows: SamplingRows
    scores: StepScores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step computed, still on the device; one entry per row of the bucket, and the scores of its prompts.

    told: whether rows ask for logprobs.
    """

    sampled: Sampled
    told: bool
    scores: StepScores | None = None
    wide: WideLogprobs | None = None

    def tokens(self) -> list[int]:
        """Wait for the step and copy the sampled tokens to the host."""
        return np.asarray(self.sampled.tokens).tolist()

    def finite(self) -> list[bool]:
        """Whether each row is, and all that was scored of it."""
        rows: list[bool] = np.asarray(self.sampled.finite).tolist()
        if self.scores is not None:
            scored = self.scores.finite()
            rows[: len(scored)] = [row and places for row, places in zip(rows, scored, strict=False)]
        return rows

    def logprobs(self, plan: StepPlan) -> list[dict[int, Logprob] | None]:
        """Per row, the chosen token's logprob and those that its request asks for; None where it asks for none."""
        if not self.told:
            return [None] * len(plan.rows)
        tokens, chosen, ranks, top_ids, top = (
            np.asarray(array)
            for array in (
                self.sampled.tokens,
                self.sampled.logprob,
                self.sampled.rank,
                self.sampled.top_ids,
                self.sampled.top_logprobs,
            )
        )
        rows: list[dict[int, Logprob] | None] = []
        for row, planned in enumerate(plan.rows):
            token, params = int(tokens[row]), planned.request.params
            if not planned.samples or not params.wants_logprobs or token < 0:
                rows.append(None)
            elif (count := params.num_likeliest) is not None:
                likeliest = top_ids[row, :count].tolist(), top[row, :count].tolist()
                rows.append(by_token(token, float(chosen[row]), int(ranks[row]), *likeliest, count=count))
            else:
                assert self.wide is not None, "logprobs that the sampler does not give were not picked"
                rows.append(self.wide.of(row, token, params))
        return rows

    def prompt_logprobs(self, plan: StepPlan) -> list[list[dict[int, Logprob]]] | None:
        """Per row of the plan, the logprobs of the prompt tokens that were scored; None where there are none."""
        if self.scores is None:
            return None
        return self.scores.logprobs([row.request.params.prompt_logprobs for row in plan.rows])


class ModelRunner:
    """Runs steps. `execute` launches one and hands the pool on; it never looks at the result."""

    def __init__(self, programs: Programs, *, stand_ins: StandIns | None = None) -> None:
        """stand_ins: of a runner with as many tokens, which are then shared."""
        self.model = programs.model
        self.config = programs.config
        self.leaves = programs.model.leaves
        self.backend = programs.backend
        self.layout = programs.layout
        self.compile = programs.step
        self._programs = programs
        self.pool: KVPool = programs.pool_maker()()
        self._last_tokens = self._no_tokens()
        self._unused: StandIns = {} if stand_ins is None else stand_ins

    def beside(self, model: LoadedModel, config: ResolvedConfig) -> ModelRunner:
        """A runner of another model for the same steps; what does not depend on the model is shared. With programs of a
        bundle its own are of the bundle of the draft model."""
        bundle = self._programs.bundle and self._programs.bundle.of_draft()
        alike = model.config.vocab == self.model.config.vocab
        programs = Programs(model, config, bundle=bundle, samplers=self._programs if alike else None)
        return ModelRunner(programs, stand_ins=self._unused if alike else None)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the programs depend on, by name."""
        return self._programs.fingerprint

    @property
    def programs(self) -> dict[str, Compiled]:
        """All that was compiled or loaded so far, by name."""
        return self._programs.compiled

    def compile_sampler(self, rows: int) -> Compiled:
        """The sampler of `rows` rows, compiled once, with what it reads where no row has options. Any thread may call
        it."""
        self._unused_for(rows)
        return self._programs.sampler(rows)

    def compile_logprob_picker(self, rows: int) -> Compiled:
        """What picks the logprobs that the sampler of `rows` rows does not give. Any thread may call it."""
        return self._programs.logprob_picker(rows)

    def compile_picker(self, tokens: int) -> Compiled:
        """What picks the vectors to be scored out of a step of `tokens` tokens. Any thread may call it."""
        return self._programs.picker(tokens)

    def compile_scorer(self) -> Compiled:
        """What scores prompt tokens. Any thread may call it."""
        return self._programs.scorer()

    def compile_copier(self) -> Compiled:
        """What copies blocks of the pool. Any thread may call it."""
        return self._programs.copier()

    def execute(self, inputs: StepInputs, bucket: Bucket, masks: np.ndarray | None = None) -> StepResult:
        """Launch one step. Returns at once where the device computes asynchronously. See `forward` and `draw`."""
        return self.draw(self.forward(inputs, bucket), masks)

    def forward(self, inputs: StepInputs, bucket: Bucket) -> Forward:
        """Launch the model's part of a step; the next one may be launched once its tokens are drawn.

        Raises EngineError where an earlier step took the pool and did not give it back.
        """
        step = self.compile(bucket)
        self.compile_sampler(bucket.rows)
        copier = self.compile_copier() if inputs.copies else None
        scoring = inputs.scored and (inputs.scored, self.compile_picker(bucket.tokens), self.compile_scorer())
        if self.pool_is_lost:
            raise EngineError(
                name="KV pool",
                value="lost",
                limit="an earlier step was stopped while the device held the pool",
                fix="Abort all requests and call rebuild_pool() of the engine, or make a new one",
            )
        if copier is not None:
            for pairs in inputs.copies:
                self.pool = copier(self.pool, pairs)
        self.pool, logits, last, rows, hidden = step(self.leaves, self.pool, self._last_tokens, inputs.ints)
        scores = scoring and self._score(*scoring, hidden)
        return Forward(inputs=inputs, num_rows=bucket.rows, logits=logits, last=last, rows=rows, scores=scores)

    def draw(self, forward: Forward, masks: np.ndarray | None = None) -> StepResult:
        """Launch the sampler's part of a step. masks: i32[S, mask_words]; None: every row may draw any token."""
        inputs, sampler = forward.inputs, self.compile_sampler(forward.num_rows)
        picker = self.compile_logprob_picker(forward.num_rows) if inputs.wide else None
        history, bias_ids, bias_values, no_masks = self._unused_for(forward.num_rows)
        self._last_tokens, sampled = sampler(
            self._last_tokens,
            forward.last,
            forward.logits,
            forward.rows,
            history if inputs.history is None else inputs.history,
            bias_ids if inputs.bias_ids is None else inputs.bias_ids,
            bias_values if inputs.bias_values is None else inputs.bias_values,
            no_masks if masks is None else masks,
        )
        wide = None
        if picker is not None:
            slices = tuple(picker(forward.logits, places) for places in slices_of(inputs.wide))
            wide = WideLogprobs(rows=inputs.wide, slices=slices)
        return StepResult(sampled=sampled, told=inputs.told, scores=forward.scores, wide=wide)

    def _score(self, tokens: ScoredTokens, picker: Compiled, scorer: Compiled, hidden: Array) -> StepScores:
        slices = tokens.slices(self.config.score_rows)
        scored: list[Scored] = [scorer(self.leaves, picker(hidden, places), targets) for places, targets in slices]
        return StepScores(tokens=tokens, slices=tuple(scored))

    @property
    def pool_is_lost(self) -> bool:
        """Whether a step was given the pool and failed, or was interrupted, before it gave it back."""
        arrays = [*jax.tree.leaves(self.pool[:1]), self._last_tokens]
        return not self.pool or any(array.is_deleted() for array in arrays)

    def rebuild_pool(self) -> None:
        """A pool of zeros in place of the pool, lost or not."""
        self.pool = ()  # first: there is no room for two
        self.pool = self._programs.pool_maker()()
        self._last_tokens = self._no_tokens()

    def _no_tokens(self) -> Array:
        """i32[seats + 1]: a token for every seat, and one for padding rows."""
        return jax.device_put(np.zeros(self.config.num_seats + 1, np.int32))

    def _unused_for(self, rows: int) -> tuple[Array, Array, Array, Array]:
        """Device-resident stand-ins for the options that no row of a step uses: nothing to transfer."""
        if rows not in self._unused:
            self._unused[rows] = (
                jax.device_put(np.full((rows, self.config.max_model_len), -1, np.int32)),
                jax.device_put(np.full((rows, MAX_BIASES), -1, np.int32)),
                jax.device_put(np.zeros((rows, MAX_BIASES), np.float32)),
                jax.device_put(np.full((rows, mask_words(self.model.config.vocab)), -1, np.int32)),
            )
        return self._unused[rows]
