"""Saves what transformers itself saves for the supported architectures, and its RoPE tables, for hf_checkpoints_test.

    hf_checkpoints.py FOLDER

FOLDER gets one sub-folder a variation: a model folder as save_pretrained writes it, plus rope.safetensors with cos and
sin of the first positions. It also gets checkpoints.json: for each folder the config values that the test compares.
"""

import json
import os
import pathlib
import sys

os.environ["TQDM_DISABLE"] = "1"

import torch
import transformers
from safetensors.torch import save_file

POSITIONS = 4096
SHAPE = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=8192)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=256)

VARIATIONS = {
    "llama": ("Llama", dict(), "float32", {}),
    "llama_tied_bf16": ("Llama", dict(tie_word_embeddings=True, head_dim=32), "bfloat16", {}),
    "llama_llama3_f16": ("Llama", dict(rope_parameters=LLAMA3, eos_token_id=[3, 2]), "float16", {}),
    "llama_linear_biases": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=3.0),
                                          attention_bias=True, mlp_bias=True), "float32", {}),
    "mistral_sharded": ("Mistral", dict(sliding_window=17, head_dim=48), "bfloat16", dict(max_shard_size="40KB")),
    "mistral_no_window": ("Mistral", dict(sliding_window=None, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
                          "float32", {}),
    "qwen2": ("Qwen2", dict(rope_parameters=dict(rope_type="default", rope_theta=1e6)), "bfloat16", {}),
    "qwen3": ("Qwen3", dict(head_dim=32, tie_word_embeddings=True), "bfloat16", {}),
    "qwen3_attention_bias": ("Qwen3", dict(head_dim=16, attention_bias=True), "float32", {}),
}


def main():
    root = pathlib.Path(sys.argv[1])
    facts = {}
    for number, (name, (family, overrides, dtype, save_options)) in enumerate(VARIATIONS.items()):
        torch.manual_seed(number)
        config = getattr(transformers, family + "Config")(**{**SHAPE, **overrides})
        model = getattr(transformers, family + "ForCausalLM")(config)
        inv_freq = model.model.rotary_emb
        cos, sin = inv_freq(torch.zeros(1), torch.arange(POSITIONS)[None])
        model = model.to(getattr(torch, dtype))
        model.save_pretrained(root / name, **save_options)
        half = cos.shape[-1] // 2
        save_file({"cos": cos[0, :, :half].contiguous(), "sin": sin[0, :, :half].contiguous()},
                  root / name / "rope.safetensors")
        state = model.state_dict()
        facts[name] = dict(
            architecture=family + "ForCausalLM", dtype=dtype, head_dim=config.head_dim if hasattr(config, "head_dim") else 16,
            eos=sorted([config.eos_token_id] if isinstance(config.eos_token_id, int) else config.eos_token_id or []),
            sliding_window=getattr(config, "sliding_window", None) or 0, tied=config.tie_word_embeddings,
            down_sum=state["model.layers.1.mlp.down_proj.weight"].double().sum().item(),
            norm_sum=state["model.norm.weight"].double().sum().item(),
            head_sum=state["lm_head.weight"].double().sum().item(),
            num_tensors=len(state) - config.tie_word_embeddings)
    (root / "checkpoints.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
