import dataclasses
import html.parser
import json
import pathlib
import re
import tempfile
import unittest

from report import page, plots, style, table
from report.results import Results, Series

SAMPLE = pathlib.Path(__file__).parent / "testdata" / "compare.json"


def sample(change=lambda row: None):
    """The sample with each row changed."""
    document = json.loads(SAMPLE.read_text())
    for row in document["rows"]:
        change(row)
    return Results.from_json(document)


class ResultsTest(unittest.TestCase):
    def test_rows_are_sorted_by_point_then_engine(self):
        results = sample()
        points = [(r.concurrency, r.new_tokens) for r in results.rows]
        self.assertEqual(points, sorted(points))
        self.assertEqual([s.engine for s in results.series],
                         ["hf", "hf", "hf-batch", "baseline-dynamic", "baseline-static", "paged", "paged"])
        self.assertEqual(results.tokens_for_concurrency, 64)

    def test_speedups_are_against_the_faster_dtype(self):
        speedups = {(c, n, s, o.engine): (times, o) for c, n, s, times, o in sample().speedups()}
        times, other = speedups[32, 64, Series("paged", "bf16"), "hf"]
        self.assertEqual(other, Series("hf", "bf16"))
        self.assertAlmostEqual(times, 4300 / 172)
        times, _ = speedups[32, 64, Series("paged", "bf16"), "hf-batch"]
        self.assertAlmostEqual(times, 4300 / 1350)
        self.assertNotIn((1, 64, Series("paged", "bf16"), "hf-batch"), speedups)

    def test_other_tokens_are_found(self):
        def differ(row):
            if row["engine"] == "paged" and row["dtype"] == "fp32" and row["new_tokens"] == 256:
                row.update(tokens_equal=False, first_difference=17)

        results = sample(differ)
        self.assertEqual(len(results.different), 1)
        self.assertIn("DIFFERENT at 17", table.render(results))
        self.assertIn("1 of", page._verdict(results))
        self.assertIn("paged fp32 at 256", page._verdict(results))

    def test_a_missing_field_is_an_error(self):
        with self.assertRaises(KeyError):
            sample(lambda row: row.pop("latency_s"))


class TableTest(unittest.TestCase):
    def test_each_row_is_a_line_and_points_are_apart(self):
        results = sample()
        lines = table.render(results).splitlines()
        points = {(r.concurrency, r.new_tokens) for r in results.rows}
        self.assertEqual(len([line for line in lines if line]), 1 + len(results.rows))
        self.assertEqual(lines.count(""), len(points))
        self.assertRegex(lines[2], r"^ +1 +16 +Hugging Face fp32 .* equal$")

    def test_ties_are_told(self):
        row = dataclasses.replace(sample().rows[0], tokens_equal=True, tie=True)
        self.assertEqual(table.verdict(row), "equal but for a tie")


class SpreadTest(unittest.TestCase):
    def test_labels_keep_their_order_and_distance(self):
        self.assertEqual(style.spread([1.0, 5.0], 1.0), [1.0, 5.0])
        self.assertEqual(style.spread([2.0, 2.0], 1.0), [1.5, 2.5])
        placed = style.spread([3.0, 1.0, 1.2, 1.1, 2.9], 0.5)
        order = sorted(placed)
        self.assertTrue(all(high - low >= 0.5 - 1e-9 for low, high in zip(order, order[1:])))
        self.assertEqual(sorted(range(5), key=placed.__getitem__), [1, 3, 2, 4, 0])


class Tags(html.parser.HTMLParser):
    """Checks that what opens closes, and gathers what a page would load."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attributes
                       if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


class PageTest(unittest.TestCase):
    def test_the_page_stands_alone_and_is_whole(self):
        text = page.render(sample())
        tags = Tags()
        tags.feed(text)
        self.assertEqual((tags.open, tags.loads), ([], []))
        self.assertEqual(text.count("<svg"), 3)
        self.assertEqual(text.count("<figcaption>"), 3)
        self.assertEqual(text.count("<tr"), 1 + len(sample().rows))
        self.assertIn("prefers-color-scheme: dark", text)
        self.assertNotIn("@import", text)
        self.assertNotRegex(text, r"url\((?!#)")

    def test_figures_take_the_pages_colour(self):
        svg = style.to_svg(plots.latency_against_new_tokens(sample()), "Latency")
        self.assertIn("currentColor", svg)
        self.assertNotIn(style.INK, svg)
        self.assertIsNone(re.search(r'<svg[^>]* width="', svg))
        self.assertIn('aria-label="Latency"', svg)

    def test_what_others_wrote_is_escaped(self):
        results = dataclasses.replace(sample(), model="<script>", machine={"cpu": "<b>"})
        text = page.render(results)
        self.assertNotIn("<script>", text)
        self.assertNotIn("<b>", text)

    def test_plots_are_written(self):
        with tempfile.TemporaryDirectory() as folder:
            for draw in (plots.latency_against_new_tokens, plots.throughput_against_concurrency,
                         plots.kv_reserved_against_used):
                path = pathlib.Path(folder) / "plot.png"
                style.write_png(draw(sample()), path)
                self.assertEqual(path.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_an_engine_that_is_not_known_is_drawn_too(self):
        self.assertIn("future fp32", page.render(sample(
            lambda row: row.update(engine="future") if row["engine"] == "baseline-static" else None)))


if __name__ == "__main__":
    unittest.main()
