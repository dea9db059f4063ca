"""Makes the corpus: fetches Debian packages, extracts text, cleans, deduplicates, splits.

Result, in the output folder: train.jsonl and held_out.jsonl with one document a line,
    {"source": package, "repeats": n, "text": ...}   or   {"source": ..., "repeats": n, "turns": [...]},
where turns alternate between user and assistant; and sources.json with package versions, licences and
sizes. The order and the split depend on the text alone, so the same packages give the same corpus.
Needs apt-get and dpkg (Debian 12 with its main archive area); installs nothing.
"""

import collections
import gzip
import hashlib
import json
import multiprocessing
import pathlib
import re
import subprocess
import unicodedata

from embedded_model import dialogues
from embedded_model import readers
from embedded_model import sources

# Reference manuals are long: past this many characters a package's further documents are left out, so that
# no manual dominates.
_MAX_PACKAGE_CHARS = 14_000_000
_MIN_DOCUMENT_CHARS = 200
# A document in a hundred, chosen by the hash of its text.
_HELD_OUT_OF = 100
# English function words; a page with fewer is a translation or a table.
_FUNCTION_WORDS = re.compile(r"\b(?:the|of|and|to|a|is|in|that|for|it|as|or|with|be|you)\b", re.I)
_MIN_FUNCTION_WORDS_PER_WORD = 0.08


def fetch(package: str, folder: pathlib.Path) -> dict[str, str]:
    """Unpacks the candidate version below folder/package and returns its name, version and area."""
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", package], check=True,
                           capture_output=True, text=True).stdout
    fields = dict(re.findall(r"^(Version|Filename|Section): (.*)$", shown, re.M))
    if "/main/" not in fields["Filename"] or "/" in fields["Section"]:
        raise SystemExit(f"{package}: not in Debian's area main ({fields['Filename']})")
    target = folder / package
    if not target.exists():
        archives = folder / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-q", "download", package], check=True, cwd=archives, capture_output=True)
        (archive,) = archives.glob(f"{package}_*.deb")
        partial = folder / f"{package}.partial"
        subprocess.run(["dpkg", "-x", archive, partial], check=True)
        partial.rename(target)
        archive.unlink()
    return {"package": package, "version": fields["Version"]}


def clean(text: str) -> str:
    """One form for all text: NFC, no control characters, no trailing blanks, at most one blank line."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\u00a0", " "))
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\u200b\u00ad]", "", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def is_english(text: str) -> bool:
    # Taken after the title page and the contents, if the text is long.
    start = len(text) // 4 if len(text) > 100_000 else 0
    sample = text[start:start + 20_000]
    words = len(re.findall(r"[^\W\d_]+", sample)) or 1
    foreign = sum(ord(c) > 0x17F for c in sample)
    return (len(_FUNCTION_WORDS.findall(sample)) / words >= _MIN_FUNCTION_WORDS_PER_WORD and
            foreign <= 0.03 * len(sample))


def read_package(arguments: tuple[sources.Source, pathlib.Path]) -> tuple[str, list[str]]:
    """Documents of one package, cleaned, without lines that its pages share (navigation, notices)."""
    source, root = arguments
    reader = getattr(readers, source.reader)
    paths = sorted({p for g in source.globs for p in root.glob(g) if p.is_file() and not p.is_symlink()})
    documents = []
    for path in paths:
        if source.exclude and re.search(source.exclude, str(path.relative_to(root))):
            continue
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        documents.extend(clean(text) for text in reader(data, path))
    pages_with = collections.Counter(line for text in documents for line in set(text.split("\n")) if len(line) > 3)
    shared = {line for line, pages in pages_with.items() if pages > max(12, len(documents) // 20)}
    kept = []
    for text in documents:
        text = clean("\n".join(line for line in text.split("\n") if line not in shared))
        if len(text) >= _MIN_DOCUMENT_CHARS and is_english(text):
            kept.append(text)
    # Which documents stay under the cap is drawn by hash, not by alphabet.
    kept.sort(key=digest)
    total = 0
    for count, text in enumerate(kept):
        total += len(text)
        if total > _MAX_PACKAGE_CHARS:
            return source.package, kept[:count]
    return source.package, kept


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


class ParagraphFilter:
    """Drops paragraphs of 80 characters or more that an earlier document had already."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, text: str) -> str:
        kept = []
        for paragraph in text.split("\n\n"):
            if len(paragraph) >= 80:
                key = digest(re.sub(r"\W+", "", paragraph).lower())
                if key in self._seen:
                    continue
                self._seen.add(key)
            kept.append(paragraph)
        return "\n\n".join(kept)


def is_held_out(text: str) -> bool:
    return int.from_bytes(digest(text), "big") % _HELD_OUT_OF == 0


def make(out: pathlib.Path, packages: pathlib.Path, processes: int) -> None:
    """Writes the corpus to `out`, keeping unpacked packages below `packages`."""
    out.mkdir(parents=True, exist_ok=True)
    table = {s.package: fetch(s.package, packages) | {"licence": s.licence, "repeats": s.repeats}
             for s in sources.SOURCES}
    by_package = {s.package: s for s in sources.SOURCES}
    unique = ParagraphFilter()
    with (multiprocessing.Pool(processes) as pool, open(out / "train.jsonl", "w", encoding="utf-8") as train,
          open(out / "held_out.jsonl", "w", encoding="utf-8") as held_out):

        def write(record: dict, text: str) -> None:
            file = held_out if is_held_out(text) else train
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

        for package, documents in pool.imap(read_package, [(s, packages / s.package) for s in sources.SOURCES]):
            documents = [t for t in map(unique, documents) if len(t) >= _MIN_DOCUMENT_CHARS]
            size = sum(len(t.encode()) for t in documents)
            table[package] |= {"documents": len(documents), "bytes": size}
            print(f"{package}: {len(documents)} documents, {size / 1e6:.2f} MB", flush=True)
            for text in documents:
                write({"source": package, "repeats": by_package[package].repeats, "text": text}, text)
        count = size = 0
        for turns in dialogues.make(packages / "wordnet-base"):
            text = "\n".join(turns)
            count += 1
            size += len(text.encode())
            write({"source": "dialogues", "repeats": 1, "turns": turns}, text)
        table["dialogues"] = {"package": "dialogues", "version": "", "repeats": 1, "documents": count, "bytes": size,
                              "licence": "WordNet 3.0 (templates: this repository)"}
        print(f"dialogues: {count}, {size / 1e6:.2f} MB")
    (out / "sources.json").write_text(json.dumps(list(table.values()), indent=1))
