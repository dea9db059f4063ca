"""Where something was measured."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess


def describe_machine(device: str = "cpu") -> dict[str, object]:
    """What `quire compare` does not say itself. `device`: cpu, or cuda for the GPU's name, memory and driver too."""
    description: dict[str, object] = {
        "system": f"{platform.system()} {platform.release()}",
        # Before anything was started. Above a fraction others were at work, and the figures are worth less.
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    if device == "cuda":
        description["gpu"] = describe_gpu()
    return description


def describe_gpu() -> str:
    """Name, memory and driver of the first GPU. OSError or subprocess.SubprocessError: nvidia-smi does not say."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def describe_versions(quire: pathlib.Path) -> dict[str, str]:
    """`quire` is the binary, asked for its own version."""
    answer = subprocess.run([quire, "--version"], capture_output=True, text=True, check=True, timeout=30)
    versions = {"quire": answer.stdout.split()[-1], "python": platform.python_version()}
    for package in ("torch", "transformers"):
        versions[package] = importlib.metadata.version(package)
    return versions

