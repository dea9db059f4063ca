#!/usr/bin/env python3
"""Workloads W2 to W5 and W7 (docs/benchmarks.md), on the CPU or a GPU.

    benchmarks/workloads.py latency|saturation|online|prefix|memory|exactness [--device cuda] [--model FOLDER] ...
    benchmarks/workloads.py plots FILE...

Runs programs that are built already, writes out/bench/NAME.json (on a GPU NAME-cuda.json), prints a table and draws
a plot beside the file where matplotlib is there. Works are REQUESTSxPROMPT/NEW, in tokens.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys

import bench_report
from goodput import Limits, arrival_rate, good_share, goodput, requests_of
from service import ROOT, ServerFailed, service
from targets import annotate

DEFAULT_MODEL = {"cpu": "models/quire-tiny", "cuda": "models/shapes/llama-3.1-8b"}

LATENCY = ("1x2/128", "1x1024/128", "1x8192/128", "8x1024/128")
# The grid's number of requests is a flag. On the CPU all of it is as small as two cores are.
GRID = {"cuda": ("128/2048", "500/2000", "2048/128", "5000/500"), "cpu": ("32/512", "128/512", "512/32", "1024/96")}
SATURATION = {"cuda": ("256x1024/1024", "1024x128/128", "32x128/128"), "cpu": ("32x128/128", "64x64/64")}
GRID_REQUESTS = {("cuda", False): 256, ("cuda", True): 32, ("cpu", False): 16, ("cpu", True): 4}
# Where more than the default number of sequences are submitted at once, they also run at once, up to this.
MANY_SEQUENCES = 1024

RATES = {("cuda", False): (20, 40, 60, 70, 80, 100), ("cuda", True): (40, 70, 100), ("cpu", False): (4, 8, 12, 16),
         ("cpu", True): (4, 12)}
SECONDS = {("cuda", False): 20, ("cuda", True): 12, ("cpu", False): 20, ("cpu", True): 8}
# As ShareGPT's conversations in tokens. Lengths are log-normal around these means, with a longest one, as its users
# filter it; the file says what the means came to.
PROMPT_TOKENS, OUTPUT_TOKENS, LENGTH_SIGMA, LONGEST = 202, 179, 1.0, 1024
SATURATED_REQUESTS = {("cuda", False): 1024, ("cuda", True): 512, ("cpu", False): 128, ("cpu", True): 32}
GOODPUT_LIMITS = (Limits(2.0, 0.100), Limits(0.5, 0.030))

EXACTNESS = {False: ("1x2/512", "1x1024/8", "8x1024/128", "32x128/128", "256x1024/1024"),
             True: ("1x2/256", "8x1024/64", "32x128/64")}

PREFIX = {("cuda", False): {"groups": 64, "group-size": 16, "unshared-groups": 16, "shared-tokens": 2048,
                            "own-tokens": 128, "new-tokens": 256},
          ("cuda", True): {"groups": 8, "group-size": 16, "unshared-groups": 4, "shared-tokens": 2048,
                           "own-tokens": 128, "new-tokens": 256},
          ("cpu", False): {}, ("cpu", True): {"groups": 2, "group-size": 4}}
MEMORY = {("cuda", False): {"mixed-requests": 512, "mixed-blocks": 8192},
          ("cuda", True): {"mixed-requests": 128, "mixed-blocks": 2048},
          ("cpu", False): {}, ("cpu", True): {"mixed-requests": 32}}


def parse_work(text):
    """(requests, prompt tokens, new tokens). ValueError: it is not RxP/N."""
    requests, _, lengths = text.partition("x")
    prompt, _, new = lengths.partition("/")
    work = int(requests), int(prompt), int(new)
    if min(work) < 1:
        raise ValueError(f"{text}: every number is above 0")
    return work


def works_that_fit(works, context):
    """Those whose requests fit the model's context of so many tokens, and those that do not."""
    fits = [work for work in works if sum(parse_work(work)[1:]) <= context]
    return fits, [work for work in works if work not in fits]


def by_sequences(works, default):
    """{sequences at once: works}: what is wider than the default gets an engine of its own, as wide."""
    groups = {}
    for work in works:
        wide = min(parse_work(work)[0], MANY_SEQUENCES)
        groups.setdefault(wide if wide > default else default, []).append(work)
    return groups


