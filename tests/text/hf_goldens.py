"""Writes tokenizers of several kinds and what transformers makes of them: ids, texts, rendered chats.

    hf_goldens.py OUT EMBEDDED_MODEL

OUT/NAME gets the files of a model folder, OUT/goldens.json what must come out.
"""

import json
import pathlib
import random
import shutil
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from template_cases import CHAT_TEMPLATES, CHATS, EXPRESSION_TEMPLATES, TOOLS

WORDS = """the quick brown fox jumps over the lazy dog and it's don't we've they're I'm 'quoted' n't
for (int i = 0; i < 10; ++i) { total += values[i]; } return total; def f(x): return x * 2
Die Straße über größere Brücken führt nach Köln. Où est la bibliothèque? ¿Qué tal, señor? Привет, как дела?
日本語の文章です。 中文字符测试。 한국어 문장입니다. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 🙂 👩‍👩‍👧 🇩🇪 e\u0301 ﬁ ½ Ⅷ
1 22 333 4444 3.14159 1,000,000 0x1F4A9 a@b.c https://x.y/z?q=1#top    indented\ttabs\r\nlines\n\n\nend""".split(" ")
SPECIAL_TEXTS = ["", " ", "  leading", "trailing  ", "\n", "a\u0000b", "\ufeffbom", "\U0010ffff", "x" * 300,
                 "<s>hi</s>", "<|im_start|>user\nhi<|im_end|>", "<tool_call>{}</tool_call>", "< s>", " <|bos|> hi",
                 "<unk><pad>", "word<image>word", "Hello , world . It 's ' fine ' !"]
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def corpus(rng):
    return [" ".join(rng.choices(WORDS, k=12)) for _ in range(600)]


def special(*contents):
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def byte_level(rng, split, specials, others=(), normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(rng), trainer)
    tokenizer.add_special_tokens(special(*specials))
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in others])
    return tokenizer


def qwen(rng):
    tokenizer = byte_level(rng, QWEN_SPLIT, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                           ["<tool_call>", "</tool_call>"], normalizers.NFC())
    return tokenizer, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None,
                       "add_bos_token": True, "image_token": "<image>"}


def llama3(rng):
    tokenizer = byte_level(rng, LLAMA3_SPLIT, ["<|begin_of_text|>", "<|eot_id|>"], ignore_merges=True)
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]),
    ])
    added = {str(id_): json.loads(json.dumps({"content": token.content, "lstrip": token.lstrip, "rstrip": token.rstrip,
                                              "single_word": token.single_word, "normalized": token.normalized,
                                              "special": token.special}))
             for id_, token in tokenizer.get_added_tokens_decoder().items()}
    added["5000"] = {"content": "<late>", "lstrip": True, "rstrip": True, "single_word": False, "normalized": False,
                     "special": False}
    return tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "unk_token": "<unk>",
                       "added_tokens_decoder": added, "extra_special_tokens": ["<|extra|>"],
                       "clean_up_tokenization_spaces": True}


def sentencepiece(rng, legacy):
    """BPE with byte fallback, as converted from SentencePiece; legacy: Llama 2's normalizer, else Mistral's later form."""
    vocab_size = 700
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, limit_alphabet=120, show_progress=False)
    trained.train_from_iterator(corpus(rng), trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = {token: id_ for id_, token in enumerate(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])}
    for token in sorted(model["vocab"], key=model["vocab"].get):
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in model["merges"]], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                               decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.enable_truncation(8)
    return tokenizer, {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False,
                                                         "normalized": False, "rstrip": False, "single_word": False},
                       "unk_token": "<unk>", "add_eos_token": True}


def unigram(rng):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(corpus(rng), trainers.UnigramTrainer(
        vocab_size=400, unk_token="<unk>", special_tokens=["<pad>", "<unk>", "</s>"], show_progress=False))
    return tokenizer, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                       "clean_up_tokenization_spaces": True}


def word_level(rng):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(corpus(rng), trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"], show_progress=False))
    return tokenizer, {"unk_token": "<unk>", "pad_token": "<pad>", "split_special_tokens": True}


def save(folder, tokenizer, config, special_tokens_map=None):
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if special_tokens_map:
        (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))


def texts(rng):
    yield from SPECIAL_TEXTS
    for _ in range(60):
        yield " ".join(rng.choices(WORDS + SPECIAL_TEXTS[-8:], k=rng.randint(1, 14)))
    for _ in range(20):
        points = (rng.choice([rng.randint(1, 0x7F), rng.randint(0x80, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])
                  for _ in range(rng.randint(1, 20)))
        yield "".join(map(chr, points))


def id_lists(rng, hf, encoded):
    """Cut and spliced encodings, and random ids: broken characters, special tokens, ids without a token."""
    size = len(hf)
    for ids in encoded:
        if len(ids) > 2:
            cut = sorted(rng.sample(range(len(ids)), 2))
            yield ids[cut[0]:cut[1]]
    for _ in range(120):
        yield [rng.randrange(size) for _ in range(rng.randint(0, 24))]
    for _ in range(20):
        yield [rng.randrange(min(size, 262)) for _ in range(24)] + [size + 7]


def render(hf, **arguments):
    try:
        return {"text": hf.apply_chat_template(tokenize=False, **arguments)}
    except Exception as error:  # any refusal counts: jinja2's classes are many
        return {"error": str(error)}


def chat_goldens(hf):
    for template in [None] + CHAT_TEMPLATES + EXPRESSION_TEMPLATES:
        if template is None and not hf.chat_template:
            continue
        for messages, variables in CHATS:
            for tools in (None, TOOLS):
                for add_generation_prompt in (False, True):
                    if template in EXPRESSION_TEMPLATES and (tools is None or not add_generation_prompt):
                        continue
                    result = render(hf, conversation=messages, tools=tools, chat_template=template,
                                    add_generation_prompt=add_generation_prompt, **variables)
                    yield {"template": template, "messages": messages, "tools": tools, "variables": variables,
                           "add_generation_prompt": add_generation_prompt, **result}


def main():
    out, embedded = map(pathlib.Path, sys.argv[1:])
    rng = random.Random(7)
    save(out / "qwen", *qwen(rng))
    save(out / "llama3", *llama3(rng))
    save(out / "llama2", *sentencepiece(rng, legacy=True))
    save(out / "mistral", *sentencepiece(rng, legacy=False),
         special_tokens_map={"pad_token": {"content": "<pad>", "lstrip": False, "normalized": False, "rstrip": True,
                                           "single_word": False}})
    save(out / "unigram", *unigram(rng))
    save(out / "word_level", *word_level(rng))
    shutil.copytree(embedded, out / "embedded", ignore=shutil.ignore_patterns("*.safetensors"))

    goldens = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        hf = AutoTokenizer.from_pretrained(folder)
        encode, decode = [], []
        for text in texts(rng):
            for add in (False, True):
                encode.append({"text": text, "add_special_tokens": add, "ids": hf(text, add_special_tokens=add)["input_ids"]})
        for ids in id_lists(rng, hf, [case["ids"] for case in encode]):
            for skip in (False, True):
                decode.append({"ids": ids, "skip_special_tokens": skip, "text": hf.decode(ids, skip_special_tokens=skip)})
        goldens[folder.name] = {"encode": encode, "decode": decode, "size": len(hf)}
        if folder.name in ("embedded", "llama3"):
            goldens[folder.name]["chats"] = list(chat_goldens(hf))
    (out / "goldens.json").write_text(json.dumps(goldens))


if __name__ == "__main__":
    main()
