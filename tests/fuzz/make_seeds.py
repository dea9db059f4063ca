#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets over files: cut-down copies of models/, and small files of other kinds.

    tests/fuzz/make_seeds.py

The seeds of message targets are written by hand, as are those that a fuzzer found: this leaves them alone.
"""

import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/fuzz/corpus"
TINY = ROOT / "models/quire-tiny"


def write(target, name, data):
    file = CORPUS / target / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())


def sections(**files):
    """The text of an input of several files (sections.h); "__" stands for "." in names."""
    return "".join(f"@@ {name.replace('__', '.')}\n{text}\n" for name, text in files.items())


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- safetensors ---

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1, "F64": 8, "BOOL": 1}


def safetensors(tensors, metadata=None, cut=0, pad=b"", length=None):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes((7 * i + len(data)) % 256 for i in range(size))
    text = compact(header).encode() + pad
    file = struct.pack("<Q", len(text) if length is None else length) + text + data
    return file[:len(file) - cut]


def safetensors_seeds():
    with (TINY / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    names = [name for name in header if name != "__metadata__"][:4]
    write("safetensors", "tiny", safetensors({name: (header[name]["dtype"], [2, 3]) for name in names},
                                             header.get("__metadata__")))
    write("safetensors", "empty", safetensors({}))
    write("safetensors", "scalar", safetensors({"a": ("F32", [])}, pad=b"   "))
    write("safetensors", "no_elements", safetensors({"a": ("F32", [0, 4]), "b": ("BF16", [2])}))
    write("safetensors", "dtypes", safetensors({dtype: (dtype, [2]) for dtype in BYTES}))
    write("safetensors", "rank_8", safetensors({"a": ("U8", [1, 1, 1, 2, 1, 1, 1, 2])}))
    write("safetensors", "truncated", safetensors({"a": ("F32", [4])}, cut=3))
    write("safetensors", "long_header", safetensors({"a": ("F32", [1])}, length=2**63))
    write("safetensors", "not_json", struct.pack("<Q", 2) + b"{]")
    write("safetensors", "short", b"\x01\x02")
    huge = compact({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}).encode()
    write("safetensors", "shape_overflows", struct.pack("<Q", len(huge)) + huge)
    bits = compact({"a": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]}}).encode()
    write("safetensors", "four_bits", struct.pack("<Q", len(bits)) + bits + b"abc")
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    write("safetensors", "name_twice", struct.pack("<Q", len(twice)) + twice + b"x")


# --- config.json ---


def config_seeds():
    tiny = json.loads((TINY / "config.json").read_text())
    generation = json.loads((TINY / "generation_config.json").read_text())
    write("model_config", "tiny", sections(config__json=compact(tiny), generation_config__json=compact(generation)))
    for shape in sorted((ROOT / "models/shapes").iterdir()):
        config = json.loads((shape / "config.json").read_text())
        write("model_config", shape.name, sections(config__json=compact(config)))
    mistral = {**tiny, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 128}
    write("model_config", "mistral", sections(config__json=compact(mistral)))
    qwen3 = {**tiny, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False,
             "rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}}
    write("model_config", "qwen3", sections(config__json=compact(qwen3)))
    sampling = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.05,
                "eos_token_id": [2, 7], "bos_token_id": 1, "pad_token_id": 0, "do_sample": True, "max_new_tokens": 9,
                "min_new_tokens": 2}
    write("model_config", "sampling", sections(config__json=compact(tiny), generation_config__json=compact(sampling)))
    wrong = {**sampling, "temperature": -1, "top_p": 0, "eos_token_id": 99999}
    write("model_config", "wrong_sampling",
          sections(config__json=compact(tiny), generation_config__json=compact(wrong)))
    write("model_config", "bias", sections(config__json=compact({**tiny, "attention_bias": True, "mlp_bias": True})))
    write("model_config", "quantized",
          sections(config__json=compact({**tiny, "quantization_config": {"quant_method": "gptq", "bits": 4}})))
    write("model_config", "empty", sections(config__json="{}"))
    write("model_config", "not_json", sections(config__json="{", generation_config__json="[]"))


# --- tokenizer.json ---


def byte_spellings():
    next_free, spellings = 0x100, []
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
        spellings.append(chr(byte if printable else next_free))
        next_free += not printable
    return spellings


def added(number, content, special=True):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


def tokenizer(model, decoder, tokens=(), **parts):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(tokens), "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": decoder, "model": model, **parts}


def bpe(tokens, merges=(), **parts):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": list(merges), **parts}


def tokenizer_seeds():
    tiny = json.loads((TINY / "tokenizer.json").read_text())
    tiny["model"]["merges"] = tiny["model"]["merges"][:8]
    made = {token for pair in tiny["model"]["merges"] for token in (*pair, "".join(pair))}
    special = [token["content"] for token in tiny["added_tokens"]]
    letters = [c for c in byte_spellings() if c not in made][:40]
    tiny["model"]["vocab"] = {token: i for i, token in enumerate([*special, *sorted(made), *letters])}
    config = (TINY / "tokenizer_config.json").read_text().strip()
    write("tokenizer", "tiny", sections(tokenizer__json=compact(tiny), tokenizer_config__json=config,
                                        text="in the beginning 12"))
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in (0x0A, 0xC3, 0xA9, 0xF0, 0x9F)), "\u2581", "\u2581the",
              "the", "a", "b", "ab", "\u00e9", ".", "'s"]
    llama = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    unknown = [added(0, "<unk>"), added(1, "<s>")]
    write("tokenizer", "byte_fallback", sections(
        tokenizer__json=compact(tokenizer(bpe(pieces, [["a", "b"]], unk_token="<unk>", byte_fallback=True), llama,
                                          unknown, normalizer={"type": "Prepend", "prepend": "\u2581"})),
        text="the ab\u00e9"))
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [[piece, -1.5] for piece in pieces], "byte_fallback": False}
    write("tokenizer", "unigram", sections(
        tokenizer__json=compact(tokenizer(unigram, spaces, unknown, pre_tokenizer=spaces)), text="the a's"))
    words = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(["[UNK]", "a", "b", "the"])},
             "unk_token": "[UNK]"}
    write("tokenizer", "word_level", sections(
        tokenizer__json=compact(tokenizer(words, None, pre_tokenizer={"type": "Whitespace"})),
        tokenizer_config__json='{"clean_up_tokenization_spaces":true}', text="the a b ."))
    word_piece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}}
    write("tokenizer", "word_piece", sections(
        tokenizer__json=compact(tokenizer(word_piece, {"type": "WordPiece", "prefix": "##", "cleanup": True}))))
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}|\s+(?!\S)|[^\s]+"}, "behavior": "Isolated",
             "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    letters = byte_spellings()
    write("tokenizer", "byte_level", sections(
        tokenizer__json=compact(tokenizer(
            bpe([*letters, letters[0xF0] + letters[0x9F], "\u0120the"]), byte_level,
            [added(258, "<s>"), added(259, "<t\u00e9>", False)],
            normalizer={"type": "NFC"},
            pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]},
            post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                                     {"Sequence": {"id": "A", "type_id": 0}}],
                            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [258], "tokens": ["<s>"]}}})),
        text="the <t\u00e9> 1234 \U0001F642"))
    named = {"added_tokens_decoder": {"0": added(0, "<unk>"), "900": {"content": "<new>"}}, "bos_token": "<s>",
             "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
             "extra_special_tokens": ["<x>", {"content": "<y>"}], "image_token": "<image>",
             "split_special_tokens": False}
    small = compact(tokenizer(bpe(["<unk>", "a", "b", "ab"], [["a", "b"]]), None))
    write("tokenizer", "named_tokens", sections(tokenizer__json=small, tokenizer_config__json=compact(named)))
    special_map = {"pad_token": "<pad>", "unk_token": {"content": "<unk>"}, "additional_special_tokens": ["<z>"]}
    write("tokenizer", "special_tokens_map", sections(
        tokenizer__json=small, tokenizer_config__json="{}", special_tokens_map__json=compact(special_map)))
    write("tokenizer", "config_not_object", sections(tokenizer__json=small, tokenizer_config__json="[]"))
    write("tokenizer", "not_json", sections(tokenizer__json="{"))
    write("tokenizer", "no_file", sections(tokenizer_config__json="{}"))


# --- chat templates ---

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " hi x "},
            {"role": "assistant", "content": "yes", "tool_calls": [{"name": "f", "arguments": {"a": 1.5}}]}]


def template_seeds():
    messages = compact(MESSAGES)
    write("chat_template", "tiny", sections(
        chat_template__jinja=(TINY / "chat_template.jinja").read_text().strip(),
        tokenizer_config__json=(TINY / "tokenizer_config.json").read_text().strip(), messages=messages))
    write("chat_template", "macros", sections(chat_template__jinja="""\
{{- bos_token }}
{%- macro part(content) %}{% if content is string %}{{ content | trim }}{% endif %}{% endmacro %}
{%- set ns = namespace(last=0) %}
{%- for message in messages[::-1] if message.role in ['user', 'assistant'] %}
  {%- if loop.index0 % 2 == 1 %}{% set ns.last = ns.last + loop.index %}{% endif %}
  {{- '<|' ~ message['role'].upper() ~ '|>' + part(message.content) }}
  {%- if message.tool_calls is defined %}{{ message.tool_calls | tojson(indent=2) }}{% endif %}
  {%- generation %}{{ message.content.split('x')[-1] }}{% endgeneration %}
{%- endfor %}""", messages=messages, tokenizer_config__json='{"bos_token":"<s>"}'))
    write("chat_template", "tools", sections(tokenizer_config__json=compact({
        "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"},
                          {"name": "tool_use", "template": "{{ tools | tojson }}{{ messages | length }}"}]}),
        tools='[{"name":"f","parameters":{"type":"object"}}]', messages=messages))
    write("chat_template", "refuses", sections(
        chat_template__jinja="{% if not tools %}{{ raise_exception('no tools') }}{% endif %}"))
    write("chat_template", "variables", sections(
        chat_template__jinja="{{ x.y[0] | upper }}{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}"
        "{% endif %}{{ '%s' % date_string | default('d') }}", variables='{"x":{"y":["a"]},"date_string":"today"}'))
    write("chat_template", "filters", sections(
        chat_template__jinja="{{ [3,1,2] | sort | join('-') }}{{ 'a b' | title }}{{ {'a': 1}.items() | list }}"
        "{{ 'x' * 3 }}{{ 7 // 2 }}{{ 2 ** 8 }}{{ 1.5 | round }}{{ 'abc'[1:] }}{{ 'a,b'.split(',') | first }}"
        "{{ messages | map(attribute='role') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list }}"
        "{{ '%05.2f' | format(3.14159) }}{{ 'x'.replace('x', 'y') }}{{ ' a '.strip() }}"))
    write("chat_template", "recursive", sections(
        chat_template__jinja="{% for x in messages recursive %}{% if loop.depth < 3 %}{{ loop(messages) }}{% endif %}"
        "{% endfor %}"))
    write("chat_template", "endless", sections(
        chat_template__jinja="{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"))
    write("chat_template", "syntax", sections(chat_template__jinja="{% for %}"))
    write("chat_template", "messages_not_json", sections(chat_template__jinja="{{ messages }}", messages="{"))
    write("chat_template", "no_template", sections(tokenizer_config__json="{}"))


def main():
    safetensors_seeds()
    config_seeds()
    tokenizer_seeds()
    template_seeds()


if __name__ == "__main__":
    main()
