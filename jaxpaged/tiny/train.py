"""Train the bundled model and its draft model: `python -m jaxpaged.tiny.train --out DIR`.

Trains a byte-level BPE tokenizer and a Llama (grouped-query, head_dim 64) on the standard
library, then writes a Hugging Face folder and the held-out bits per byte beside `xz -9`.
A second, smaller one for speculation learns to foretell the first (its distributions are
the targets, over the same text) and is written to DIR/draft; where DIR holds a model that
is trained already, only that one is made.
Needs `optax` (a dependency of flax) beside the package itself. The forward pass here is a
plain causal one: training has no use for a paged cache.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from jaxpaged.tiny.corpus import Corpus, read_corpus

Params = dict[str, jax.Array]

END = "<|endoftext|>"
SPECIAL_TOKENS = (END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the bundled model."""

    vocab: int = 4096
    embed: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 640
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    eps: float = 1e-5


DRAFT = Shape(embed=128, layers=2, heads=2, kv_heads=1, ffn=384)
"""Sizes of the draft model. Two layers: one alone cannot go on from where the text stood before."""


def train_tokenizer(texts: tuple[str, ...], vocab: int) -> Tokenizer:
    """Byte-level BPE over the training files only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def init_params(shape: Shape, key: jax.Array) -> Params:
    """Parameters under their Hugging Face names, float32, weights as [out, in]."""
    kv, width = shape.kv_heads * shape.head_dim, shape.heads * shape.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.embed)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (shape.embed,),
            f"{at}.self_attn.q_proj.weight": (width, shape.embed),
            f"{at}.self_attn.k_proj.weight": (kv, shape.embed),
            f"{at}.self_attn.v_proj.weight": (kv, shape.embed),
            f"{at}.self_attn.o_proj.weight": (shape.embed, width),
            f"{at}.post_attention_layernorm.weight": (shape.embed,),
            f"{at}.mlp.gate_proj.weight": (shape.ffn, shape.embed),
            f"{at}.mlp.up_proj.weight": (shape.ffn, shape.embed),
            f"{at}.mlp.down_proj.weight": (shape.embed, shape.ffn),
        }
    shapes["model.norm.weight"] = (shape.embed,)
    keys = jax.random.split(key, len(shapes))
    residual_scale = (2 * shape.layers) ** -0.5
    params = {}
    for k, (name, dims) in zip(keys, shapes.items(), strict=True):
        if len(dims) == 1:
            params[name] = jnp.ones(dims)
        else:
            scale = 0.02 if name.startswith("model.embed") else dims[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale *= residual_scale
            params[name] = scale * jax.random.normal(k, dims)
    return params


def _norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def _rope(x: jax.Array, theta: float) -> jax.Array:
    """Rotate halves (as HF's Llama does); x: [B, T, heads, D]."""
    half = x.shape[-1] // 2
    inverse = theta ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None] * inverse  # [T, D/2]
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    low, high = x[..., :half], x[..., half:]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def forward(params: Params, tokens: jax.Array, shape: Shape) -> jax.Array:
    """Logits of a causal Llama; tokens: int32[B, T] -> f32[B, T, V]."""
    batch, length = tokens.shape
    group = shape.heads // shape.kv_heads
    mask = jnp.tril(jnp.ones((length, length), bool))
    x = params["model.embed_tokens.weight"][tokens]
    for layer in range(shape.layers):
        w = {
            name: params[f"model.layers.{layer}.{name}.weight"]
            for name in (
                "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
            )
        }  # fmt: skip
        h = _norm(x, w["input_layernorm"], shape.eps)
        q = _rope((h @ w["self_attn.q_proj"].T).reshape(batch, length, -1, shape.head_dim), shape.rope_theta)
        k = _rope((h @ w["self_attn.k_proj"].T).reshape(batch, length, -1, shape.head_dim), shape.rope_theta)
        v = (h @ w["self_attn.v_proj"].T).reshape(batch, length, -1, shape.head_dim)
        # heads lead and the query group folds into the rows: the batched dots then need no transpose inside
        q = q.reshape(batch, length, shape.kv_heads, group, -1).transpose(0, 2, 3, 1, 4)  # [B, K, G, T, D]
        q = q.reshape(batch, shape.kv_heads, group * length, -1)
        scores = q @ k.transpose(0, 2, 3, 1) * shape.head_dim**-0.5  # [B, K, G*T, T]
        weights = jax.nn.softmax(jnp.where(jnp.tile(mask, (group, 1)), scores, -1e30), axis=-1)
        mixed = (weights @ v.transpose(0, 2, 1, 3)).reshape(batch, shape.kv_heads, group, length, -1)
        mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, -1)
        x = x + mixed @ w["self_attn.o_proj"].T
        h = _norm(x, w["post_attention_layernorm"], shape.eps)
        x = x + (jax.nn.silu(h @ w["mlp.gate_proj"].T) * (h @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    x = _norm(x, params["model.norm.weight"], shape.eps)
    return x @ params["model.embed_tokens.weight"].T


def nll(params: Params, tokens: jax.Array, shape: Shape) -> jax.Array:
    """Negative log likelihood in nats of tokens[:, 1:]; f32[B, T-1]."""
    logits = forward(params, tokens[:, :-1], shape)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])


