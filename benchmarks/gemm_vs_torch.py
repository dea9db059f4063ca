#!/usr/bin/env python3
"""Compares the CPU matrix products with torch.mm(x, W.t()), both in this process, A B A B.

    .venv/bin/python benchmarks/gemm_vs_torch.py [--m 1,2,4,8,32,128] [--dtypes bf16,fp32] [--shapes qkv,down]
        [--json out/gemm_vs_torch.json]

Weights are walked out of cache: a pass multiplies by one copy after another, and the copies are four times the
last-level cache together. Each side makes one call a product. A figure is the median over the repeats; a ratio the
median of the repeats' ratios (torch's time over ours: above 1 is faster than torch). Results are compared first.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import statistics
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {"qkv": (1152, 896), "o": (896, 896), "gate_up": (9728, 896), "down": (896, 4864), "lm_head": (151936, 896)}
DTYPES = {"bf16": (0, torch.bfloat16), "fp32": (1, torch.float32)}


def last_level_cache_bytes():
    sizes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(size.read_text().strip().rstrip("K")) << 10 for size in sizes), default=32 << 20)


def load_library(path):
    library = ctypes.CDLL(str(path))
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    library.quire_gemm_engine.restype = pointer
    library.quire_gemm_engine.argtypes = [ctypes.c_int]
    library.quire_gemm_isa.restype = ctypes.c_char_p
    library.quire_gemm_isa.argtypes = [pointer]
    library.quire_gemm_pack.restype = pointer
    library.quire_gemm_pack.argtypes = [ctypes.c_int, int64, int64, pointer]
    library.quire_gemm_release.restype = None
    library.quire_gemm_release.argtypes = [pointer]
    library.quire_gemm_multiply.restype = None
    library.quire_gemm_multiply.argtypes = [pointer, int64, pointer, pointer, pointer]
    return library


def check_equal(ours, reference, dtype):
    """Ends the run when the two disagree by more than the dtype's rounding."""
    error = (ours.float() - reference.float()).abs().max().item()
    scale = reference.float().abs().max().item()
    if not error <= scale * (1e-2 if dtype == "bf16" else 1e-5):
        sys.exit(f"results differ: {error} where the largest is {scale}")


def measure(library, engine, shape, dtype, batch_sizes, repeats):
    code, torch_dtype = DTYPES[dtype]
    n, k = SHAPES[shape]
    weight_bytes = n * k * torch_dtype.itemsize
    copies = max(1, 4 * last_level_cache_bytes() // weight_bytes)
    weights = [torch.randn(n, k, dtype=torch.float32).mul_(k**-0.5).to(torch_dtype) for _ in range(copies)]
    packed = [library.quire_gemm_pack(code, n, k, w.data_ptr()) for w in weights]
    if not all(packed):
        sys.exit("not enough memory for the packed weights")
    transposed = [w.t() for w in weights]
    rows = []
    for m in batch_sizes:
        x = torch.randn(m, k).to(torch_dtype)
        ours = torch.empty(m, n, dtype=torch_dtype)
        theirs = torch.empty(m, n, dtype=torch_dtype)
        x_pointer, y_pointer = x.data_ptr(), ours.data_ptr()

        def our_pass():
            for handle in packed:
                library.quire_gemm_multiply(engine, m, x_pointer, handle, y_pointer)

        def their_pass():
            for w in transposed:
                torch.mm(x, w, out=theirs)

        def seconds(run):
            run()  # also lets the other side's threads stop spinning
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) / copies

        pairs = [(seconds(our_pass), seconds(their_pass)) for _ in range(repeats)]
        check_equal(ours, theirs, dtype)
        our_median = statistics.median(a for a, _ in pairs)
        rows.append({
            "shape": shape, "n": n, "k": k, "m": m, "dtype": dtype,
            "ours_us": our_median * 1e6,
            "torch_us": statistics.median(b for _, b in pairs) * 1e6,
            "ratio": statistics.median(b / a for a, b in pairs),
            "ratio_min": min(b / a for a, b in pairs),
            "ratio_max": max(b / a for a, b in pairs),
            "ours_gb_per_s": weight_bytes / our_median / 1e9,
            "ours_gflop_per_s": 2 * m * n * k / our_median / 1e9,
        })
    for handle in packed:
        library.quire_gemm_release(handle)
    return rows


def print_table(rows):
    print(f"{'shape':8} {'dtype':5} {'m':>4} {'ours us':>10} {'torch us':>10} {'ratio':>6} {'(min-max)':>12} "
          f"{'GB/s':>6} {'GFLOP/s':>8}")
    for r in rows:
        spread = f"{r['ratio_min']:.2f}-{r['ratio_max']:.2f}"
        print(f"{r['shape']:8} {r['dtype']:5} {r['m']:4} {r['ours_us']:10.1f} {r['torch_us']:10.1f} {r['ratio']:6.2f} "
              f"{spread:>12} {r['ours_gb_per_s']:6.1f} {r['ours_gflop_per_s']:8.1f}")


# Least geometric mean of the ratios by range of m, and least ratio of any shape.
TARGETS = ((range(1, 9), 1.5), (range(9, 129), 1.0))
LEAST_RATIO = 0.9


def summarize(rows):
    """The ratios by dtype and range of m, as figures of bench_report.py."""
    figures = []
    for dtype in DTYPES:
        for batch_sizes, least_mean in TARGETS:
            ratios = [r["ratio"] for r in rows if r["dtype"] == dtype and r["m"] in batch_sizes]
            if not ratios:
                continue
            name = f"{dtype}, m = {batch_sizes[0]} to {batch_sizes[-1]}"
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            figures += [figure(f"{name}, geometric mean", [mean], least_mean),
                        figure(f"{name}, least of a shape", [min(ratios)], LEAST_RATIO)]
    return figures


def figure(name, samples, at_least):
    return {"name": name, "unit": "x torch", "median": statistics.median(samples), "min": min(samples),
            "max": max(samples), "samples": len(samples), "at_least": at_least}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=pathlib.Path, default=ROOT / "build/release/bin/libquire_gemm_c.so")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--m", default="1,2,4,8,32,128", help="rows of x, separated by commas")
    parser.add_argument("--dtypes", default="bf16,fp32")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    args = parser.parse_args()
    if not args.library.exists():
        sys.exit(f"no {args.library}: build the target quire_gemm_c first")
    for option, known in (("dtypes", DTYPES), ("shapes", SHAPES)):
        for name in getattr(args, option).split(","):
            if name not in known:
                parser.error(f"--{option}: unknown {name}; one of {', '.join(known)}")
    load_average = os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    library = load_library(args.library)
    engine = library.quire_gemm_engine(args.threads)
    batch_sizes = [int(m) for m in args.m.split(",")]
    rows = []
    with torch.inference_mode():
        for dtype in args.dtypes.split(","):
            for shape in args.shapes.split(","):
                rows += measure(library, engine, shape, dtype, batch_sizes, args.repeats)
    print_table(rows)
    figures = summarize(rows)
    if not args.json:
        for entry in figures:
            print(f"{entry['name']}: {entry['median']:.2f} (at least {entry['at_least']})")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({
            "benchmark": "gemm", "load_average": load_average,
            "settings": {"torch": torch.__version__, "threads": args.threads, "repeats": args.repeats,
                         "isa": library.quire_gemm_isa(engine).decode()},
            "figures": figures, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
