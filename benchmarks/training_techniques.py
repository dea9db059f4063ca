"""What four training techniques save in training, and what is left of it when a model only serves.

Measures on the CPU, fp32 unless it says otherwise, each memory figure in a process of its own:
  attention     full score matrix, a tiled loop and torch's fused attention at growing lengths
  activations   a training step of quire-tiny with and without gradient checkpointing, and a forward pass that
                keeps nothing
  optimizer     bytes of weights, gradients and AdamW's state, and what two ZeRO-1 ranks hold of it
  replicas      memory of quire-worker processes that serve one model side by side
Writes one JSON file and prints the tables of docs/training-techniques.md.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import torch

# Every tensor of 64 KiB or more gets pages of its own, which go back at once when it dies: the resident
# set then follows the live tensors. glibc reads this at the start of a process.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

LENGTHS = (256, 512, 1024, 2048, 4096)
HEADS, HEAD_DIM, TILE = 6, 64, 64  # quire-tiny's heads; the segment of the paged engine's attention
REPETITIONS = 3
MIB = 2**20


def status_bytes(field: str, pid: int | str = "self") -> int:
    """A line of /proc/PID/status, in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def reset_peak() -> None:
    """Makes VmHWM, the peak of the resident set, start anew."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def median_seconds(run) -> float:
    run()
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# --- Attention --------------------------------------------------------------------------------------


def naive_attention(q, k, v):
    """Causal attention that writes the whole matrix of scores."""
    length = q.shape[-2]
    scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5
    scores.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu_(1), float("-inf"))
    return torch.softmax(scores, -1) @ v


def tiled_attention(q, k, v):
    """The same with an online softmax (arXiv:1805.02867) over tiles of TILE keys: one tile of scores lives."""
    length = q.shape[-2]
    out = torch.empty_like(q)
    diagonal = torch.ones(TILE, TILE, dtype=torch.bool).triu_(1)
    for begin in range(0, length, TILE):
        rows = q[:, :, begin:begin + TILE] * HEAD_DIM**-0.5
        maximum = torch.full((1, HEADS, TILE, 1), float("-inf"))
        total = torch.zeros(1, HEADS, TILE, 1)
        sums = torch.zeros(1, HEADS, TILE, HEAD_DIM)
        for start in range(0, begin + TILE, TILE):
            scores = rows @ k[:, :, start:start + TILE].transpose(-1, -2)
            if start == begin:
                scores.masked_fill_(diagonal, float("-inf"))
            larger = torch.maximum(maximum, scores.amax(-1, keepdim=True))
            weights = torch.exp(scores - larger)
            scale = torch.exp(maximum - larger)
            total = total * scale + weights.sum(-1, keepdim=True)
            sums = sums * scale + weights @ v[:, :, start:start + TILE]
            maximum = larger
        out[:, :, begin:begin + TILE] = sums / total
    return out


def fused_attention(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


ATTENTIONS = {"full matrix": naive_attention, "tiled": tiled_attention, "fused": fused_attention}


def measure_attention(name: str, length: int) -> dict:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, HEAD_DIM) for _ in range(3))
    attention = ATTENTIONS[name]
    with torch.inference_mode():
        attention(*(t[:, :, :TILE].contiguous() for t in (q, k, v)))  # Loads what torch loads late.
        before = status_bytes("VmRSS")
        reset_peak()
        out = attention(q, k, v)
        peak = status_bytes("VmHWM") - before
        error = (out - fused_attention(q, k, v)).abs().max().item()
    return {"attention": name, "length": length, "peak_bytes": peak, "max_difference": error,
            "score_matrix_bytes": HEADS * length * length * 4}


def time_attention(name: str, length: int) -> dict:
    q, k, v = (torch.randn(1, HEADS, length, HEAD_DIM) for _ in range(3))
    with torch.inference_mode():
        return {"seconds": median_seconds(lambda: ATTENTIONS[name](q, k, v))}


# --- Activations ------------------------------------------------------------------------------------


def load_model(folder: str):
    import transformers
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def activation_step(folder: str, mode: str, tokens: int, after_forward):
    """A function that makes one pass. It calls after_forward while everything kept for the way back is held."""
    model = load_model(folder)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, model.config.vocab_size, (1, tokens), generator=generator)
    training = mode != "inference"
    model.train(training)
    if mode == "checkpointed":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():  # So that gradients are no part of the figures.
        parameter.grad = torch.zeros_like(parameter) if training else None

    def step() -> None:
        if training:
            loss = model(ids, labels=ids, use_cache=False).loss
            after_forward()
            loss.backward()
        else:
            with torch.inference_mode():
                hidden = model.model(ids, use_cache=False).last_hidden_state
                after_forward()
                del hidden

    return step


def measure_activations(folder: str, mode: str, tokens: int) -> dict:
    held: list[int] = []
    step = activation_step(folder, mode, tokens, lambda: held.append(status_bytes("VmRSS")))
    step()  # Loads what torch loads late.
    before = status_bytes("VmRSS")
    reset_peak()
    step()
    return {"mode": mode, "tokens": tokens, "held_after_forward_bytes": held[-1] - before,
            "peak_bytes": status_bytes("VmHWM") - before}


def time_activations(folder: str, mode: str, tokens: int) -> dict:
    return {"seconds": median_seconds(activation_step(folder, mode, tokens, lambda: None))}


# --- Optimizer --------------------------------------------------------------------------------------


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(value.numel() * value.element_size() for state in optimizer.state.values()
               for value in state.values() if torch.is_tensor(value))


def train_step(model, optimizer) -> None:
    ids = torch.arange(6, 70)[None]
    model(ids, labels=ids).loss.backward()
    optimizer.step()


def zero_rank(rank: int, ranks: int, folder: str, store: str, results) -> None:
    """A rank of torch's ZeRO-1: every rank steps the parameters whose state it keeps, then they are shared."""
    import torch.distributed as dist
    from torch.distributed.optim import ZeroRedundancyOptimizer
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    model = load_model(folder)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-4)
    train_step(model, optimizer)
    results.put(state_bytes(optimizer.optim))
    dist.barrier()
    dist.destroy_process_group()