def shown(path):
    """Relative to the repository where it lies there."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


class Bench:
    """What all workloads share: the model, the programs and their flags."""

    def __init__(self, flags):
        self.flags = flags
        self.model = pathlib.Path(flags.model or ROOT / DEFAULT_MODEL[flags.device])
        self.shown_model = shown(self.model)
        self.is_dummy = not any(self.model.glob("*.safetensors"))
        config = json.loads((self.model / "config.json").read_text())
        self.context = config["max_position_embeddings"]
        self.volume = (flags.device, flags.quick)
        self.repeats = flags.repeats or (1 if flags.quick else 3)

    def engine_program(self, name, *arguments):
        """A run's document. ServerFailed: the program ended with an error, and said why."""
        command = [self.flags.bin / name, "--model", self.shown_model, "--device", self.flags.device, "--dtype",
                   self.flags.dtype, *(["--dummy"] if self.is_dummy else []), "--threads", self.flags.threads,
                   "--repeats", self.repeats, *arguments]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise ServerFailed(f"{name} ended with status {done.returncode}")
        return json.loads(done.stdout)

    def workload_bench(self, works, *arguments):
        run = self.engine_program("workload_bench", "--work", ",".join(works), *self.speed(), *arguments)
        run["settings"] = {"through": "engine alone"} | run["settings"]
        return run

    def speed(self):
        """The roofline's flags, where they were given."""
        return with_defaults([], {name: value for name in ("read-gb-per-s", "peak-tflops")
                                  if (value := getattr(self.flags, name.replace("-", "_")))})

    def service(self, *arguments):
        return service(self.flags.bin, ROOT / "out" / "bench" / "logs", "--model", self.model, "--device",
                       self.flags.device, "--dtype", self.flags.dtype, "--load-format",
                       "dummy" if self.is_dummy else "auto", "--num-threads", self.flags.threads, *arguments)

    def settings(self, **more):
        return {"through": "gRPC and coordinator", "model": self.shown_model,
                "weights": "dummy" if self.is_dummy else "checkpoint", "dtype": self.flags.dtype,
                "device": self.gpu_name() or "CPU"} | more

    def gpu_name(self):
        return bench_report.gpu().split(",")[0] if self.flags.device == "cuda" else ""

    def fitting(self, works):
        fits, left_out = works_that_fit(works, self.context)
        if left_out:
            print(f"left out, for the model's context of {self.context} tokens: {', '.join(left_out)}")
        return fits

    def publish(self, name, runs):
        for run in runs:
            annotate(run)
        device = ["cuda"] if self.flags.device == "cuda" else []
        tag = [self.flags.tag] if self.flags.tag else []
        path = bench_report.publish("-".join([name, *device, *tag]), runs, self.flags.device)
        if name in DRAWN:
            draw([path])


def latency(bench):
    """W2: time to the first token and between tokens, through the engine alone and through the service."""
    works = bench.fitting(bench.flags.work or LATENCY)
    alone = bench.workload_bench(works)
    rooflines = {figure["name"]: figure["median"] for figure in alone["figures"]}
    longest = max(sum(parse_work(work)[1:]) for work in works)
    served = {"settings": bench.settings(work=",".join(works)), "load_average": bench_report.load_average(),
              "figures": []}
    with bench.service("--max-model-len", min(bench.context, longest), "--no-enable-prefix-caching") as running:
        for number, work in enumerate(works):
            requests, prompt, new = parse_work(work)
            results = [running.bench("--random-input-len", prompt, "--random-output-len", new, "--temperature", 0,
                                     "--num-prompts", requests, "--concurrency", requests,
                                     "--num-warmups", 1 if repeat == 0 else 0,
                                     "--metric-percentiles", "0,50,99", "--seed", 1000 * number + repeat)
                       for repeat in range(bench.repeats)]
            served["figures"] += latency_figures(work, results, rooflines.get(f"{work} roofline"))
    bench.publish("latency", [alone, served])


