"""The tokenizer (byte-level BPE, 8,192 entries) and the tokenized corpus.

Token files hold documents one after another as little-endian uint16: a text is BOS text EOS, a dialogue
BOS (USER question ASSISTANT answer EOS)*. They are xz files, to travel lightly to the training machine.
"""

import json
import lzma
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
import transformers

VOCAB_SIZE = 8192
PAD, BOS, EOS, SYSTEM, USER, ASSISTANT = range(6)
SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>")
CONTEXT_TOKENS = 2048

# A message opens with its role's token; EOS ends what the assistant says.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<|system|>' + message.content }}
    {%- elif message.role == 'user' %}
        {{- '<|user|>' + message.content }}
    {%- elif message.role == 'assistant' %}
        {{- '<|assistant|>' + message.content + eos_token }}
    {%- else %}
        {{- raise_exception('unknown role: ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def documents(path: pathlib.Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def train(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """A GPT-2 style BPE over bytes; digits stand alone. BOS is put before every text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", BOS)])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert all(tokenizer.token_to_id(t) == i for i, t in enumerate(SPECIAL_TOKENS))
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, folder: pathlib.Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers writes them."""
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>",
        model_max_length=CONTEXT_TOKENS, clean_up_tokenization_spaces=False)
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def encode(tokenizer: tokenizers.Tokenizer, records: list[dict]) -> list[np.ndarray]:
    """Token ids of each record, BOS and EOS included."""
    pieces = [piece for r in records for piece in (r["turns"] if "turns" in r else [r["text"]])]
    encoded = iter(tokenizer.encode_batch(pieces, add_special_tokens=False))
    result = []
    for record in records:
        if "turns" in record:
            ids = [BOS]
            for i in range(len(record["turns"])):
                ids += [ASSISTANT if i % 2 else USER, *next(encoded).ids]
                if i % 2:
                    ids.append(EOS)
        else:
            ids = [BOS, *next(encoded).ids, EOS]
        result.append(np.array(ids, dtype="<u2"))
    return result


def record_bytes(record: dict) -> int:
    """UTF-8 bytes that bits per byte counts: the text alone, no special token."""
    return sum(len(t.encode()) for t in (record["turns"] if "turns" in record else [record["text"]]))


def make(corpus: pathlib.Path, out: pathlib.Path) -> None:
    """Trains the tokenizer, then writes it and {train_1,train_2,train_3,held_out}.u16.xz.

    train_N holds the documents that the training split repeats N times.
    """
    out.mkdir(parents=True, exist_ok=True)
    # A third of the documents is enough to count pairs.
    tokenizer = train("\n".join(r["turns"]) if "turns" in r else r["text"]
                      for i, r in enumerate(documents(corpus / "train.jsonl")) if i % 3 == 0)
    save(tokenizer, out)
    facts = {}
    for split in ("held_out", "train"):
        files: dict[str, lzma.LZMAFile] = {}
        batch: list[dict] = []
        tokens = size = count = 0

        def flush() -> None:
            nonlocal tokens
            for record, ids in zip(batch, encode(tokenizer, batch)):
                name = split if split == "held_out" else f"train_{record['repeats']}"
                if name not in files:
                    files[name] = lzma.open(out / f"{name}.u16.xz", "wb", preset=2)
                files[name].write(ids.tobytes())
                tokens += len(ids)
            batch.clear()

        for record in documents(corpus / f"{split}.jsonl"):
            batch.append(record)
            size += record_bytes(record)
            count += 1
            if len(batch) == 512:
                flush()
        flush()
        for file in files.values():
            file.close()
        facts[split] = {"documents": count, "bytes": size, "tokens": tokens}
        print(split, facts[split], flush=True)
    (out / "facts.json").write_text(json.dumps(facts))
