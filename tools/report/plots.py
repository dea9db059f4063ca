"""The three figures. Colours are engines, dashes are dtypes, the same in all of them."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.results import Results, Row, Series
from report.style import INK, legend, log_axis, new_figure, plain_log_labels, plt, spread, styled

# Told apart by the colour-blind too, and readable on white and on black (Okabe and Ito's set, and a grey).
COLOURS = {"hf": "#7d8590", "hf-batch": "#cc79a7", "baseline-dynamic": "#e69f00", "baseline-static": "#d55e00",
           "paged": "#2a7fc9"}
# Lines that coincide stay visible: what is drawn later is smaller.
MARKERS = {"hf": ("s", 9), "hf-batch": ("D", 8), "baseline-dynamic": ("^", 8), "baseline-static": ("v", 8),
           "paged": ("o", 5)}
_OTHER = "#009e73"


@styled
def latency_against_new_tokens(results: Results) -> Figure:
    """One request at a time: the median, and a whisker to the 99th percentile where it differs."""
    figure, axes = new_figure("Latency of one request", "new tokens (log scale)", "seconds to the last token (log scale)")
    for series in results.series:
        rows = results.at(concurrency=1, series=series)
        if rows:
            _line(axes, series, [r.new_tokens for r in rows], [r.latency_p50_s for r in rows])
            _whiskers(axes, series, rows)
    log_axis(axes.xaxis, sorted({r.new_tokens for r in results.at(concurrency=1)}))
    axes.set_yscale("log")
    plain_log_labels(axes)
    legend(axes)
    return figure


@styled
def throughput_against_concurrency(results: Results) -> Figure:
    """Output tokens a second of all requests together, with the value at the end of each line."""
    new_tokens = results.tokens_for_concurrency
    figure, axes = new_figure(f"Throughput, {new_tokens} new tokens a request", "requests at once (log scale)",
                              "output tokens a second (log scale)")
    concurrencies = sorted({r.concurrency for r in results.at(new_tokens=new_tokens)})
    ends = []
    for series in results.series:
        rows = results.at(new_tokens=new_tokens, series=series)
        if rows:
            _line(axes, series, [r.concurrency for r in rows], [r.output_tokens_per_s for r in rows])
            if rows[-1].concurrency == concurrencies[-1]:
                ends.append((series, rows[-1].output_tokens_per_s))
    axes.set_yscale("log")
    log_axis(axes.xaxis, concurrencies)
    axes.set_xlim(concurrencies[0] / 1.15, concurrencies[-1] * 1.55)
    plain_log_labels(axes)
    low, high = axes.get_ylim()
    gap = math.log10(high / low) * 0.05
    for (series, value), position in zip(ends, spread([math.log10(v) for _, v in ends], gap)):
        axes.annotate(f"{value:,.0f}", (concurrencies[-1], value), (concurrencies[-1] * 1.12, 10**position),
                      color=_colour(series), va="center", fontsize=9.5, fontweight="bold")
    legend(axes)
    return figure


@styled
def kv_reserved_against_used(results: Results) -> Figure:
    """Left: bytes a request reserves, and uses. Right: the share used. fp32 alone: dtypes differ by a factor only."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.2, 4.8))
    rows = [r for r in results.at(concurrency=1) if r.series.dtype == "fp32" and r.kv_reserved_bytes]
    used: dict[int, float] = {}
    for series in sorted({r.series for r in rows}, key=lambda s: s.rank):
        own = [r for r in rows if r.series == series]
        tokens = [r.new_tokens for r in own]
        _line(left, series, tokens, [r.kv_reserved_bytes / 2**20 for r in own])
        _line(right, series, tokens, [100 * r.kv_used_share for r in own])
        used.update((r.new_tokens, max(used.get(r.new_tokens, 0), r.kv_used_bytes / 2**20)) for r in own)
    left.plot(sorted(used), [used[n] for n in sorted(used)], color=INK, linestyle=":", linewidth=1.6,
              label="keys and values in use")
    for axes, title, y_label in ((left, "KV memory reserved for one request", "MiB at its end (log scale)"),
                                 (right, "Share of it in use", "percent")):
        axes.set_title(title)
        axes.set_xlabel("new tokens (log scale)")
        axes.set_ylabel(y_label)
        log_axis(axes.xaxis, sorted(used))
    left.set_yscale("log")
    plain_log_labels(left)
    right.set_ylim(0, 104)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _colour(series: Series) -> str:
    return COLOURS.get(series.engine, _OTHER)


def _line(axes: Axes, series: Series, x: Sequence[float], y: Sequence[float]) -> None:
    marker, size = MARKERS.get(series.engine, ("x", 7))
    axes.plot(x, y, label=series.label, color=_colour(series), marker=marker, markersize=size,
              markerfacecolor=_colour(series) if series.engine == "paged" else "none", markeredgewidth=1.5,
              linewidth=2.4 if series.engine == "paged" else 1.6,
              linestyle=(0, (3, 1.6)) if series.dtype == "bf16" else "-")


def _whiskers(axes: Axes, series: Series, rows: Sequence[Row]) -> None:
    for row in rows:
        if row.latency_p99_s > row.latency_p50_s:
            axes.plot([row.new_tokens] * 2, [row.latency_p50_s, row.latency_p99_s], color=_colour(series), linewidth=1,
                      alpha=0.6)