def measure_optimizer(folder: str) -> dict:
    model = load_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    train_step(model, optimizer)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters())
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as store:
        ranks = [context.Process(target=zero_rank, args=(r, 2, folder, f"{store}/store", results)) for r in range(2)]
        for rank in ranks:
            rank.start()
        shards = sorted(results.get(timeout=120) for _ in ranks)
        for rank in ranks:
            rank.join()
    return {"weight_bytes": weights, "gradient_bytes": gradients, "state_bytes": state_bytes(optimizer),
            "zero1_two_ranks_state_bytes": shards, "served_weight_bytes": weights // 2}


# --- Replicas ---------------------------------------------------------------------------------------


def measure_replicas(worker: str, folder: str, counts: tuple[int, ...] = (1, 2, 4)) -> list[dict]:
    """Memory of so many workers of one model, with a KV cache of 16 MiB each, ready and idle."""
    rows = []
    for count in counts:
        processes = []
        try:
            for _ in range(count):
                processes.append(subprocess.Popen(
                    [worker, "--model", folder, "--dtype", "bf16", "--num-threads", "1", "--kv-cache-memory-bytes",
                     str(16 * MIB)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            for process in processes:
                if "listening" not in process.stdout.readline():
                    raise SystemExit("a worker did not start")
            rows.append({"replicas": count,
                         "anonymous_bytes": sum(status_bytes("RssAnon", p.pid) for p in processes),
                         "file_bytes": sum(status_bytes("RssFile", p.pid) for p in processes)})
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
                process.stdout.close()
    return rows


# --- All of it --------------------------------------------------------------------------------------


def in_process(*what) -> dict:
    """Runs a measurement of this file in a fresh process; memory is not measured where time is."""
    command = [sys.executable, __file__, "--measure", json.dumps(what)]
    malloc = {} if what[0].startswith("time_") else _MALLOC
    done = subprocess.run(command, env=os.environ | malloc, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{what}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def mib(count: float) -> str:
    return f"{count / MIB:,.1f}"


def print_attention(rows: list[dict]) -> None:
    print("\n| length | score matrix, MiB | full matrix: peak MiB, ms | tiled: peak MiB, ms | fused: peak MiB, ms |")
    print("|---:|---:|---:|---:|---:|")
    for length in LENGTHS:
        row = {r["attention"]: r for r in rows if r["length"] == length}
        print(f"| {length:,} | {mib(row['tiled']['score_matrix_bytes'])} | " + " | ".join(
            f"{mib(row[a]['peak_bytes'])}, {row[a]['seconds'] * 1e3:.1f}" for a in ATTENTIONS) + " |")
    print(f"largest difference from fused: {max(r['max_difference'] for r in rows):.1e}")


def print_activations(rows: list[dict]) -> None:
    print("\n| tokens | pass | held after the forward pass, MiB | peak, MiB | ms |")
    print("|---:|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['tokens']:,} | {row['mode']} | {mib(row['held_after_forward_bytes'])} | "
              f"{mib(row['peak_bytes'])} | {row['seconds'] * 1e3:.0f} |")


def print_optimizer(optimizer: dict) -> None:
    weights, gradients, state = (optimizer[k] for k in ("weight_bytes", "gradient_bytes", "state_bytes"))
    print("\n| ranks | plain data parallel, MiB a rank | ZeRO-1 | ZeRO-2 | serving, MiB a replica (bf16) |")
    print("|---:|---:|---:|---:|---:|")
    for n in (1, 2, 4, 8):
        print(f"| {n} | {mib(weights + gradients + state)} | {mib(weights + gradients + state / n)} | "
              f"{mib(weights + (gradients + state) / n)} | {mib(optimizer['served_weight_bytes'])} |")
    print(f"AdamW state {mib(state)} MiB; measured on two ZeRO-1 ranks: "
          + " and ".join(mib(b) for b in optimizer["zero1_two_ranks_state_bytes"]) + " MiB")


def print_replicas(rows: list[dict]) -> None:
    print("\n| workers | memory of their own, MiB | mapped files, MiB |\n|---:|---:|---:|")
    for row in rows:
        print(f"| {row['replicas']} | {mib(row['anonymous_bytes'])} | {mib(row['file_bytes'])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/quire-tiny")
    parser.add_argument("--worker", default="build/release/bin/quire-worker")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/bench/training_techniques.json"))
    parser.add_argument("--parts", default="attention,activations,optimizer,replicas", help="what to measure")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(globals()[arguments.measure[0]](*arguments.measure[1:])))
        return
    model = arguments.model
    parts = {
        "attention": (print_attention, lambda: [
            in_process("measure_attention", name, length) | in_process("time_attention", name, length)
            for length in LENGTHS for name in ATTENTIONS]),
        "activations": (print_activations, lambda: [
            in_process("measure_activations", model, mode, tokens) | in_process("time_activations", model, mode, tokens)
            for tokens in (512, 2048) for mode in ("plain", "checkpointed", "inference")]),
        "optimizer": (print_optimizer, lambda: in_process("measure_optimizer", model)),
        "replicas": (print_replicas, lambda: measure_replicas(arguments.worker, model)),
    }
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                    "threads": torch.get_num_threads(), "load_1m": os.getloadavg()[0]},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "model": model,
    }
    for name in arguments.parts.split(","):
        show, measure = parts[name]
        result[name] = measure()
        show(result[name])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