def latency_figures(work, results, roofline):
    """Under the names of workload_bench, of the JSON objects of `quire bench`. `roofline`: tokens/s, or None."""
    metrics = [("time", "s", "duration"), ("rate", "tokens/s", "output_throughput"), ("TTFT", "ms", "p0_ttft_ms")]
    if parse_work(work)[0] > 1:
        metrics += [("TTFT p50", "ms", "p50_ttft_ms"), ("TTFT p99", "ms", "p99_ttft_ms")]
    metrics += [("ms a token", "ms", "p50_tpot_ms"), ("ITL p50", "ms", "p50_itl_ms"), ("ITL p99", "ms", "p99_itl_ms")]
    figures = [bench_report.figure(f"{work} {name}", unit, [result[key] for result in results])
               for name, unit, key in metrics]
    if roofline:
        shares = [100 * result["output_throughput"] / roofline for result in results]
        figures.append(bench_report.figure(f"{work} share of the roofline", "%", shares))
    return figures


def saturation(bench):
    """W3: output tokens a second with everything submitted at once."""
    grid_requests = bench.flags.grid_requests or GRID_REQUESTS[bench.volume]
    device = bench.flags.device
    works = bench.flags.work or [*SATURATION[device], *(f"{grid_requests}x{shape}" for shape in GRID[device])]
    runs = [bench.workload_bench(group, "--max-num-seqs", sequences) for sequences, group
            in by_sequences(bench.fitting(works), bench.flags.max_num_seqs).items()]
    bench.publish("saturation", runs)


