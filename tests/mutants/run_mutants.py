#!/usr/bin/env python3
"""Applies the bugs of mutants.py one at a time to a copy of the tree, and says which test catches each.

    tests/mutants/run_mutants.py [--tree FOLDER] [--markdown FILE] [WORD ...]

WORDs choose the mutants whose names contain one of them. The copy is a git worktree of HEAD under build/mutants,
with a build of its own (release), which stays there for the next run. A program that is killed or that ends neither
well nor by a failed test within its time catches too. Exits with 1 if one survives.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

from mutants import MUTANTS

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEST_SECONDS = 150
SEEDS = "3000"  # of simulation_test: enough for all that it catches
FAILED = re.compile(r"^\[  FAILED  \] ([\w./]+)", re.MULTILINE)


def run(command, cwd, seconds=None, **environment):
    """The exit status and the output; None where time ran out."""
    try:
        done = subprocess.run(command, cwd=cwd, env=os.environ | environment, timeout=seconds, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout


def must_run(command, cwd):
    status, output = run(command, cwd)
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output[-3000:]}")


def make_tree(tree):
    if not tree.exists():
        must_run(["git", "worktree", "add", "--detach", str(tree), "HEAD"], ROOT)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    must_run(["git", "checkout", "--quiet", "--force", "--detach", head], tree)
    venv = tree / ".venv"
    if not venv.exists():
        venv.symlink_to((ROOT / ".venv").resolve())
    must_run(["cmake", "--preset", "release"], tree)


def build(tree, programs):
    return run(["ninja", "-C", "build/release", *programs], tree)


def caught_by(tree, programs):
    """The first test that fails with the mutant; None where all pass."""
    for program in programs:
        status, output = run([f"build/release/bin/{program}", "--gtest_fail_fast"], tree, TEST_SECONDS,
                             QUIRE_SEEDS=SEEDS)
        if status == 0:
            continue
        failed = FAILED.search(output)
        if failed:
            return f"{program}: {failed[1]}"
        last = re.findall(r"^\[ RUN      \] ([\w./]+)", output, re.MULTILINE)
        how = "hangs" if status is None else "CHECK" if "CHECK failed" in output else f"ends with {status}"
        return f"{program}: {last[-1] + ' ' if last else ''}({how})"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT / "build/mutants")
    parser.add_argument("--markdown", type=pathlib.Path, help="append the table's rows to this file")
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if not arguments.words or any(word in m.name for word in arguments.words)]
    tree = arguments.tree.resolve()
    make_tree(tree)
    programs = sorted({program for mutant in chosen for program in mutant.tests})
    status, output = build(tree, programs)
    if status != 0:
        sys.exit(f"the tree does not build without a mutant:\n{output[-3000:]}")
    num_survivors = 0
    for mutant in chosen:
        started = time.monotonic()
        file = tree / mutant.file
        source = file.read_text()
        if source.count(mutant.old) != 1:
            verdict, ok = f"NOT APPLIED: its text occurs {source.count(mutant.old)} times", False
        else:
            file.write_text(source.replace(mutant.old, mutant.new))
            try:
                status, output = build(tree, mutant.tests)
                if status != 0:
                    verdict, ok = f"DOES NOT BUILD: {output[-600:]}", False
                else:
                    test = caught_by(tree, mutant.tests)
                    verdict, ok = test or "SURVIVED", test is not None
            finally:
                file.write_text(source)
        num_survivors += not ok
        print(f"{'caught' if ok else 'MISSED'} {mutant.name} | {verdict} | {time.monotonic() - started:.0f} s",
              flush=True)
        if arguments.markdown:
            with arguments.markdown.open("a") as table:
                table.write(f"| {mutant.name} | `{mutant.file}` | {verdict} |\n")
    print(f"summary: {len(chosen) - num_survivors} of {len(chosen)} mutants caught")
    return 1 if num_survivors else 0


if __name__ == "__main__":
    sys.exit(main())
