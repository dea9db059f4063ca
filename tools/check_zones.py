#!/usr/bin/env python3
"""Fails when an include line crosses a zone border, and says which rule it breaks.

The borders are those of docs/architecture.md: scheduler/ decides and knows nothing of the outside,
worker/model and worker/device execute, everything else converts and forwards.

    tools/check_zones.py [ROOT]
"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
TORCH = re.compile(r"^(torch|ATen|c10)/")
RPC = re.compile(r"^(grpc|grpcpp|google|quire|etcd)/|\.pb\.h$")
WORLD = re.compile(
    r"^(thread|mutex|shared_mutex|condition_variable|future|chrono|random|fstream|iostream|filesystem|ctime|time\.h"
    r"|unistd\.h|sys/.*|pthread\.h|absl/(synchronization|random|flags|debugging)/.*|absl/time/.*)$"
)

# (folder, forbidden include, rule). The first path part decides; longer folders are listed first.
RULES = [
    ("scheduler/", TORCH, "scheduler/ is pure: no torch"),
    ("scheduler/", RPC, "scheduler/ is pure: no gRPC, no protobuf"),
    ("scheduler/", WORLD, "scheduler/ is pure: time, threads, randomness and I/O arrive as arguments"),
    ("scheduler/", re.compile(r"^(common|worker|coordinator|text|clients)/"), "scheduler/ includes nothing but scheduler/"),
    ("worker/model/", re.compile(r"^(common|coordinator|text|clients|worker/(engine|rpc|device))/"), "worker/model/ knows only scheduler/ and itself"),
    ("worker/device/", re.compile(r"^(common|coordinator|text|clients|worker/rpc)/|^worker/engine/(?!model_executor\.h)"), "worker/device/ executes plans: it knows scheduler/, worker/model/ and model_executor.h"),
    ("worker/model/", RPC, "the device zone knows no gRPC and no protobuf"),
    ("worker/device/", RPC, "the device zone knows no gRPC and no protobuf"),
    ("worker/engine/", RPC, "worker/engine/ knows no gRPC and no protobuf"),
    ("worker/engine/", re.compile(r"^worker/(rpc|device)/|^(coordinator|text|clients)/"), "worker/engine/ sees the device only through model_executor.h"),
    ("coordinator/", re.compile(r"^(worker|clients)/"), "the coordinator never includes the worker"),
    ("worker/rpc/", re.compile(r"^worker/device/|^(coordinator|clients)/"), "worker/rpc/ sees the engine, not the device"),
    ("clients/", re.compile(r"^(worker|coordinator|scheduler|text)/"), "clients know the public API alone"),
    ("text/", re.compile(r"^(worker|coordinator|scheduler|clients|common)/"), "text/ stands alone"),
    ("common/", re.compile(r"^(worker|coordinator|scheduler|clients|text)/"), "common/ is below everything else"),
]
CHANNEL = re.compile(r"\bgrpc::Create(Custom)?Channel\(")
TORCH_FOLDERS = ("worker/device/torch_baseline/", "worker/device/cuda/", "tests/worker/device/torch_baseline/",
                 "tests/worker/device/cuda/", "benchmarks/torch/")


def broken_rules(path, includes):
    found = []
    for line, name in includes:
        for folder, forbidden, rule in RULES:
            if path.startswith(folder) and forbidden.search(name):
                found.append((line, name, rule))
        if TORCH.search(name) and not path.startswith(TORCH_FOLDERS):
            found.append((line, name, "torch is included only under " + ", ".join(TORCH_FOLDERS[:2])))
    if any(TORCH.search(n) for _, n in includes) and any(RPC.search(n) for _, n in includes):
        found.append((1, "torch and protobuf", "a file includes torch or protobuf, never both"))
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    failures = 0
    for top in ("scheduler", "worker", "coordinator", "common", "text", "clients", "tests", "benchmarks"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in (".h", ".cc", ".cu", ".cuh") or "target" in file.parts:
                continue
            path = file.relative_to(root).as_posix()
            lines = file.read_text().splitlines()
            includes = [(number, match.group(1)) for number, text in enumerate(lines, 1) if (match := INCLUDE.match(text))]
            for number, text in enumerate(lines, 1):
                if CHANNEL.search(text) and path != "common/channel.cc":
                    print(f"{path}:{number}: channels are made by common/channel.h", file=sys.stderr)
                    failures += 1
            for line, name, rule in broken_rules(path, includes):
                print(f"{path}:{line}: includes {name}: {rule}", file=sys.stderr)
                failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
