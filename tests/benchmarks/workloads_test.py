import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import bench_report
import goodput
import targets
import workloads
from goodput import Limits
from report import workload_plots

LIMITS = Limits(2.0, 0.1)


def request(start=0.0, ttft=0.1, tpot=0.01, tokens=10, error=""):
    return goodput.Request(start, ttft, tpot, tokens, error)


class GoodputTest(unittest.TestCase):
    def test_requests_are_read_from_the_columns(self):
        document = {"start_times": [0, 0.5, 1], "ttfts": [0.2, 0.3, 0], "itls": [[0.1, 0.3], [], []],
                    "output_lens": [3, 1, 0], "request_errors": ["", "", "RESOURCE_EXHAUSTED: full"]}
        first, second, failed = goodput.requests_of(document)
        self.assertAlmostEqual(first.tpot_s, 0.2)
        self.assertEqual(second, goodput.Request(0.5, 0.3, 0.0, 1, ""))
        self.assertEqual(failed.error, "RESOURCE_EXHAUSTED: full")

    def test_several_tokens_in_a_message_share_its_gap(self):
        document = {"start_times": [0], "ttfts": [0.2], "itls": [[0.4]], "output_lens": [5], "request_errors": [""]}
        self.assertAlmostEqual(goodput.requests_of(document)[0].tpot_s, 0.1)

    def test_a_good_request_keeps_both_limits_and_does_not_fail(self):
        requests = [request(), request(ttft=2.0, tpot=0.1), request(ttft=2.01), request(tpot=0.101),
                    request(error="UNAVAILABLE: gone")]
        self.assertEqual([LIMITS.allow(r) for r in requests], [True, True, False, False, False])
        self.assertEqual(goodput.good_share(requests, LIMITS), 0.4)

    def test_goodput_is_a_share_of_the_arrivals(self):
        requests = [request(start=0.5 * i, ttft=3.0 if i % 2 else 0.1) for i in range(10)]
        self.assertEqual(goodput.arrival_rate(requests), 2)
        self.assertEqual(goodput.goodput(requests, LIMITS), 1)

    def test_limits_have_a_name(self):
        self.assertEqual(Limits(0.5, 0.03).label, "TTFT 0.5 s, TPOT 30 ms")


class VolumeTest(unittest.TestCase):
    def test_a_work_is_three_numbers(self):
        self.assertEqual(workloads.parse_work("8x1024/128"), (8, 1024, 128))
        for text in ("8x1024", "x1/2", "0x1/2", "1x-1/2", "8"):
            with self.subTest(text), self.assertRaises(ValueError):
                workloads.parse_work(text)

    def test_works_beyond_the_context_are_left_out(self):
        self.assertEqual(workloads.works_that_fit(workloads.LATENCY, 2048),
                         (["1x2/128", "1x1024/128", "8x1024/128"], ["1x8192/128"]))

    def test_more_requests_than_the_default_run_at_once_too(self):
        self.assertEqual(workloads.by_sequences(["256x1/1", "1024x1/1", "4096x1/1", "1x1/1"], 256),
                         {256: ["256x1/1", "1x1/1"], 1024: ["1024x1/1", "4096x1/1"]})

    def test_given_flags_replace_defaults(self):
        self.assertEqual(workloads.with_defaults(["--groups", "4", "--own-tokens=2"],
                                                 {"groups": 8, "own-tokens": 3, "group-size": 16}),
                         ["--group-size", 16, "--groups", "4", "--own-tokens=2"])

    def test_unknown_flags_are_refused_where_no_program_takes_them(self):
        self.assertEqual(workloads.parse_flags(["prefix", "--groups", "4"]).rest, ["--groups", "4"])
        for arguments in (["latency", "--groups", "4"], ["latency", "--work", "8"], ["w6"]):
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                workloads.parse_flags(arguments)


