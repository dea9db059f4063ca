"""What all figures share: colours of text and grid, axes, labels, and how they are written."""

import functools
import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import ParamSpec

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator  # noqa: E402

# Stands for the page's text colour until the SVG is written.
INK = "#010203"
_GRID = "#7d859040"
_STYLE = {
    "font.size": 10.5, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _GRID,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "svg.hashsalt": "quire",
    "figure.constrained_layout.use": True, "legend.handlelength": 3.2, "legend.fontsize": 9.5,
}
_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    @functools.wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with plt.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def write_png(figure: Figure, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=160, facecolor="white")


def to_svg(figure: Figure, title: str) -> str:
    """An <svg> element on a transparent ground, its text in the colour of the text around it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):].replace(INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


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


def new_figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(7.4, 5.2))
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def log_axis(axis: object, ticks: Sequence[int]) -> None:
    axis.axes.set_xscale("log", base=2)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plain_log_labels(axes: Axes) -> None:
    """0.01, 1, 1,000 in place of powers of ten, and 2 and 5 between them where there are few."""
    low, high = axes.get_ylim()
    few = high / low < 200
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))


def legend(axes: Axes) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
