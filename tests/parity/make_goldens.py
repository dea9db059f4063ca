"""Makes what the parity tests compare with: checkpoints and what transformers' generate() gives on them.

    make_goldens.py NAME FOLDER

NAME is llama, mistral, qwen2 or qwen3, for tiny random checkpoints, or quire-tiny, for that model. FOLDER gets
VARIATION/float32 and VARIATION/bfloat16, each the checkpoint in that dtype as save_pretrained writes it, and
goldens.bin, which holds, little-endian:

    int32 vocabulary, int32 prompts
    for each prompt:
        int32 prompt length, int32 new tokens
        int32 token ids, the prompt's and the new ones'
        float32 logits of every position but the last, vocabulary values each: those of the prompt from one forward
        pass, those of the new tokens as generate() saw them
"""

import os
import pathlib
import sys

os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAINED = "quire-tiny"

PROMPTS = 208  # of a name, in fp32
BFLOAT_PROMPTS = 48
LONGEST_PROMPT = 120
MOST_NEW_TOKENS = 16

SHAPE = dict(vocab_size=251, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.15)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=3.0)
MILLION = dict(rope_type="default", rope_theta=1e6)

VARIATIONS = {
    "llama": {
        "tied_gqa": dict(tie_word_embeddings=True),
        "llama3_rope_wide_heads": dict(rope_parameters=LLAMA3, head_dim=32),
        "linear_rope_biases_mha": dict(rope_parameters=LINEAR, attention_bias=True, mlp_bias=True,
                                       num_key_value_heads=4),
        "mqa_group_of_5": dict(hidden_size=80, num_attention_heads=5, num_key_value_heads=1),
    },
    "mistral": {
        "window_17": dict(sliding_window=17, head_dim=48),
        "window_64_tied": dict(sliding_window=64, tie_word_embeddings=True),
        "no_window": dict(sliding_window=None, rope_parameters=MILLION),
    },
    "qwen2": {
        "bias": dict(rope_parameters=MILLION),
        "bias_tied_group_of_7": dict(tie_word_embeddings=True, hidden_size=112, num_attention_heads=7,
                                     num_key_value_heads=1),
    },
    "qwen3": {
        "norms": dict(head_dim=32),
        "norms_tied_wide_heads": dict(head_dim=80, tie_word_embeddings=True, rope_parameters=MILLION),
        "norms_biases_mqa": dict(head_dim=16, attention_bias=True, num_key_value_heads=1),
    },
}


def make_model(family, overrides):
    config = getattr(transformers, family + "Config")(**{**SHAPE, **overrides})
    model = getattr(transformers, family + "ForCausalLM")(config)
    # Fresh biases are all 0 and fresh norms all 1: give each a part in the result.
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_prompt():
    length = int(torch.randint(1, LONGEST_PROMPT + 1, ()))
    return torch.randint(0, SHAPE["vocab_size"], (1, length)), int(torch.randint(1, MOST_NEW_TOKENS + 1, ()))


def text_prompt(ids):
    """`ids` are a text's, BOS first: the prompt is BOS and a random piece of it."""
    length = int(torch.randint(1, LONGEST_PROMPT + 1, ()))
    first = int(torch.randint(1, len(ids) - length, ()))
    prompt = torch.tensor([ids[:1] + ids[first : first + length - 1]])
    return prompt, int(torch.randint(1, MOST_NEW_TOKENS + 1, ()))


def write_goldens(folder, prompts):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    with open(folder / "goldens.bin", "wb") as file:
        numpy.array([model.config.vocab_size, len(prompts)], dtype="<i4").tofile(file)
        for ids, new_tokens in prompts:
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
                                 output_logits=True, return_dict_in_generate=True)
            logits = torch.cat([model(ids).logits[0, :-1], *out.logits]).float()
            numpy.array([ids.shape[1], new_tokens], dtype="<i4").tofile(file)
            out.sequences[0].numpy().astype("<i4").tofile(file)
            logits.numpy().astype("<f4").tofile(file)


def write_checkpoint(folder, model, prompts, bfloat_prompts):
    model.save_pretrained(folder / "float32")
    write_goldens(folder / "float32", prompts)
    model.to(torch.bfloat16).save_pretrained(folder / "bfloat16")
    write_goldens(folder / "bfloat16", prompts[:bfloat_prompts])


def write_random(architecture, root):
    torch.manual_seed(sorted(VARIATIONS).index(architecture))
    variations = VARIATIONS[architecture]
    for name, overrides in variations.items():
        model = make_model(architecture.capitalize(), overrides)
        prompts = [random_prompt() for _ in range(-(-PROMPTS // len(variations)))]
        write_checkpoint(root / name, model, prompts, BFLOAT_PROMPTS // len(variations))


def write_trained(root):
    torch.manual_seed(len(VARIATIONS))
    checkpoint = ROOT / "models" / TRAINED
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer((checkpoint / "README.md").read_text()).input_ids
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    write_checkpoint(root / TRAINED, model, [text_prompt(ids) for _ in range(PROMPTS)], BFLOAT_PROMPTS)


def main():
    name, root = sys.argv[1], pathlib.Path(sys.argv[2])
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if name == TRAINED:
        write_trained(root)
    else:
        write_random(name, root)


if __name__ == "__main__":
    main()
