"""report.html: one file, no network, readable on a light and on a dark screen."""

import html
import json
from typing import Any

from report import plots, style, table
from report.results import Results

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2328; --quiet: #59636e; --line: #d1d9e0;
  --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1318; --ink: #e6e9ed; --quiet: #9aa4af; --line: #343b44;
  --good: #4cc36b; --bad: #ff7b72; } }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; } .quiet { color: var(--quiet); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
ul { padding-left: 1.2rem; } figure { margin: 1rem 0; } figure svg { width: 100%; max-width: 46rem; height: auto; }
figure.wide svg { max-width: 100%; } figcaption { max-width: 46rem; color: var(--quiet); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; } th.word, td.word { text-align: left; } tr.group td { border-top: 2px solid var(--line); }
pre { overflow-x: auto; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 6px; font-size: .85rem; }
"""

_FIGURES = (
    (plots.latency_against_new_tokens, "Latency against new tokens", "",
     "How long one request takes when it is alone: a straight line means that every further token costs the same, and "
     "the distance between two lines is how many times faster one engine is."),
    (plots.throughput_against_concurrency, "Throughput against concurrency", "",
     "How many tokens a second all requests get together: engines that run one request at a time stay flat, continuous "
     "batching reads the weights once for all of them and climbs."),
    (plots.kv_reserved_against_used, "KV memory reserved and used", "wide",
     "What one request holds of KV memory at its end and how much of that holds keys and values: the static cache "
     "reserves the whole context for every request, the dynamic one what it uses but copies it all at each token, the "
     "paged engine at most one unfinished block more than it uses."),
)


def render(results: Results) -> str:
    parts = ["<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             "<title>Quire: engines compared</title>", f"<style>{_STYLE}</style>", "</head>", "<body>",
             "<h1>Engines compared</h1>", f'<p class="quiet">{_subtitle(results)}</p>', _verdict(results),
             _speedups(results)]
    for draw, title, css_class, sentence in _FIGURES:
        figure = draw(results)
        parts.append(f'<h2>{title}</h2><figure class="{css_class}">{style.to_svg(figure, title)}'
                     f"<figcaption>{sentence}</figcaption></figure>")
        style.plt.close(figure)
    parts += ["<h2>Every measurement</h2>", _table(results),
              '<p class="quiet">Latency is the median of a point\'s requests, from the send to the last token; TTFT is '
              "the time to the first token, TPOT the time for each one after it. “tokens” says whether the output is "
              "that of Hugging Face in fp32; a tie is a first difference at a position where its two best logits lie "
              "within rounding.</p>",
              "<h2>Machine and versions</h2>", _details(results), "</body>", "</html>"]
    return "\n".join(parts) + "\n"


def _subtitle(results: Results) -> str:
    concurrencies = ", ".join(str(c) for c in sorted({row.concurrency for row in results.rows}))
    return html.escape(f"Model {results.model}, greedy, one engine active at a time; requests at once: {concurrencies}.")


def _verdict(results: Results) -> str:
    compared, different = results.compared, results.different
    if not compared:
        return "<p>No row was compared token by token.</p>"
    if different:
        names = ", ".join(f"{row.series.label} at {row.new_tokens}" for row in different)
        return f'<p class="bad">{len(different)} of {len(compared)} fp32 rows gave other tokens: {html.escape(names)}.</p>'
    ties = sum(row.tie for row in compared)
    return (f'<p class="good">All {len(compared)} fp32 rows gave the same tokens as Hugging Face'
            f"{f', {ties} of them up to a tie' if ties else ''}.</p>")


def _speedups(results: Results) -> str:
    items = []
    shown = {}
    for concurrency, new_tokens, series, times, other in results.speedups():
        shown[concurrency, series, other.engine] = (new_tokens, times, other)
    for (concurrency, series, _), (new_tokens, times, other) in shown.items():
        items.append(f"<li>{concurrency} at once, {new_tokens} new tokens: {html.escape(series.label)} is "
                     f"<strong>{times:.1f} times</strong> as fast as {html.escape(other.label)}.</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _table(results: Results) -> str:
    words = {i for i, name in enumerate(table.header()) if name in ("engine", "tokens")}

    def line(tag: str, cells: tuple[str, ...]) -> str:
        return "".join(f'<{tag} class="word">{html.escape(cell)}</{tag}>' if i in words else
                       f"<{tag}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(cells))

    body, previous = [], None
    for row in results.rows:
        point = (row.concurrency, row.new_tokens)
        opening = '<tr class="group">' if previous not in (None, point) else "<tr>"
        body.append(f"{opening}{line('td', table.cells(row))}</tr>")
        previous = point
    return (f'<div class="scroll"><table><thead><tr>{line("th", table.header())}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>")


def _details(results: Results) -> str:
    details: dict[str, Any] = {"machine": results.machine, "versions": results.versions, "model": results.model}
    return f"<pre>{html.escape(json.dumps(details, indent=2))}</pre>"
