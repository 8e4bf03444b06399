"""Writes a GGUF file for llama.cpp from a float32 folder of `jaxpaged bench make-model`.

    ENV/bin/python make_gguf.py FOLDER FILE f32|f16|bf16|q8_0|q4_0

ENV needs numpy, safetensors and gguf. llama.cpp's own converter refuses tokenizers it does not know, the bundled one
among them. Here text is split by llama.cpp's default rule: give prompts as token ids, as `bench compare` does.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

_FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMAL_TOKEN, _CONTROL_TOKEN, _UNUSED_TOKEN = 1, 3, 5


def gguf_name(name):
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight."""
    stem, kind = name.rsplit(".", 1)
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{kind}"
    layer, rest = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[rest]}.{kind}"


def pairs_side_by_side(values, heads):
    """Rows of a query or key projection, [heads * D, ...], the two halves that rotate together made neighbours."""
    width = values.shape[0] // heads
    halves = values.reshape(heads, 2, width // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def tokens_of(folder, vocab):
    """(tokens, their types, merges), filled up to the model's vocabulary with tokens that stand for nothing."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    known.update(special)
    tokens = [known.get(index, f"[unused {index}]") for index in range(vocab)]
    types = [
        _CONTROL_TOKEN if index in special else _NORMAL_TOKEN if index in known else _UNUSED_TOKEN
        for index in range(vocab)
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return tokens, types, merges


def add_facts(writer, config, folder):
    """Sizes and tokens."""
    heads = config["num_attention_heads"]
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    tokens, types, merges = tokens_of(folder, config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def main(argv):
    """Write the file; returns the exit status."""
    folder, path, kind = Path(argv[1]), argv[2], argv[3]
    gguf, safetensors = import_module("gguf"), import_module("safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = config["model_type"]
    if architecture not in ("llama", "qwen2") or config.get("rope_scaling"):
        raise SystemExit(f"{folder} is {architecture}: only llama and qwen2 without rope_scaling are written")
    writer = gguf.GGUFWriter(path, architecture)
    add_facts(writer, config, folder)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
    quantised = gguf.GGMLQuantizationType[kind.upper()]
    with safetensors.safe_open(folder / "model.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            values = file.get_tensor(name)
            if architecture == "llama" and ".q_proj." in name:
                values = pairs_side_by_side(values, config["num_attention_heads"])
            if architecture == "llama" and ".k_proj." in name:
                values = pairs_side_by_side(values, config["num_key_value_heads"])
            if values.ndim == 1:  # norms and biases stay as they are
                writer.add_tensor(gguf_name(name), values.astype("float32"))
            else:
                writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