def distance(params: Params, teacher: Params, tokens: jax.Array, shape: Shape, of_teacher: Shape) -> jax.Array:
    """Cross entropy in nats of a model's distributions to its teacher's, at tokens[:, :-1]; f32[B, T-1]."""
    logits = forward(params, tokens[:, :-1], shape)
    return optax.softmax_cross_entropy(logits, jax.nn.softmax(forward(teacher, tokens[:, :-1], of_teacher)))


def agreement(params: Params, teacher: Params, tokenizer: Tokenizer, corpus: Corpus, context: int = 1024) -> float:
    """Share of held-out places, in contexts of up to `context` tokens, where the draft's likeliest token is the
    model's."""
    ids = tokenizer.encode(corpus.held_out_bytes.decode(errors="ignore")).ids
    rows = np.asarray(ids[: len(ids) // context * context], np.int32).reshape(-1, context)

    @jax.jit
    def agree(params: Params, teacher: Params, tokens: jax.Array) -> jax.Array:
        both = forward(params, tokens, DRAFT), forward(teacher, tokens, Shape())
        return jnp.mean(jnp.argmax(both[0], axis=-1) == jnp.argmax(both[1], axis=-1))

    return float(np.mean([float(agree(params, teacher, row[None])) for row in rows]))


def encode_files(tokenizer: Tokenizer, texts: tuple[str, ...], seed: int) -> np.ndarray:
    """All files in a shuffled order, each closed by the end token; uint16[n]."""
    end = tokenizer.token_to_id(END)
    order = np.random.default_rng(seed).permutation(len(texts))
    parts = [[*tokenizer.encode(texts[i]).ids, end] for i in order]
    return np.concatenate([np.asarray(p, np.uint16) for p in parts])


def bits_per_byte(params: Params, tokenizer: Tokenizer, corpus: Corpus, shape: Shape, context: int = 1024) -> float:
    """Held-out bits per byte, each token scored with at least context/2 tokens before it where they exist."""
    raw = corpus.held_out_bytes
    ids = [tokenizer.token_to_id(END), *tokenizer.encode(raw.decode(errors="ignore")).ids]
    stride = context // 2
    score = jax.jit(lambda p, t: nll(p, t, shape))
    total = 0.0
    for start in range(0, len(ids) - 1, stride):
        window = ids[max(0, start - stride) : start + stride + 1]
        fresh = min(len(ids) - 1, start + stride) - start
        padded = np.zeros((1, context + 1), np.int32)
        padded[0, : len(window)] = window
        losses = np.asarray(score(params, padded))[0, : len(window) - 1]
        total += float(losses[-fresh:].sum())
    return total / np.log(2) / len(raw)


def schedule(step: Any, steps: int, peak: float) -> jax.Array:
    """Linear warm-up over 2 %, constant, linear decay to zero over the last half."""
    progress = step / steps
    return peak * jnp.minimum(jnp.minimum(progress / 0.02, 1.0), jnp.minimum((1.0 - progress) / 0.5, 1.0))


def train(
    args: argparse.Namespace, shape: Shape, ids: np.ndarray, *, out: Path, steps: int, teacher: Params | None = None
) -> Params:
    """AdamW for embedding and norms, Muon for matrices; the last tenth of the steps sees full-length contexts.

    teacher: the bundled model, whose distributions are learned in place of the text's tokens.
    """
    params = init_params(shape, jax.random.key(args.seed))
    matrices: Any = {  # weights are [out, in]; everything else is left to AdamW
        name: contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0) if "_proj" in name else None
        for name in params
    }
    optimizer = contrib.muon(
        learning_rate=lambda s: schedule(s, steps, args.matrix_rate),
        weight_decay=0.01,
        consistent_rms=0.2,
        adam_learning_rate=lambda s: schedule(s, steps, args.other_rate),
        adam_b2=0.98,
        muon_weight_dimension_numbers=matrices,
    )
    state = optimizer.init(params)
    first = 0
    checkpoint = out / "training.npz"
    if checkpoint.exists():
        with np.load(checkpoint) as held:
            *leaves, first = (held[name] for name in held.files)
        params, state = jax.tree.unflatten(jax.tree.structure((params, state)), jax.device_put(leaves))
        first = int(first)

    def loss_of(params: Params, teacher: Params | None, tokens: jax.Array) -> jax.Array:
        if teacher is None:
            return nll(params, tokens, shape).mean()
        return distance(params, teacher, tokens, shape, Shape()).mean()

    @jax.jit
    def update(params: Params, state: Any, teacher: Params | None, tokens: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, teacher, tokens)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    mean, saved = 0.0, time.monotonic()
    bar = tqdm(range(first, steps), initial=first, total=steps, unit="step", mininterval=10)
    for step in bar:
        length = args.length if step < steps * 0.9 else shape.max_positions
        rows = args.tokens_per_step // length
        starts = np.random.default_rng([args.seed, step]).integers(0, len(ids) - length - 1, rows)
        batch = np.stack([ids[s : s + length + 1] for s in starts]).astype(np.int32)
        params, state, loss = update(params, state, teacher, batch)
        mean = 0.98 * mean + 0.02 * float(loss) if step > first else float(loss)
        bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
        if time.monotonic() - saved > 300:
            np.savez(checkpoint, *jax.tree.leaves(jax.device_get((params, state))), np.array(step + 1))
            saved = time.monotonic()
    checkpoint.unlink(missing_ok=True)
    return params


def export(out: Path, params: Params, tokenizer: Tokenizer, shape: Shape) -> None:
    """Write the Hugging Face folder, weights in bfloat16; of the draft model without the tokenizer, which is the
    bundled one's."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.asarray(value.astype(jnp.bfloat16)) for name, value in params.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    end = tokenizer.token_to_id(END)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab, "hidden_size": shape.embed, "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "max_position_embeddings": shape.max_positions, "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.eps, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "bos_token_id": end, "eos_token_id": end, "initializer_range": 0.02,
    }  # fmt: skip
    _write_json(out / "config.json", config)
    if shape == DRAFT:
        return
    tokenizer.save(str(out / "tokenizer.json"))
    _write_json(out / "generation_config.json", {"bos_token_id": end, "eos_token_id": end})
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END,
            "model_max_length": shape.max_positions, "clean_up_tokenization_spaces": False,
            "add_bos_token": False, "chat_template": CHAT_TEMPLATE,
        },
    )  # fmt: skip


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stdlib", type=Path, help="folder of the standard library (default: this Python's)")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--draft-steps", type=int, default=2000)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--matrix-rate", type=float, default=4e-3)
    parser.add_argument("--other-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    corpus = read_corpus(args.stdlib)
    tokenizer_file = args.out / "tokenizer.json"
    shape = Shape()
    if tokenizer_file.exists():
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    else:
        tokenizer = train_tokenizer(corpus.train, shape.vocab)
        tokenizer.save(str(tokenizer_file))
    ids = encode_files(tokenizer, corpus.train, args.seed)
    train_bytes = sum(len(t.encode()) for t in corpus.train)
    print(f"training files: {len(corpus.train)}, {train_bytes:,} bytes, {len(ids):,} tokens", flush=True)

    if (args.out / "model.safetensors").exists():
        print("the model is there already", flush=True)
    else:
        make_model(args, shape, ids, tokenizer, corpus)
    make_draft(args, ids, tokenizer, corpus)


def make_model(args: argparse.Namespace, shape: Shape, ids: np.ndarray, tokenizer: Tokenizer, corpus: Corpus) -> None:
    """Train and write the bundled model."""
    params = train(args, shape, ids, out=args.out, steps=args.steps)
    export(args.out, params, tokenizer, shape)
    raw = corpus.held_out_bytes
    report = {
        "held_out_bytes": len(raw),
        "held_out_bits_per_byte": round(float(bits_per_byte(_rounded(params), tokenizer, corpus, shape)), 4),
        "xz_9_bits_per_byte": round(len(lzma.compress(raw, preset=9)) * 8 / len(raw), 4),
        "parameters": int(sum(value.size for value in params.values())),
        "training_tokens_seen": args.steps * args.tokens_per_step,
        "training_bytes": sum(len(text.encode()) for text in corpus.train),
    }
    _write_json(args.out / "report.json", report)
    print(json.dumps(report), flush=True)


def make_draft(args: argparse.Namespace, ids: np.ndarray, tokenizer: Tokenizer, corpus: Corpus) -> None:
    """Train the draft model on the model that is there, and write it."""
    out = args.out / "draft"
    out.mkdir(exist_ok=True)
    teacher = {
        name: jnp.asarray(value, jnp.float32) for name, value in load_file(args.out / "model.safetensors").items()
    }
    params = train(args, DRAFT, ids, out=out, steps=args.draft_steps, teacher=teacher)
    export(out, params, tokenizer, DRAFT)
    report = {
        "held_out_agreement": round(agreement(_rounded(params), teacher, tokenizer, corpus), 4),
        "parameters": int(sum(value.size for value in params.values())),
        "training_tokens_seen": args.draft_steps * args.tokens_per_step,
    }
    _write_json(out / "report.json", report)
    print(json.dumps(report), flush=True)


def _rounded(params: Params) -> Params:
    """As they are written."""
    return {name: value.astype(jnp.bfloat16).astype(jnp.float32) for name, value in params.items()}


if __name__ == "__main__":
    main()
