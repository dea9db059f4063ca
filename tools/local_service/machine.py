"""Where something was measured."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess


def describe_machine() -> dict[str, object]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()}",
        # Above the number of cores others were at work, and the figures are worth less.
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def describe_versions(quire: pathlib.Path) -> dict[str, str]:
    """`quire` is the binary, asked for its own version."""
    answer = subprocess.run([quire, "--version"], capture_output=True, text=True, check=True, timeout=30)
    versions = {"quire": answer.stdout.split()[-1], "python": platform.python_version()}
    for package in ("torch", "transformers"):
        versions[package] = importlib.metadata.version(package)
    return versions


def _cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
