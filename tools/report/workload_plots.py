"""The figures of workloads W2 to W4, from a result file of benchmarks/workloads.py."""

import pathlib
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from report.style import INK, legend, new_figure, plain_log_labels, plt, styled, write_png

_ALONE, _SERVED, _OTHER = "#2a7fc9", "#e69f00", "#009e73"
_THROUGH = {"engine alone": _ALONE, "gRPC and coordinator": _SERVED}
# Lines that coincide stay visible: what is drawn later is smaller.
_GOODPUT_STYLES = ((_ALONE, 9, 3.4), ("#d55e00", 5, 1.6), (_OTHER, 3, 1.0))
# What others reached, in the order of their first appearance.
_REFERENCE_STYLES = (("#7d8590", "-"), ("#cc79a7", (0, (3, 1.6))), (_OTHER, ":"))

# {work: {metric: figure}}, in the file's order.
Works = dict[str, dict[str, dict[str, Any]]]


def works_of(run: dict[str, Any]) -> Works:
    """Figures by the first word of their name, and by the rest of it."""
    works: Works = {}
    for figure in run["figures"]:
        work, _, metric = figure["name"].partition(" ")
        works.setdefault(work, {})[metric] = figure
    return works


def write(document: dict[str, Any], file: pathlib.Path) -> list[pathlib.Path]:
    """A PNG beside the result file, of a workload that has a plot."""
    draw = _DRAWN.get(document["benchmark"].split("-")[0])
    if draw is None:
        return []
    path = file.with_suffix(".png")
    figure = draw(document)
    write_png(figure, path)
    plt.close(figure)
    return [path]


@styled
def latency(document: dict[str, Any]) -> Figure:
    """Left: to the first token. Right: between tokens, the median and a whisker to the 99th percentile."""
    figure, (first, further) = plt.subplots(1, 2, figsize=(10.2, 4.8))
    works = {work: None for run in document["runs"] for work, metrics in works_of(run).items() if "TTFT" in metrics}
    positions = {work: number for number, work in enumerate(works)}
    width = 0.8 / len(document["runs"])
    for number, run in enumerate(document["runs"]):
        through = run["settings"]["through"]
        shift = (number - (len(document["runs"]) - 1) / 2) * width
        for work, metrics in works_of(run).items():
            if work not in positions:
                continue
            x = positions[work] + shift
            _bar(first, x, width, metrics.get("TTFT p50", metrics["TTFT"]), _THROUGH[through])
            if "ITL p50" in metrics:
                median = metrics["ITL p50"]
                _bar(further, x, width, median, _THROUGH[through], spread=False)
                further.plot([x, x], [median["median"], metrics["ITL p99"]["median"]], color=INK, linewidth=1.2)
    for axes, title in ((first, "Time to the first token"), (further, "Between tokens: median, whisker to p99")):
        axes.set_title(title)
        axes.set_ylabel("milliseconds (log scale)")
        axes.set_xlabel("requests × prompt / new tokens")
        axes.set_xticks(list(positions.values()), list(positions))
        axes.grid(axis="x", visible=False)
        axes.set_yscale("log")
        plain_log_labels(axes)
    handles = [plt.Rectangle((0, 0), 1, 1, color=_THROUGH[run["settings"]["through"]]) for run in document["runs"]]
    figure.legend(handles, [run["settings"]["through"] for run in document["runs"]], loc="outside lower center", ncols=2)
    return figure


@styled
def saturation(document: dict[str, Any]) -> Figure:
    """Bars of output tokens a second on those of the roofline; lines across a bar for what others reached."""
    works: Works = {}
    for run in document["runs"]:
        works |= {work: metrics for work, metrics in works_of(run).items() if "rate" in metrics}
    figure, axes = new_figure("Output tokens a second, all requests at once", "requests × prompt / new tokens",
                              "tokens a second")
    figure.set_size_inches(max(7.4, 1.3 * len(works) + 1), 5.2)
    styles: dict[str, tuple[str, object]] = {}
    for x, (work, metrics) in enumerate(works.items()):
        if "roofline" in metrics:
            axes.bar(x, metrics["roofline"]["median"], 0.8, color="none", edgecolor=INK, linewidth=1,
                     linestyle=(0, (4, 2)), label="roofline" if x == 0 else None)
        rate = metrics["rate"]
        _bar(axes, x, 0.62, rate, _ALONE, label="Quire" if x == 0 else None)
        share = metrics.get("share of the roofline")
        text = f"{rate['median']:,.0f}" + (f"\n{share['median']:.0f}%" if share else "")
        top = max(figure["median"] for name, figure in metrics.items() if name in ("rate", "roofline"))
        axes.annotate(text, (x, top), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=9,
                      fontweight="bold", color=_ALONE)
        for name, value in rate.get("references", {}).items():
            is_new = name not in styles
            colour, dashes = styles.setdefault(name, _REFERENCE_STYLES[len(styles) % len(_REFERENCE_STYLES)])
            axes.plot([x - 0.4, x + 0.4], [value, value], color=colour, linestyle=dashes, linewidth=2.2,
                      label=f"{name}, another run" if is_new else None)
    axes.set_xticks(range(len(works)), list(works))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    legend(axes)
    return figure


@styled
def online(document: dict[str, Any]) -> Figure:
    """Goodput against the rate of arrivals: on the diagonal every request is good. Upright: the requests a second that
    the engine alone ends, and that the roofline allows, with requests of the mean lengths all at once."""
    works = works_of(document["runs"][0])
    figure, axes = new_figure("Goodput under Poisson arrivals", "requests a second that arrive",
                              "good requests a second")
    arrivals = [metrics["arrivals"]["median"] for metrics in works.values()]
    axes.plot([0, max(arrivals)], [0, max(arrivals)], color=INK, linestyle=":", linewidth=1.4, label="all good")
    names = dict.fromkeys(name for metrics in works.values() for name in metrics if name.startswith("goodput, "))
    for name, (colour, marker_size, line_width) in zip(names, _GOODPUT_STYLES):
        values = [metrics[name] for metrics in works.values()]
        axes.plot(arrivals, [value["median"] for value in values], marker="o", markersize=marker_size,
                  linewidth=line_width, color=colour, label=name.removeprefix("goodput, "))
        for x, value in zip(arrivals, values):
            axes.plot([x, x], [value["min"], value["max"]], color=colour, linewidth=1, alpha=0.6)
    for run in document["runs"][1:]:
        for work, metrics in works_of(run).items():
            new_tokens = float(work.rpartition("/")[2]) if "rate" in metrics else 0
            for metric, label, dashes in (("rate", "the engine alone, saturated", "-"), ("roofline", "roofline", "--")):
                if metric in metrics and new_tokens:
                    axes.axvline(metrics[metric]["median"] / new_tokens, color=INK, linestyle=dashes, linewidth=1,
                                 label=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    legend(axes)
    return figure


def _bar(axes: Any, x: float, width: float, figure: dict[str, Any], colour: str, *, spread: bool = True,
         label: str | None = None) -> None:
    axes.bar(x, figure["median"], width, color=colour, label=label)
    if spread and figure["max"] > figure["min"]:
        axes.plot([x, x], [figure["min"], figure["max"]], color=INK, linewidth=1.2)


_DRAWN: dict[str, Callable[[dict[str, Any]], Figure]] = {"latency": latency, "saturation": saturation, "online": online}
