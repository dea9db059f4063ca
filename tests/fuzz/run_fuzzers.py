#!/usr/bin/env python3
"""Runs fuzzers of the preset fuzz for a while each, and prints what each did.

    tests/fuzz/run_fuzzers.py BUILD_DIR [--seconds N] [--jobs N] [--seed N] [TARGET ...]

Each starts from tests/fuzz/corpus/TARGET and from what earlier runs found interesting, which is kept in
BUILD_DIR/fuzz/corpus/TARGET. An input that breaks something is left in BUILD_DIR/fuzz/findings, and the exit status is 1.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
CORPUS = FOLDER / "corpus"
PROGRESS = r"^#\d+\s+\w+\s+cov: (\d+) ft: \d+ corp: (\d+)/"
# These keep a coordinator from input to input, whose memory changes: libFuzzer would look for leaks after each of
# them. fuzz_corpus_test does so at its end.
KEEP_STATE = ("generate_request", "session_events")
# One input may take this long and this much memory, AddressSanitizer's own included.
INPUT_S = 20
INPUT_MB = 2048


def last(pattern, text, default):
    found = re.findall(pattern, text, re.MULTILINE)
    return found[-1] if found else default


def run(build, target, seconds, seed):
    """One fuzzer for `seconds`, with other choices each time if `seed` is 0. Its line for the summary, and its output if
    it found something."""
    corpus = build / "fuzz/corpus" / target
    findings = build / "fuzz/findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.glob(f"{target}-*"))
    command = [build / "bin" / f"fuzz_{target}", corpus, CORPUS / target, f"-max_total_time={seconds}", f"-seed={seed}",
               f"-timeout={INPUT_S}", f"-rss_limit_mb={INPUT_MB}", "-max_len=8192", "-entropic=0",
               "-print_final_stats=1", f"-artifact_prefix={findings}/{target}-"]
    # Without -entropic=0 that schedule takes two thirds of the time, where an input covers thousands of edges.
    if target in KEEP_STATE:
        command.append("-detect_leaks=0")
    if (words := FOLDER / f"{target}.dict").exists():
        command.append(f"-dict={words}")
    # Containers of uninstrumented libraries confuse one check. libFuzzer looks for leaks after an input; at the
    # end of the process it would report what it leaks itself.
    options = "detect_container_overflow=0:detect_leaks=1:leak_check_at_exit=0:strict_string_checks=1"
    environment = {**os.environ, "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1"}
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env=environment, check=False)
    output = result.stdout.decode(errors="replace")
    new = sorted(path.name for path in set(findings.glob(f"{target}-*")) - before)
    coverage, size = last(PROGRESS, output, ("0", "0"))
    line = (f"summary: fuzz {target}: {last(r'number_of_executed_units: *([0-9]+)', output, 0)} executions, "
            f"{last(r'average_exec_per_sec: *([0-9]+)', output, 0)} a second, corpus of {size} inputs, "
            f"{coverage} edges covered, {len(new) if new or result.returncode == 0 else 1} findings")
    if result.returncode == 0:
        return line, ""
    return line, output[-8000:] + f"\nfuzz_{target} ended with {result.returncode}: {', '.join(new) or 'no input'}\n"


def main():
    known = sorted(path.name for path in CORPUS.iterdir())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(known))
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="fuzzers at once (default: one a core)")
    parser.add_argument("--seed", type=int, default=0, help="of the choices (default: another each time)")
    arguments = parser.parse_intermixed_args()
    for target in arguments.targets:
        if target not in known:
            parser.error(f"no target {target}; there is: {', '.join(known)}")
    failed = False
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [pool.submit(run, arguments.build, target, arguments.seconds, arguments.seed)
                for target in arguments.targets or known]
        for done in runs:
            line, problem = done.result()
            print(line, flush=True)
            if problem:
                print(problem, file=sys.stderr)
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
