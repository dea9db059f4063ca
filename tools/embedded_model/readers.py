"""Readers: one file of a Debian package in, plain documents out.

Every reader takes the file's bytes (already decompressed when the name ends in .gz) and its path and
yields documents as text. They strip markup only; corpus.py cleans, deduplicates and splits.
"""

import gzip
import html as html_lib
import json
import pathlib
import re
import struct
import zlib
from collections.abc import Iterator

# Dictionaries and scripts come as one large file: they are cut into documents of about this size.
_CHUNK_CHARS = 12_000


def decode(data: bytes) -> str:
    """UTF-8, or Latin-1 where the file is older than that."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _chunks(blocks: Iterator[str], separator: str) -> Iterator[str]:
    """Joins consecutive blocks to documents of about _CHUNK_CHARS characters."""
    pending: list[str] = []
    size = 0
    for block in blocks:
        pending.append(block)
        size += len(block)
        if size >= _CHUNK_CHARS:
            yield separator.join(pending)
            pending, size = [], 0
    if pending:
        yield separator.join(pending)


def plain(data: bytes, path: pathlib.Path) -> Iterator[str]:
    del path
    yield decode(data)


_HTML_DROP = re.compile(
    r"<!--.*?-->|<(script|style|head|nav|header|footer|svg|math)\b.*?</\1\s*>|<!DOCTYPE[^>]*>", re.S | re.I)
_HTML_MAIN = re.compile(r"""<(?:div|main|section|article)\b[^>]*\brole=["']main["'][^>]*>""", re.I)
_HTML_PRE = re.compile(r"(<(pre|screen|code-block)\b[^>]*>.*?</\2\s*>)", re.S | re.I)
_HTML_BLOCK = re.compile(
    r"</?(?:p|div|h[1-6]|ul|ol|dl|dt|dd|table|tr|section|blockquote|title|note|steps|item|page|body)\b[^>]*>",
    re.I)
_HTML_ITEM = re.compile(r"<li\b[^>]*>", re.I)
_HTML_CELL = re.compile(r"</t[dh]\s*>", re.I)
_HTML_BREAK = re.compile(r"<br\b[^>]*>", re.I)
_HTML_TAG = re.compile(r"<[^<>]*>")


def html_to_text(text: str) -> str:
    """Text of an HTML (or DocBook, Mallard) page; line structure is kept inside <pre>."""
    main = _HTML_MAIN.search(text)
    if main:
        text = text[main.end():]
    text = _HTML_DROP.sub(" ", text)
    parts = []
    position = 0
    for pre in _HTML_PRE.finditer(text):
        parts.append(_flow_text(text[position:pre.start()]))
        parts.append("\n\n" + _HTML_TAG.sub("", _HTML_BREAK.sub("\n", pre.group(1))).strip("\n") + "\n\n")
        position = pre.end()
    parts.append(_flow_text(text[position:]))
    text = re.sub(r"^- *\n+(?=\S)", "- ", "".join(parts), flags=re.M)  # <li><p>: the bullet joins its paragraph.
    return html_lib.unescape(text).replace("\u00b6", "").replace("\uf0c1", "")


def _flow_text(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    text = _HTML_ITEM.sub("\n- ", text)
    text = _HTML_CELL.sub("  ", text)
    text = _HTML_BREAK.sub("\n", text)
    text = _HTML_BLOCK.sub("\n\n", text)
    text = _HTML_TAG.sub("", text)
    return re.sub(r"[ \t]*\n[ \t]*", "\n", text)


def html(data: bytes, path: pathlib.Path) -> Iterator[str]:
    del path
    yield html_to_text(decode(data))


def markdown(data: bytes, path: pathlib.Path) -> Iterator[str]:
    del path
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", decode(data))  # Links keep their words.
    text = re.sub(r"\\([\[\]().*_#-])", r"\1", text)
    text = text.replace("**", "").replace("_", "")
    # Wrapped lines of a paragraph become one.
    yield re.sub(r"(?<=[^\n]) *\n(?=[^\n\s#*>-])", " ", text)


def fortunes(data: bytes, path: pathlib.Path) -> Iterator[str]:
    if path.suffix in (".dat", ".u8") or b"\0" in data:
        return
    yield from _chunks(iter(re.split(r"\n%\n", decode(data))), "\n\n")


def dictd(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """A dictd database: gzip with entries one after another; an unindented line starts an entry."""
    del path
    text = decode(gzip.decompress(data))
    yield from _chunks(iter(re.split(r"\n(?=\S)", text)), "\n")


_ROFF_ESCAPES = (
    (re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)"), ""),
    (re.compile(r"\\s[-+]?\d+"), ""),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\[(?:aq|cq|oq)\]"), "'"),
    (re.compile(r"\\\((?:lq|rq|dq)|\\\[(?:lq|rq|dq)\]|\\\*\([lr]q"), '"'),
    (re.compile(r"\\\((?:em|en|hy)|\\\[(?:em|en|hy)\]|\\-"), "-"),
    (re.compile(r"\\\(bu|\\\[bu\]"), "*"),
    (re.compile(r"\\\(ha|\\\[ha\]"), "^"),
    (re.compile(r"\\\(ti|\\\[ti\]"), "~"),
    (re.compile(r"\\\(rs|\\\[rs\]|\\e"), r"\\"),
    (re.compile(r"\\[&%/,|^:c)]|\\\*\(..|\\\*\[[^\]]*\]|\\\*.|\\\(..|\\\[[^\]]*\]"), ""),
    (re.compile(r"\\[ ~0]"), " "),
)
_ROFF_SILENT = {"TH", "nf", "fi", "EX", "EE", "RS", "RE", "ad", "na", "hy", "nh", "in", "ft", "ta", "sp", "ne",
                "ie", "el", "if", "de", "ds", "so", "nr", "Dd", "Dt", "Os", "Bl", "El", "Bd", "Ed", "rm",
                "VS", "VE", "BS", "BE", "AS", "ll", "ti", "UE", "ME", "als", "TE", "TS", "Op", "tr"}


def roff(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """A man(7) or mdoc(7) page: headings, paragraphs and words; requests and fonts go."""
    del path
    out: list[str] = []
    skipping = False
    for line in decode(data).splitlines():
        if skipping:  # Inside a macro definition.
            skipping = line.strip() != ".."
            continue
        if line.startswith((".\\\"", "'\\\"", '.."', "'")):
            continue
        if line.startswith("."):
            words = line[1:].strip().split(None, 1)
            if not words:
                continue
            request, arguments = words[0], (words[1] if len(words) > 1 else "")
            if request == "de":
                skipping = True
                continue
            if request in _ROFF_SILENT:
                continue
            arguments = arguments.replace('"', "") if request in ("SH", "SS", "TP", "IP", "Sh", "Ss") else arguments
            if request in ("SH", "SS", "Sh", "Ss"):
                out.append(f"\n\n{arguments}\n")
            elif request in ("PP", "P", "LP", "Pp", "TP", "HP", "IP", "It", "TQ"):
                out.append("\n\n" + re.sub(r"\s\d+$", "", arguments).strip() + ("\n" if arguments else ""))
            elif request in ("BR", "RB", "IR", "RI", "BI", "IB"):
                # These alternate fonts and join their words.
                joined = "".join(quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', arguments))
                out.append(joined + "\n")
            else:
                out.append(re.sub(r"\b(?:Ar|Fl|Nm|Xr|Pa|Cm|Dv|Fa|Fn|Vt|Va|Ns|Li|Er|Ev|Ic|Sy|Em|Tn|Bx|Pf)\b ", "",
                                  arguments.replace('"', "")) + "\n")
        else:
            out.append(line + "\n")
    text = "".join(out)
    for pattern, replacement in _ROFF_ESCAPES:
        text = pattern.sub(replacement, text)
    yield text


def pod(data: bytes, path: pathlib.Path) -> Iterator[str]:
    del path
    text = decode(data)
    for _ in range(2):  # Codes nest.
        text = re.sub(r"[BICFSX]<<+ (.*?) >>+", r"\1", text, flags=re.S)
        text = re.sub(r"[BICFSX]<([^<>]*)>", r"\1", text)
    text = re.sub(r"L<(?:[^|<>]*\|)?([^<>]*)>", r"\1", text)
    for name, character in (("lt", "<"), ("gt", ">"), ("sol", "/"), ("verbar", "|")):
        text = text.replace(f"E<{name}>", character)
    text = re.sub(r"^=head\d\s+", "", text, flags=re.M)
    text = re.sub(r"^=item\s+", "- ", text, flags=re.M)
    yield re.sub(r"^=(?:over|back|cut|pod|encoding|for|begin|end)\b.*$", "", text, flags=re.M)


_WORDNET_KINDS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def wordnet_synsets(data: bytes) -> Iterator[tuple[list[str], str, str]]:
    """(words, part of speech, gloss) of every synset; the format is described in wndb(5WN)."""
    for line in decode(data).splitlines():
        if line.startswith(" ") or "|" not in line:
            continue
        fields, gloss = line.split("|", 1)
        fields = fields.split()
        count = int(fields[3], 16)
        words = [re.sub(r"\([a-z]+\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(count)]
        yield words, _WORDNET_KINDS[fields[2]], gloss.strip()


def wordnet(data: bytes, path: pathlib.Path) -> Iterator[str]:
    del path
    yield from _chunks((f"{', '.join(words)} ({kind}): {gloss}" for words, kind, gloss in wordnet_synsets(data)),
                       "\n\n")


def sword(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """A zText module of the SWORD project: the .bzs index beside it lists zlib blocks, a book each."""
    index = path.with_suffix(".bzs").read_bytes()
    for offset, size, _ in struct.iter_unpack("<III", index):
        if size == 0:
            continue
        text = decode(zlib.decompress(data[offset:offset + size]))
        text = re.sub(r"<note\b.*?</note>|<title\b.*?</title>", "", text, flags=re.S)
        text = html_lib.unescape(re.sub(r"<[^>]*>", " ", text.replace("</chapter>", "\n\n")))
        yield re.sub(r" +([,.;:?!\u2019'])", r"\1", re.sub(r"[ \t\r]+", " ", text))


# A CHARSXP of R's serialization (XDR): flags with type 9, then the length.
_R_STRING = re.compile(rb"\x00[\x00-\x04][\x00\x80\x40]\x09(....)", re.S)


def r_strings(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """The character vectors of an R lazy-load database: chunks of length (4 bytes) and zlib data."""
    del path
    position = 0
    while position + 4 < len(data):
        inflater = zlib.decompressobj()
        raw = inflater.decompress(data[position + 4:])
        position = len(data) - len(inflater.unused_data)
        lines = []
        cursor = 0
        while match := _R_STRING.search(raw, cursor):
            length = struct.unpack(">I", match.group(1))[0]
            if length > 10_000:
                cursor = match.start() + 1
                continue
            lines.append(decode(raw[match.end():match.end() + length]))
            cursor = match.end() + length
        text = "\n".join(lines)
        # Wrapped lines of a paragraph become one; a chapter is a document.
        text = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
        yield from re.split(r"\n(?=(?:CHAPTER|Chapter) [\dIVXL]+)", text)


def wesnoth(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """Dialogue, stories and descriptions of a scenario file."""
    del path
    found = re.findall(r'\b(?:message|story|description|text|objective|note|summary)\s*=\s*_\s*"((?:[^"]|"")*)"',
                       decode(data))
    yield html_lib.unescape(re.sub(r"<[^>]*>", "", "\n\n".join(found).replace('""', '"')))


def endless_sky(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """Conversations and descriptions: the back-quoted strings, in order."""
    del path
    yield from _chunks(iter(re.findall(r"`([^`]{12,})`", decode(data))), "\n\n")


def cataclysm(data: bytes, path: pathlib.Path) -> Iterator[str]:
    """Descriptions and texts of the game's JSON entities."""
    try:
        root = json.loads(decode(data))
    except json.JSONDecodeError:
        return
    found: list[str] = []

    def walk(node: object, key: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, key if name in ("str", "str_sp") else name)
        elif isinstance(node, list):
            for value in node:
                walk(value, key)
        elif isinstance(node, str) and key in ("text", "description", "dynamic_line") and len(node) > 40:
            found.append(re.sub(r"</?[a-z_]+>", "", node))

    walk(root, "")
    del path
    yield from _chunks(iter(found), "\n\n")
