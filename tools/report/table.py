"""The rows of a comparison for a terminal."""

from report.results import Results, Row

_HEADER = ("at once", "new", "engine", "latency s", "p99", "TTFT ms", "TPOT ms", "tokens/s", "KV reserved", "used",
           "tokens")
_LEFT = (2, 10)  # columns that are words


def cells(row: Row) -> tuple[str, ...]:
    """As strings, in the order of HEADER."""
    share = row.kv_used_share
    return (str(row.concurrency), str(row.new_tokens), row.series.label, f"{row.latency_p50_s:.3f}",
            f"{row.latency_p99_s:.3f}", f"{row.ttft_ms:.1f}", f"{row.tpot_ms:.2f}", f"{row.output_tokens_per_s:,.0f}",
            f"{row.kv_reserved_bytes / 2**20:.2f} MiB" if row.kv_reserved_bytes else "",
            "" if share is None else f"{100 * share:.1f}%", verdict(row))


def verdict(row: Row) -> str:
    """Whether the tokens are those of the fp32 Hugging Face row."""
    if row.tokens_equal is None:
        return "" if row.first_difference is None else f"part at {_position(row)}"
    if not row.tokens_equal:
        return f"DIFFERENT at {_position(row)}"
    return "equal but for a tie" if row.tie else "equal"


def header() -> tuple[str, ...]:
    return _HEADER


def render(results: Results) -> str:
    lines = [_HEADER] + [cells(row) for row in results.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    text = []
    for number, line in enumerate(lines):
        if number > 0 and line[:2] != lines[number - 1][:2]:
            text.append("")
        text.append("  ".join(cell.ljust(width) if i in _LEFT else cell.rjust(width)
                              for i, (cell, width) in enumerate(zip(line, widths))).rstrip())
    return "\n".join(text)


def _position(row: Row) -> str:
    return "?" if row.first_difference is None else str(row.first_difference)
