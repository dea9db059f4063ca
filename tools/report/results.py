"""compare.json (docs/api.md) as dataclasses, and the questions that a report asks of it."""

import json
import pathlib
from dataclasses import dataclass
from typing import Any

# In the order that legends and tables have them; engines of a newer compare come last.
ENGINES = {
    "hf": "Hugging Face",
    "hf-batch": "Hugging Face, static batch",
    "baseline-dynamic": "baseline, dynamic cache",
    "baseline-static": "baseline, static cache",
    "paged": "paged",
}
DTYPES = ("fp32", "bf16")


@dataclass(frozen=True, order=True)
class Series:
    """What one line of a plot shows: an engine with its dtype."""

    engine: str
    dtype: str

    @property
    def label(self) -> str:
        return f"{ENGINES.get(self.engine, self.engine)} {self.dtype}"

    @property
    def rank(self) -> tuple[int, int, str, str]:
        names = list(ENGINES)
        return (names.index(self.engine) if self.engine in names else len(names),
                DTYPES.index(self.dtype) if self.dtype in DTYPES else len(DTYPES), self.engine, self.dtype)


@dataclass(frozen=True)
class Row:
    series: Series
    new_tokens: int
    concurrency: int
    requests: int
    latency_p50_s: float
    latency_p99_s: float
    ttft_ms: float
    tpot_ms: float
    output_tokens_per_s: float
    kv_reserved_bytes: int
    kv_used_bytes: int
    tokens_equal: bool | None  # with the fp32 Hugging Face row; None: not compared
    tie: bool
    first_difference: int | None  # index of the first token that differs

    @property
    def kv_used_share(self) -> float | None:
        return self.kv_used_bytes / self.kv_reserved_bytes if self.kv_reserved_bytes else None

    @staticmethod
    def from_json(row: dict[str, Any]) -> "Row":
        """KeyError or TypeError: a field is missing or of another type."""
        return Row(
            series=Series(row["engine"], row["dtype"]), new_tokens=int(row["new_tokens"]),
            concurrency=int(row["concurrency"]), requests=int(row["requests"]),
            latency_p50_s=float(row["latency_s"]["p50"]), latency_p99_s=float(row["latency_s"]["p99"]),
            ttft_ms=float(row["ttft_ms"]), tpot_ms=float(row["tpot_ms"]),
            output_tokens_per_s=float(row["output_tokens_per_s"]), kv_reserved_bytes=int(row["kv_reserved_bytes"]),
            kv_used_bytes=int(row["kv_used_bytes"]), tokens_equal=row["tokens_equal"], tie=bool(row.get("tie")),
            first_difference=row.get("first_difference"))


@dataclass(frozen=True)
class Results:
    machine: dict[str, Any]
    versions: dict[str, Any]
    model: str
    rows: list[Row]

    @staticmethod
    def from_json(document: dict[str, Any]) -> "Results":
        rows = [Row.from_json(row) for row in document["rows"]]
        rows.sort(key=lambda r: (r.concurrency, r.new_tokens, r.series.rank))
        return Results(document["machine"], document["versions"], document["model"], rows)

    @staticmethod
    def read(path: pathlib.Path) -> "Results":
        return Results.from_json(json.loads(path.read_text()))

    @property
    def series(self) -> list[Series]:
        return sorted({row.series for row in self.rows}, key=lambda s: s.rank)

    def at(self, *, concurrency: int | None = None, new_tokens: int | None = None,
           series: Series | None = None) -> list[Row]:
        """The rows that match all that is given."""
        return [r for r in self.rows if (concurrency is None or r.concurrency == concurrency)
                and (new_tokens is None or r.new_tokens == new_tokens) and (series is None or r.series == series)]

    @property
    def tokens_for_concurrency(self) -> int:
        """The number of new tokens that was measured at the most concurrencies; 64 if it is one of several."""
        counts = {r.new_tokens: len({x.concurrency for x in self.at(new_tokens=r.new_tokens)}) for r in self.rows}
        widest = [n for n, count in counts.items() if count == max(counts.values())]
        return 64 if 64 in widest else max(widest)

    @property
    def different(self) -> list[Row]:
        """Rows whose tokens should equal the reference's and do not."""
        return [row for row in self.rows if row.tokens_equal is False]

    @property
    def compared(self) -> list[Row]:
        return [row for row in self.rows if row.tokens_equal is not None]

    def speedups(self) -> list[tuple[int, int, Series, float, Series]]:
        """(concurrency, new tokens, paged series, times, the faster Hugging Face series), one a paged point.

        Against the faster of Hugging Face's dtypes at that point, one request at a time and static batch apart.
        """
        found = []
        for row in self.rows:
            if row.series.engine != "paged":
                continue
            for engine in ("hf", "hf-batch"):
                others = [r for r in self.at(concurrency=row.concurrency, new_tokens=row.new_tokens)
                          if r.series.engine == engine]
                if others and (best := max(others, key=lambda r: r.output_tokens_per_s)).output_tokens_per_s > 0:
                    found.append((row.concurrency, row.new_tokens, row.series,
                                  row.output_tokens_per_s / best.output_tokens_per_s, best.series))
        return found