class TargetsTest(unittest.TestCase):
    def run_on(self, device, dtype="bf16"):
        run = {"settings": {"model": "models/shapes/llama-3.1-8b", "dtype": dtype, "device": device},
               "figures": [bench_report.figure("256x1024/1024 rate", "tokens/s", [10_000, 10_100, 9_900]),
                           bench_report.figure("256x1024/1024 time", "s", [26])]}
        targets.annotate(run)
        return run["figures"]

    def test_they_count_on_the_machine_that_they_were_made_on(self):
        rate, time = self.run_on("NVIDIA H200, weights 15317 MiB")
        self.assertEqual((rate["median"], rate["min"], rate["max"], rate["samples"]), (10_000, 9_900, 10_100, 3))
        self.assertEqual(rate["at_least"], 9_600)
        self.assertEqual(rate["references"]["vLLM 0.24"], 9_520)
        self.assertNotIn("references", time)
        for figures in (self.run_on("NVIDIA H100 80GB HBM3"), self.run_on("NVIDIA H200", "fp32"), self.run_on("CPU")):
            self.assertNotIn("at_least", figures[0])
            self.assertNotIn("references", figures[0])


class FiguresTest(unittest.TestCase):
    def served(self, **more):
        return {"duration": 2.0, "output_throughput": 500.0, "failed": 0, **more,
                **{f"{name}_{metric}_ms": 1.5 for name in ("p0", "p50", "p99", "median") for metric in
                   ("ttft", "tpot", "itl")}}

    def draw(self, name, runs):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / f"{name}.json"
            document = json.loads(json.dumps({"benchmark": name, "runs": runs}))
            paths = workload_plots.write(document, file)
            for path in paths:
                self.assertGreater(path.stat().st_size, 10_000)
            return len(paths)

    def test_latency_has_the_names_of_the_engine_alone(self):
        figures = workloads.latency_figures("8x1024/128", [self.served()] * 3, roofline=1000.0)
        by_name = {figure["name"]: figure["median"] for figure in figures}
        self.assertEqual(by_name["8x1024/128 share of the roofline"], 50)
        self.assertEqual(by_name["8x1024/128 TTFT p50"], 1.5)
        single = workloads.latency_figures("1x2/128", [self.served()], roofline=None)
        self.assertNotIn("1x2/128 TTFT p50", [figure["name"] for figure in single])
        runs = [{"settings": {"through": through}, "figures": figures + single}
                for through in ("engine alone", "gRPC and coordinator")]
        self.assertEqual(self.draw("latency-cuda-1b", runs), 1)

    def test_saturation_shows_roofline_and_references(self):
        figures = [bench_report.figure("256x1024/1024 rate", "tokens/s", [10_000, 10_200]),
                   bench_report.figure("256x1024/1024 roofline", "tokens/s", [11_000]),
                   bench_report.figure("256x1024/1024 share of the roofline", "%", [91]),
                   bench_report.figure("32x128/128 rate", "tokens/s", [5_700])]
        figures[0]["references"] = {"vLLM 0.24": 9_520}
        start = bench_report.figure("start to ready", "s", [9])
        self.assertEqual(self.draw("saturation", [{"settings": {}, "figures": [start, *figures]}]), 1)

    def test_online_counts_failed_requests_as_not_good(self):
        result = self.served(start_times=[0, 1], ttfts=[0.1, 0], itls=[[0.05], []], output_lens=[2, 0],
                             input_lens=[10, 20], request_errors=["", "RESOURCE_EXHAUSTED: full"])
        figures = workloads.online_figures(1, [result])
        by_name = {figure["name"]: figure["median"] for figure in figures}
        self.assertEqual(by_name["1/s good, TTFT 2 s, TPOT 100 ms"], 50)
        self.assertEqual(by_name["1/s good, TTFT 0.5 s, TPOT 30 ms"], 0)
        self.assertEqual(by_name["1/s prompt mean"], 15)
        alone = [bench_report.figure("start to ready", "s", [9]), bench_report.figure("8x202/179 rate", "tokens/s", [500]),
                 bench_report.figure("8x202/179 roofline", "tokens/s", [900])]
        self.assertEqual(self.draw("online", [{"figures": figures}, {"figures": alone}]), 1)

    def test_other_benchmarks_have_no_plot(self):
        self.assertEqual(self.draw("memory", [{"settings": {}, "figures": []}]), 0)


if __name__ == "__main__":
    unittest.main()
