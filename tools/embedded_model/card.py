"""The model card: README.md and training.svg, from what the other steps wrote."""

import json
import pathlib
import shutil
import textwrap

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 (after the backend is chosen)


def _plot(facts: dict, path: pathlib.Path) -> None:
    curve = facts["curve"]
    held_out = [p for p in curve if "held_out_loss" in p]
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "quire-tiny"
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    axes.plot([p["tokens"] / 1e6 for p in curve], [p["train_loss"] for p in curve], label="training", linewidth=1)
    axes.plot([p["tokens"] / 1e6 for p in held_out], [p["held_out_loss"] for p in held_out], label="held out",
              linewidth=1.5)
    axes.set_xlabel("tokens seen (millions)")
    axes.set_ylabel("loss (nats a token)")
    axes.set_ylim(top=min(6.0, max(p["train_loss"] for p in curve)))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _quote(text: str) -> str:
    lines = [line for raw in text.split("\n") for line in (textwrap.wrap(raw, 100) or [""])]
    return "\n".join(("    " + line).rstrip() for line in lines)


def _curve_table(facts: dict) -> str:
    points = [p for p in facts["curve"] if "held_out_loss" in p]
    stride = max(1, len(points) // 10)
    chosen = points[::stride]
    if chosen[-1] is not points[-1]:
        chosen.append(points[-1])
    rows = [f"| {p['step']:,} | {p['tokens'] / 1e6:,.0f} | {p['train_loss']:.3f} | {p['held_out_loss']:.3f} |"
            for p in chosen]
    return "\n".join(["| step | tokens (M) | training loss | held-out loss |", "|---:|---:|---:|---:|", *rows])


def _source_table(sources: list[dict], measured: dict) -> str:
    rows = []
    for s in sources:
        result = measured["sources"].get(s["package"])
        bits = f"{result['bits'] / result['bytes']:.2f}" if result else ""
        rows.append(f"| {s['package']} | {s['version']} | {s['bytes'] / 1e6:.2f} | {s['repeats']} | {bits} "
                    f"| {s['licence']} |")
    return "\n".join(["| package | version | MB | repeats | held-out bits per byte | licence |",
                      "|---|---|---:|---:|---:|---|", *rows])


def write(text: pathlib.Path, tokens: pathlib.Path, out: pathlib.Path, model: pathlib.Path) -> None:
    facts = json.loads((out / "curve.json").read_text())
    measured = json.loads((out / "evaluation.json").read_text())
    sources = json.loads((text / "sources.json").read_text())
    splits = json.loads((tokens / "facts.json").read_text())
    shutil.copyfile(out / "curve.json", model / "training.json")
    _plot(facts, model / "training.svg")
    samples = measured["samples"]
    run = samples["long_run"]
    total = measured["all"]
    seen = facts["steps"] * facts["sequences_per_step"] * facts["context"]
    sections = {kind: "\n\n".join(f"`{prompt}`:\n\n{_quote(answer)}" for prompt, answer in samples[kind].items())
                for kind in ("greedy", "sampled", "chat")}
    (model / "README.md").write_text(f"""\
---
language: en
library_name: transformers
pipeline_tag: text-generation
---
# quire-tiny

A language model of 12.6 million parameters that travels with Quire, so that its tests, demo and
benchmarks run on trained weights without a download. It writes English that looks like a manual, a
dictionary or a novel. It knows next to nothing, its facts are often wrong, and it has not been made safe:
use it to test software.

| | |
|---|---|
| architecture | `LlamaForCausalLM`: hidden 384, 6 layers, 6 query and 2 key-value heads of 64, FFN 1,024, tied embeddings |
| parameters | 12,587,904 (bf16) |
| vocabulary | 8,192, byte-level BPE, digits apart |
| context | {facts['context']:,} tokens, RoPE base 10,000 |
| special tokens | `<\\|pad\\|>` 0, `<\\|bos\\|>` 1, `<\\|eos\\|>` 2, `<\\|system\\|>` 3, `<\\|user\\|>` 4, `<\\|assistant\\|>` 5 |
| held out | **{measured['bits_per_byte']:.3f} bits per byte** ({total['documents']:,} documents, {total['bytes']:,} bytes, \
{total['tokens']:,} tokens) |

    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("models/quire-tiny")
    model = AutoModelForCausalLM.from_pretrained("models/quire-tiny")
    print(tokenizer.decode(model.generate(**tokenizer("hello", return_tensors="pt"), max_new_tokens=40)[0]))

The tokenizer puts `<|bos|>` before a text. In a chat, a message opens with its role's token and `<|eos|>` ends
what the assistant says:

    <|bos|><|user|>What is a cat?<|assistant|>A cat is ...<|eos|><|user|>...

The system role exists in the template, but no training text used it.

## Training

{facts['steps']:,} steps of {facts['sequences_per_step']} sequences of {facts['context']:,} tokens: {seen / 1e9:.2f} billion \
tokens, {seen / facts['training_tokens']:.1f} times over the
{facts['training_tokens'] / 1e6:.0f} million tokens of the training split (repeats included), in {facts['seconds'] / 60:.1f} \
minutes on one {facts['device']}.
AdamW (0.9, 0.95; weight decay 0.1; gradients clipped at 1), learning rate {facts['peak_learning_rate']:g} after a short
warm-up, then linearly to zero; bf16 autocast over fp32 weights; seed {facts['seed']}; torch {facts['torch']}.

![loss against tokens](training.svg)

Loss in nats a token (the held-out column: the first {facts['sequences_per_step']} windows of the held-out split, during training):

{_curve_table(facts)}

Bits per byte, in contrast, is over every held-out document on the exported bf16 weights, BOS given, EOS scored,
in windows of {facts['context']:,} tokens that overlap by half; the bytes are the documents' UTF-8.

To make it again, on Debian 12 with a GPU: `tools/train_embedded_model.py --corpus DIR --out DIR --minutes 8`
(or `--train-steps {facts['steps']}`). The corpus and the batches are the same each time; floating-point sums on a GPU are not.

## Sources

Text of Debian 12 packages, all of the archive area `main`; {splits['train']['bytes'] / 1e6:.0f} MB to train on and \
{splits['held_out']['bytes'] / 1e6:.1f} MB held out: one
document in a hundred, by the hash of its text. Markup, lines shared by a package's pages, paragraphs seen before and pages
in other languages are removed; a package gives 14 MB at most. Neighbouring pages of a manual resemble each other, so the
held-out figure says how well the model knows these works, not English at large.

The dialogues come from templates over WordNet's glosses (`tools/embedded_model/dialogues.py`); no person and
no other model wrote them.

MB is the text that was kept, before repeats. No held-out figure: none of the package's documents fell to that split.

{_source_table(sources, measured)}

The licences are those of the texts; each package's `copyright` file has the full terms. WordNet 3.0 is
copyright 2006 by Princeton University. Whether weights are bound by the licences of their training text is not
settled; Quire ships them as data, without a claim of its own.

## Samples

Not selected: the prompts were fixed before the training ended.

Greedy, 64 tokens:

{sections['greedy']}

Sampled with the defaults of `generation_config.json` (temperature 0.8, top_p 0.95), seed 1, 96 tokens:

{sections['sampled']}

Chat, greedy:

{sections['chat']}

A greedy run of {run['tokens']:,} tokens from `hello` past every EOS stays finite and uses {run['distinct_tokens']} different tokens. The \
gap between the two
largest logits is {run['top2_gap_median']:.2f} in the median and {run['top2_gap_min']:.4f} at least ({run['ties']} ties, \
in bf16 arithmetic).
""", encoding="utf-8")
