"""Trains the model: plain PyTorch, one GPU (or the CPU, for a smoke test).

The network below is LlamaForCausalLM of transformers, written out so that torch.compile sees one graph;
its state keys are the checkpoint's. Weights are fp32 masters, arithmetic is bf16 autocast.
"""

import dataclasses
import json
import lzma
import math
import pathlib
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Shape:
    vocab: int = 8192
    hidden: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 1024
    context: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


class Attention(nn.Module):
    """Grouped-query attention with rotary position embedding (the half-split form)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape

        def heads(projected: torch.Tensor) -> torch.Tensor:  # [batch, heads, tokens, head_dim]
            return projected.view(batch, tokens, -1, self.shape.head_dim).transpose(1, 2)

        def rotate(h: torch.Tensor) -> torch.Tensor:
            low, high = h.float().chunk(2, dim=-1)
            return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(h.dtype)

        group = self.shape.heads // self.shape.kv_heads
        q = rotate(heads(self.q_proj(x)))
        k = rotate(heads(self.k_proj(x))).repeat_interleave(group, dim=1)
        v = heads(self.v_proj(x)).repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class Mlp(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        frequencies = shape.rope_theta**(-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.outer(torch.arange(shape.context).float(), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Projections back into the residual stream start smaller, as in GPT-2.
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * shape.layers) if residual else 1.0))

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats of targets [batch, tokens] given tokens [batch, tokens]."""
        x = self.embed_tokens(tokens)
        length = tokens.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        logits = functional.linear(self.norm(x), self.embed_tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def load_tokens(path: pathlib.Path) -> np.ndarray:
    with lzma.open(path) as file:
        return np.frombuffer(file.read(), dtype="<u2")


def learning_rate(peak: float, step: int, steps: int) -> float:
    """A short linear warm-up, then linearly down to zero."""
    warm_up = min(200, max(1, steps // 20))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (steps - step) / (steps - warm_up)


def optimizer(model: nn.Module, peak: float, on_gpu: bool) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
                             lr=peak, betas=(0.9, 0.95), eps=1e-8, fused=on_gpu)


class Batches:
    """Windows of context + 1 tokens, each epoch cut at another offset and shuffled."""

    def __init__(self, tokens: torch.Tensor, context: int, sequences: int, seed: int):
        self._tokens = tokens
        self._context = context
        self._sequences = sequences
        self._random = np.random.default_rng(seed)
        self._starts = np.empty(0, dtype=np.int64)
        self.epochs = 0

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self._starts) < self._sequences:
            offset = self._random.integers(self._context)
            starts = np.arange(offset, len(self._tokens) - self._context - 1, self._context)
            self._starts = np.concatenate([self._starts, self._random.permutation(starts)])
            self.epochs += 1
        chosen, self._starts = self._starts[:self._sequences], self._starts[self._sequences:]
        index = torch.from_numpy(chosen).to(self._tokens.device)[:, None] + torch.arange(
            self._context + 1, device=self._tokens.device)
        window = self._tokens[index].long()
        return window[:, :-1], window[:, 1:]


def train(tokens_folder: pathlib.Path, out: pathlib.Path, minutes: float, steps: int | None, sequences: int,
          peak: float, seed: int) -> None:
    """Trains for `minutes` (or exactly `steps`) and writes weights.pt (fp32) and curve.json to `out`.

    With `minutes` the number of steps follows from the speed of the first ones; it is printed, so that
    `steps` repeats a run. Loss is noted in nats a token.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    shape = Shape()
    parts = []
    for path in sorted(tokens_folder.glob("train_*.u16.xz")):
        parts += [load_tokens(path)] * int(path.name.removeprefix("train_").split(".")[0])
    # int16 keeps the bits (ids are below 8,192) and torch can index it everywhere.
    tokens = torch.from_numpy(np.concatenate(parts).astype(np.int16)).to(device)
    held_out = torch.from_numpy(load_tokens(tokens_folder / "held_out.u16.xz").astype(np.int64)).to(device)
    held_out = held_out[:(len(held_out) - 1) // shape.context * shape.context + 1]
    held_out_inputs = held_out[:-1].view(-1, shape.context)
    held_out_targets = held_out[1:].view(-1, shape.context)
    if not on_gpu:
        held_out_inputs, held_out_targets = held_out_inputs[:4], held_out_targets[:4]
    print(f"{len(tokens):,} training tokens (repeats included), {held_out_inputs.numel():,} held out, "
          f"{time.monotonic() - started:.0f} s to load", flush=True)

    model = Llama(shape).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    adam = optimizer(model, peak, on_gpu)
    step_model = torch.compile(model) if on_gpu else model
    batches = Batches(tokens, shape.context, sequences, seed)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16)

    def held_out_loss() -> float:
        # Chunks have the training batch's shape, so that nothing is compiled again; the tail is left to the
        # exact evaluation after the export.
        losses = []
        with torch.no_grad(), autocast:
            for i in range(0, max(1, len(held_out_inputs) - sequences + 1), sequences):
                losses.append(step_model(held_out_inputs[i:i + sequences], held_out_targets[i:i + sequences]).item())
        return sum(losses) / len(losses)

    def update(rate: float) -> torch.Tensor:
        for group in adam.param_groups:
            group["lr"] = rate
        with autocast:
            loss = step_model(*batches.next())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return loss.detach()

    deadline = started + minutes * 60
    probe_steps = 40 if on_gpu else 2
    assumed_steps = steps or 4000
    curve = []
    recent: list[torch.Tensor] = []
    step = 0
    probe_began = 0.0
    while step < (steps or assumed_steps):
        if step == 10 or (not on_gpu and step == 1):  # Compiled and warm.
            if on_gpu:
                torch.cuda.synchronize()
            probe_began, probe_first = time.monotonic(), step
        recent.append(update(learning_rate(peak, step, assumed_steps)))
        step += 1
        if steps is None and step == (probe_first if probe_began else 0) + probe_steps and probe_began:
            if on_gpu:
                torch.cuda.synchronize()
            seconds = (time.monotonic() - probe_began) / probe_steps
            # Three per cent are kept back for evaluations.
            assumed_steps = step + int(0.97 * (deadline - time.monotonic()) / seconds)
            print(f"{seconds * 1e3:.1f} ms a step, {sequences * shape.context / seconds / 1e6:.2f} M tokens/s; "
                  f"steps: {assumed_steps}", flush=True)
        if step % 100 == 0 or step == assumed_steps or not on_gpu:
            point = {"step": step, "tokens": step * sequences * shape.context,
                     "seconds": round(time.monotonic() - started, 1),
                     "train_loss": round(torch.stack(recent).mean().item(), 4)}
            recent.clear()
            if step % 200 == 0 or step == assumed_steps:
                point["held_out_loss"] = round(held_out_loss(), 4)
            curve.append(point)
            print(point, flush=True)
            if not math.isfinite(point["train_loss"]):
                raise SystemExit("the loss is not finite")
    torch.save({name: value.float().cpu() for name, value in model.state_dict().items()}, out / "weights.pt")
    facts = {"device": torch.cuda.get_device_name() if on_gpu else "CPU", "torch": torch.__version__, "seed": seed,
             "steps": step, "sequences_per_step": sequences, "context": shape.context, "peak_learning_rate": peak,
             "training_tokens": len(tokens), "epochs": batches.epochs,
             "seconds": round(time.monotonic() - started, 1), "curve": curve}
    (out / "curve.json").write_text(json.dumps(facts, indent=1))
    print("done", facts["seconds"], "s", flush=True)