def online(bench):
    """W4: goodput at rates of Poisson arrivals, through the service. Beside it the engine alone, with requests of the
    mean lengths all at once: what it and the roofline bound the rate by."""
    rates = bench.flags.rates or RATES[bench.volume]
    seconds = bench.flags.seconds or SECONDS[bench.volume]
    longest = min(LONGEST, bench.context // 2)
    alone = bench.workload_bench([f"{SATURATED_REQUESTS[bench.volume]}x{PROMPT_TOKENS}/{OUTPUT_TOKENS}"],
                                 "--max-num-seqs", bench.flags.max_num_seqs)
    run = {"settings": bench.settings(seconds=seconds, mean_prompt_tokens=PROMPT_TOKENS,
                                      mean_output_tokens=OUTPUT_TOKENS, length_sigma=LENGTH_SIGMA,
                                      longest_prompt=longest, longest_output=longest, repeats=bench.repeats),
           "load_average": bench_report.load_average(), "figures": []}
    lengths = ("--random-input-len", PROMPT_TOKENS, "--random-output-len", OUTPUT_TOKENS, "--random-len-sigma",
               LENGTH_SIGMA, "--random-len-max", longest, "--temperature", 0)
    with bench.service("--max-model-len", 2 * longest, "--max-num-seqs", bench.flags.max_num_seqs) as running:
        running.bench(*lengths, "--num-prompts", 8, "--num-warmups", 0, "--seed", 1)
        for number, rate in enumerate(rates):
            results = []
            for repeat in range(bench.repeats):
                results.append(running.bench(*lengths, "--request-rate", rate, "--num-prompts",
                                             max(2, round(rate * seconds)), "--num-warmups", 0, "--save-detailed",
                                             "--seed", 1000 * (number + 1) + repeat, may_fail=True))
            run["figures"] += online_figures(rate, results)
    bench.publish("online", [run, alone])


def online_figures(rate, results):
    """Of a rate's repeats: JSON objects of `quire bench --save-detailed`."""
    requests = [requests_of(result) for result in results]
    figures = []

    def add(metric, unit, samples):
        figures.append(bench_report.figure(f"{rate:g}/s {metric}", unit, samples))

    add("arrivals", "1/s", [arrival_rate(r) for r in requests])
    for limits in GOODPUT_LIMITS:
        add(f"goodput, {limits.label}", "1/s", [goodput(r, limits) for r in requests])
        add(f"good, {limits.label}", "%", [100 * good_share(r, limits) for r in requests])
    for metric, unit, key in (("output", "tokens/s", "output_throughput"), ("TTFT p50", "ms", "median_ttft_ms"),
                              ("TTFT p99", "ms", "p99_ttft_ms"), ("TPOT p50", "ms", "median_tpot_ms"),
                              ("TPOT p99", "ms", "p99_tpot_ms"), ("failed", "", "failed")):
        add(metric, unit, [result[key] for result in results])
    for metric, key in (("prompt mean", "input_lens"), ("output mean", "output_lens")):
        add(metric, "tokens", [sum(result[key]) / len(result[key]) for result in results])
    return figures


def prefix(bench):
    """W5: what the prefix cache saves, and what it costs where nothing is shared."""
    bench.publish("prefix", [bench.engine_program("kv_bench", "--work", "prefix", *bench.speed(),
                                                  *with_defaults(bench.flags.rest, PREFIX[bench.volume]))])


def memory(bench):
    """W7: how full the KV pool is kept under mixed lengths."""
    bench.publish("memory", [bench.engine_program("kv_bench", "--work", "memory",
                                                  *with_defaults(bench.flags.rest, MEMORY[bench.volume]))])


def exactness(bench):
    """What exactness costs the whole engine, against its own fastest setting without: on a GPU alone."""
    if bench.flags.device != "cuda":
        raise ServerFailed("on the CPU there is no faster setting without; --device cuda is needed")
    works = bench.fitting(bench.flags.work or EXACTNESS[bench.flags.quick])
    bench.publish("exactness", [bench.engine_program("exactness_bench", "--work", ",".join(works), "--max-num-seqs",
                                                     bench.flags.max_num_seqs, *bench.flags.rest)])


def with_defaults(arguments, defaults):
    """Flags as given, and those of {name: value} that were not."""
    given = {argument.split("=")[0] for argument in arguments}
    missing = [item for name, value in defaults.items() if f"--{name}" not in given for item in (f"--{name}", value)]
    return [*missing, *arguments]


def draw(files):
    """A PNG beside each file that has a plot, if matplotlib is there."""
    try:
        from report import workload_plots
    except ModuleNotFoundError as error:
        print(f"no plot, for want of {error.name}; elsewhere: ./dev bench plots {' '.join(map(shown, files))}")
        return
    for file in files:
        for path in workload_plots.write(json.loads(file.read_text()), file):
            print(f"wrote {shown(path)}")


DRAWN = ("latency", "saturation", "online")
WORKLOADS = {workload.__name__: workload for workload in (latency, saturation, online, prefix, memory, exactness)}
# What these do not know is their program's: --groups 8, --rounds 1 and so on.
PASSING_ON = ("prefix", "memory", "exactness")


def parse_flags(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=lambda text: pathlib.Path(text).resolve(),
                        help="a folder without *.safetensors gets random weights; default: quire-tiny, on a GPU the "
                             "shape of Llama 3.1 8B")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=0, help="that compute; 0: one a core")
    parser.add_argument("--repeats", type=int, help="a figure is their median; default: 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="reduced volume")
    parser.add_argument("--tag", help="ends the result file's name, so that runs do not replace each other's")
    parser.add_argument("--bin", type=lambda text: pathlib.Path(text).resolve(),
                        help="default: the binaries of the preset for the device")
    parser.add_argument("--read-gb-per-s", type=float, help="roofline: read bandwidth; default on a GPU: an H200's")
    parser.add_argument("--peak-tflops", type=float, help="roofline: matrix products")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="sequences at once")
    parser.add_argument("--work", type=lambda text: text.split(","),
                        help="latency, saturation, exactness: RxP/N, separated by commas")
    parser.add_argument("--grid-requests", type=int, help="saturation: requests of each point of the grid")
    parser.add_argument("--rates", type=lambda text: [float(rate) for rate in text.split(",")],
                        help="online: requests a second, separated by commas")
    parser.add_argument("--seconds", type=float, help="online: how long requests arrive at each rate")
    flags, rest = parser.parse_known_args(arguments)
    flags.rest = rest
    if flags.rest and flags.workload not in PASSING_ON:
        parser.error(f"unknown: {' '.join(flags.rest)}")
    try:
        for work in flags.work or ():
            parse_work(work)
    except ValueError as error:
        parser.error(f"--work: {error}")
    flags.bin = flags.bin or ROOT / "build" / ("cuda" if flags.device == "cuda" else "release") / "bin"
    return flags


def main(arguments):
    if arguments[:1] == ["plots"]:
        draw([pathlib.Path(file) for file in arguments[1:]])
        return 0
    flags = parse_flags(arguments)
    # The servers end with the `with` block.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        WORKLOADS[flags.workload](Bench(flags))
    except KeyboardInterrupt:
        return 130
    except (ServerFailed, OSError, subprocess.SubprocessError) as error:
        print(f"{flags.workload}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
