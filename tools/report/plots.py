"""The three figures. Colours are engines, dashes are dtypes, the same in all of them."""

import functools
import io
import math
import pathlib
import re
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator  # noqa: E402

from report.results import Results, Row, Series  # noqa: E402

# Told apart by the colour-blind too, and readable on white and on black (Okabe and Ito's set, and a grey).
COLOURS = {"hf": "#7d8590", "hf-batch": "#cc79a7", "baseline-dynamic": "#e69f00", "baseline-static": "#d55e00",
           "paged": "#2a7fc9"}
# Lines that coincide stay visible: what is drawn later is smaller.
MARKERS = {"hf": ("s", 9), "hf-batch": ("D", 8), "baseline-dynamic": ("^", 8), "baseline-static": ("v", 8),
           "paged": ("o", 5)}
_OTHER = "#009e73"
# Stands for the page's text colour until the SVG is written.
_INK = "#010203"
_GRID = "#7d859040"
_STYLE = {
    "font.size": 10.5, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _GRID,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "legend.frameon": False, "svg.hashsalt": "quire",
    "figure.constrained_layout.use": True, "legend.handlelength": 3.2, "legend.fontsize": 9.5,
}


def _styled(draw: Callable[[Results], Figure]) -> Callable[[Results], Figure]:
    @functools.wraps(draw)
    def wrapper(results: Results) -> Figure:
        with plt.rc_context(_STYLE):
            return draw(results)

    return wrapper


def write_png(figure: Figure, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=160, facecolor="white")


def to_svg(figure: Figure, title: str) -> str:
    """An <svg> element on a transparent ground, its text in the colour of the text around it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):].replace(_INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


@_styled
def latency_against_new_tokens(results: Results) -> Figure:
    """One request at a time: the median, and a whisker to the 99th percentile where it differs."""
    figure, axes = _figure("Latency of one request", "new tokens (log scale)", "seconds to the last token (log scale)")
    for series in results.series:
        rows = results.at(concurrency=1, series=series)
        if rows:
            _line(axes, series, [r.new_tokens for r in rows], [r.latency_p50_s for r in rows])
            _whiskers(axes, series, rows)
    _log_axis(axes.xaxis, sorted({r.new_tokens for r in results.at(concurrency=1)}))
    axes.set_yscale("log")
    _plain_log_labels(axes)
    _legend(axes)
    return figure


@_styled
def throughput_against_concurrency(results: Results) -> Figure:
    """Output tokens a second of all requests together, with the value at the end of each line."""
    new_tokens = results.tokens_for_concurrency
    figure, axes = _figure(f"Throughput, {new_tokens} new tokens a request", "requests at once (log scale)",
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
    _log_axis(axes.xaxis, concurrencies)
    axes.set_xlim(concurrencies[0] / 1.15, concurrencies[-1] * 1.55)
    _plain_log_labels(axes)
    low, high = axes.get_ylim()
    gap = math.log10(high / low) * 0.05
    for (series, value), position in zip(ends, spread([math.log10(v) for _, v in ends], gap)):
        axes.annotate(f"{value:,.0f}", (concurrencies[-1], value), (concurrencies[-1] * 1.12, 10**position),
                      color=_colour(series), va="center", fontsize=9.5, fontweight="bold")
    _legend(axes)
    return figure


@_styled
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
    left.plot(sorted(used), [used[n] for n in sorted(used)], color=_INK, linestyle=":", linewidth=1.6,
              label="keys and values in use")
    for axes, title, y_label in ((left, "KV memory reserved for one request", "MiB at its end (log scale)"),
                                 (right, "Share of it in use", "percent")):
        axes.set_title(title)
        axes.set_xlabel("new tokens (log scale)")
        axes.set_ylabel(y_label)
        _log_axis(axes.xaxis, sorted(used))
    left.set_yscale("log")
    _plain_log_labels(left)
    right.set_ylim(0, 104)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places near `values`, in their order, no two closer than `gap`: for labels that would lie on each other."""
    order = sorted(range(len(values)), key=values.__getitem__)
    placed = list(values)
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _bottom(values, groups[-1], gap) < _top(values, groups[-2], gap) + gap:
            groups[-2].extend(groups.pop())
    for group in groups:
        bottom = _bottom(values, group, gap)
        for rank, index in enumerate(group):
            placed[index] = bottom + rank * gap
    return placed


def _bottom(values: Sequence[float], group: Sequence[int], gap: float) -> float:
    return sum(values[i] for i in group) / len(group) - gap * (len(group) - 1) / 2


def _top(values: Sequence[float], group: Sequence[int], gap: float) -> float:
    return _bottom(values, group, gap) + gap * (len(group) - 1)


def _figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(7.4, 5.2))
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


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


def _log_axis(axis: object, ticks: Sequence[int]) -> None:
    axis.axes.set_xscale("log", base=2)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _plain_log_labels(axes: Axes) -> None:
    """0.01, 1, 1,000 in place of powers of ten, and 2 and 5 between them where there are few."""
    low, high = axes.get_ylim()
    few = high / low < 200
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))


def _legend(axes: Axes) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
