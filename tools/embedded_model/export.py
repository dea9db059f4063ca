"""Writes the checkpoint in Hugging Face format and measures what was written.

Everything here reads the exported folder through transformers, in bf16 weights.
"""

import math
import pathlib
import shutil

import numpy as np
import torch
import transformers

from embedded_model import tokenizer as tokenizers_step
from embedded_model import training

GREEDY_PROMPTS = ("hello", "In the beginning", "The function returns", "It is a truth universally acknowledged,")
CHAT_PROMPTS = ("Hello!", "What is a cat?", "Define happiness.", "What is another word for big?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write(weights: pathlib.Path, tokens: pathlib.Path, out: pathlib.Path) -> None:
    """config.json, generation_config.json, model.safetensors (bf16) and the tokenizer's files."""
    shape = training.Shape()
    state = torch.load(weights, weights_only=True)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.context, rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, tie_word_embeddings=True,
        hidden_act="silu", attention_bias=False, mlp_bias=False, initializer_range=0.02,
        bos_token_id=tokenizers_step.BOS, eos_token_id=tokenizers_step.EOS, pad_token_id=tokenizers_step.PAD)
    model = transformers.LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict({f"model.{k}": v for k, v in state.items()}, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)  # It is tied.
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.8, top_p=0.95, bos_token_id=tokenizers_step.BOS,
        eos_token_id=tokenizers_step.EOS, pad_token_id=tokenizers_step.PAD)
    model.save_pretrained(out)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(tokens / name, out / name)


def document_nats(model: transformers.PreTrainedModel, ids: np.ndarray, context: int) -> float:
    """Negative log-likelihood of ids[1:], in windows of `context` that overlap by half."""
    total = 0.0
    scored = 1
    start = 0
    while scored < len(ids):
        window = torch.from_numpy(ids[start:start + context].astype(np.int64))[None].to(model.device)
        logits = model(window).logits[0, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
        fresh = scored - start - 1  # Targets before were scored in the window before.
        total += nats[fresh:].sum().item()
        scored = start + window.shape[1]
        start += context // 2
    return total


def measure(folder: pathlib.Path, corpus: pathlib.Path, max_documents_per_source: int) -> dict:
    """Held-out bits per byte, by source and over all, a document at a time with BOS before and EOS scored."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.bfloat16
    # bf16 weights, fp32 arithmetic: the figure is the weights'.
    torch.set_float32_matmul_precision("highest")
    model = model.float().to("cuda" if torch.cuda.is_available() else "cpu")
    by_source: dict[str, list[dict]] = {}
    for record in tokenizers_step.documents(corpus / "held_out.jsonl"):
        by_source.setdefault(record["source"], []).append(record)
    rows = {}
    with torch.inference_mode():
        for source, records in by_source.items():
            records = records[:max_documents_per_source]
            encoded = tokenizers_step.encode(tokenizer.backend_tokenizer, records)
            nats = sum(document_nats(model, ids, model.config.max_position_embeddings) for ids in encoded)
            rows[source] = {"documents": len(records), "bytes": sum(map(tokenizers_step.record_bytes, records)),
                            "tokens": int(sum(map(len, encoded))), "bits": nats / math.log(2)}
            print(f"{source}: {rows[source]['bits'] / rows[source]['bytes']:.3f} bits per byte", flush=True)
    total = {key: sum(row[key] for row in rows.values()) for key in ("documents", "bytes", "tokens", "bits")}
    return {"sources": rows, "all": total, "bits_per_byte": total["bits"] / total["bytes"]}


def samples(folder: pathlib.Path) -> dict:
    """Greedy and sampled continuations, chat answers, and a greedy run of 1,024 tokens with its logit gaps.

    On the CPU, in bf16.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    result: dict = {"greedy": {}, "sampled": {}, "chat": {}}
    for prompt in GREEDY_PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        assert inputs["input_ids"][0, 0] == tokenizers_step.BOS
        greedy = model.generate(**inputs, do_sample=False, max_new_tokens=64)
        result["greedy"][prompt] = tokenizer.decode(greedy[0], skip_special_tokens=True)
        torch.manual_seed(1)
        result["sampled"][prompt] = tokenizer.decode(model.generate(**inputs, max_new_tokens=96)[0],
                                                     skip_special_tokens=True)
    for prompt in CHAT_PROMPTS:
        inputs = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                               return_tensors="pt", return_dict=True)
        answer = model.generate(**inputs, do_sample=False, max_new_tokens=64)
        result["chat"][prompt] = tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    long = model.generate(**tokenizer("hello", return_tensors="pt"), do_sample=False, max_new_tokens=1024,
                          min_new_tokens=1024, output_logits=True, return_dict_in_generate=True)
    logits = torch.stack(long.logits)[:, 0].float()
    assert logits.isfinite().all() and len(logits) == 1024
    top = logits.topk(2).values
    gaps = (top[:, 0] - top[:, 1]).sort().values
    result["long_run"] = {"tokens": 1024, "distinct_tokens": len(set(long.sequences[0].tolist())),
                          "top2_gap_min": gaps[0].item(), "top2_gap_median": gaps[512].item(),
                          "ties": int((gaps == 0).sum())}
    return result
