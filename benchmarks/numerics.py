"""What casts to fp16 and bf16 lose, and how static quantization is calibrated, on quire-tiny and made-up tensors.

  casts         rounding error, overflow and flush to zero of tensors; sums and a norm in 16 bits
  tokens        greedy continuations in bf16 and fp16 against fp32
  calibration   the clipping thresholds of five calibrations on quire-tiny's activations, and the loss with them
  granularity   weights with one scale a tensor against one scale an output channel
Writes one JSON file and prints the tables of docs/numerics.md. Needs two texts, one to calibrate with and one to
measure on; Debian's own copies of licences are the default.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import statistics

import torch
import transformers

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NEW_TOKENS = 64
WINDOW = 1024  # tokens
HISTOGRAM_BINS = 2048
SAMPLE = 200_000  # activations that stand for a layer's in a search for the least squared error
# Layers that read the same tensor are calibrated once, under the first one's name.
SHARED_INPUTS = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
PROMPTS = (
    "hello", "In the beginning", "The function returns", "It is a truth universally acknowledged,",
    "The server listens on", "A kind of", "She looked at him and", "To install the package,", "The king said",
    "This option is used", "Define", "If the file does not exist,", "There was once", "The value of the variable",
    "He that", "Press the button to", "The following example", "Note that", "Many years ago,", "The user can",
    "An integer", "When the process ends,", "Blessed are", "The first argument", "In mathematics,", "My dear",
    "The kernel", "A small bird", "Select the text", "The dragon", "Returns true if", "The sea")


# --- Casts ------------------------------------------------------------------------------------------


def made_up_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ordinary = torch.randn(1_000_000, generator=generator)
    outliers = ordinary.clone()
    outliers[::1000] *= 30_000  # One in a thousand, as a few channels of large models have them.
    gradients = ordinary * torch.exp(3 * torch.randn(1_000_000, generator=generator)) * 1e-6
    return {"normal, deviation 1": ordinary, "the same, 0.1% times 30,000": outliers,
            "log-normal around 1e-6": gradients}


def cast_row(values: torch.Tensor, dtype: torch.dtype) -> dict:
    cast = values.to(dtype).float()
    overflowed = values.isfinite() & ~cast.isfinite()
    flushed = (values != 0) & (cast == 0)
    kept = ~overflowed & (values != 0)
    relative = ((cast - values).abs() / values.abs())[kept]
    return {"elements": values.numel(), "overflowed": int(overflowed.sum()), "flushed": int(flushed.sum()),
            "median_relative_error": relative.median().item(), "max_relative_error": relative.max().item(),
            "changed": int((cast != values).sum())}


def measure_casts(model: transformers.PreTrainedModel, activations: dict[str, torch.Tensor]) -> dict:
    tensors = made_up_tensors()
    tensors["quire-tiny's weights"] = torch.cat([p.detach().flatten() for p in model.parameters()])
    for name, values in activations.items():
        tensors[f"quire-tiny, inputs of {name}"] = values.flatten()
    rows = [{"tensor": name, "dtype": dtype} | cast_row(values, HALF_TYPES[dtype])
            for name, values in tensors.items() for dtype in HALF_TYPES]
    sums = {}
    for name, dtype in HALF_TYPES.items():
        total, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
        for _ in range(4096):
            total = total + one
        sums[name] = total.item()
    # An RMS norm of 300s: every element fits fp16, its square does not.
    squares = {name: torch.full((384,), 300.0, dtype=dtype).square().mean().item() for name, dtype in HALF_TYPES.items()}
    return {"tensors": rows, "sum_of_4096_ones": sums, "mean_square_of_300s": {k: str(v) for k, v in squares.items()}}


# --- Greedy tokens ----------------------------------------------------------------------------------


def greedy(model: transformers.PreTrainedModel, ids: list[int]) -> tuple[list[int], torch.Tensor]:
    out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=NEW_TOKENS,
                         min_new_tokens=NEW_TOKENS, output_logits=True, return_dict_in_generate=True)
    return out.sequences[0, len(ids):].tolist(), torch.stack(out.logits)[:, 0].float()


def measure_tokens(folder: str, tokenizer) -> dict:
    exact = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS]
    reference = [greedy(exact, ids) for ids in prompts]
    result = {}
    for name, dtype in HALF_TYPES.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        part_at, gaps, differences = [], [], []
        for ids, (expected, expected_logits) in zip(prompts, reference):
            got, _ = greedy(model, ids)
            parted = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), None)
            if parted is not None:
                part_at.append(parted)
                top = expected_logits[parted].topk(2).values
                gaps.append((top[0] - top[1]).item())
            # The same tokens given to both: what the arithmetic alone does to the logits.
            with torch.inference_mode():
                logits = model(torch.tensor([ids + expected])).logits[0, len(ids) - 1:-1].float()
            scale = expected_logits.abs().amax(-1)
            differences += ((logits - expected_logits).abs().amax(-1) / scale).tolist()
        result[name] = {"prompts": len(prompts), "parted": len(part_at),
                        "median_first_difference": statistics.median(part_at) if part_at else None,
                        "median_top2_gap_there": statistics.median(gaps) if gaps else None,
                        "largest_top2_gap_there": max(gaps, default=None),
                        "median_logit_difference": statistics.median(differences),
                        "max_logit_difference": max(differences)}
    all_gaps = torch.cat([torch.topk(logits, 2).values for _, logits in reference])
    result["median_top2_gap"] = (all_gaps[:, 0] - all_gaps[:, 1]).median().item()
    return result


# --- Quantization -----------------------------------------------------------------------------------


def quantize(values: torch.Tensor, threshold: torch.Tensor | float, bits: int) -> torch.Tensor:
    """Symmetric: [-threshold, threshold] on 2^bits - 1 steps, to nearest, clipped, and back to floating point."""
    steps = 2**(bits - 1) - 1
    scale = threshold / steps
    return torch.clamp(torch.round(values / scale), -steps, steps) * scale


def mse_threshold(values: torch.Tensor, bits: int) -> float:
    """Of 100 thresholds up to the maximum, the one with the least squared error.

    The largest magnitudes count one by one, the others through a sample of them.
    """
    magnitudes = values.abs().flatten()
    largest, rest = magnitudes.topk(1000).values, magnitudes.numel() - 1000
    sample = magnitudes[torch.randint(magnitudes.numel(), (SAMPLE,), generator=torch.Generator().manual_seed(0))]
    sample = sample[sample < largest[-1]]

    def squared_error(threshold: float) -> float:
        return sum(count * (quantize(m, threshold, bits) - m).square().mean().item()
                   for count, m in ((1000, largest), (rest, sample)))

    return min((largest[0].item() * i / 100 for i in range(1, 101)), key=squared_error)


def entropy_threshold(values: torch.Tensor, bits: int) -> float:
    """The threshold whose quantized histogram diverges least (Kullback-Leibler) from the clipped one.

    The histogram of magnitudes up to a candidate, with what lies beyond added to its last bin, is compared with
    itself merged into 2^(bits - 1) levels, each level spread evenly over its bins that are not empty.
    """
    magnitudes = values.abs().flatten()
    largest = magnitudes.max().item()
    histogram = torch.histc(magnitudes, HISTOGRAM_BINS, 0, largest).double()
    levels = 2**(bits - 1)
    best, best_divergence = HISTOGRAM_BINS, math.inf
    for end in range(levels, HISTOGRAM_BINS + 1, 8):
        reference = histogram[:end].clone()
        reference[-1] += histogram[end:].sum()
        level = torch.arange(end) * levels // end
        occupied = (histogram[:end] > 0).double()
        mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, histogram[:end])
        bins = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, occupied)
        spread = (mass / bins.clamp(min=1))[level] * occupied
        p, q = reference / reference.sum(), spread / spread.sum()
        where = p > 0
        divergence = (p[where] * (p[where] / q[where].clamp(min=1e-12)).log()).sum().item()
        if divergence < best_divergence:
            best, best_divergence = end, divergence
    return best * largest / HISTOGRAM_BINS


def percentile_threshold(values: torch.Tensor, share: float) -> float:
    magnitudes = values.abs().flatten()
    return magnitudes.kthvalue(max(1, math.ceil(share * magnitudes.numel()))).values.item()


CALIBRATIONS = {
    "min/max": lambda values, bits: values.abs().max().item(),
    "percentile 99.99": lambda values, bits: percentile_threshold(values, 0.9999),
    "percentile 99.9": lambda values, bits: percentile_threshold(values, 0.999),
    "squared error": mse_threshold,
    "entropy": entropy_threshold,
}


def linear_layers(model: transformers.PreTrainedModel) -> dict[str, torch.nn.Linear]:
    return {name.removeprefix("model."): module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def site(name: str) -> str:
    """The layer under whose name the input of layer `name` is calibrated."""
    folder, _, last = name.rpartition(".")
    return f"{folder}.{SHARED_INPUTS.get(last, last)}"


def windows(tokenizer, path: pathlib.Path, limit: int) -> list[torch.Tensor]:
    ids = tokenizer(path.read_text(), verbose=False)["input_ids"]
    pieces = [ids[i:i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)][:limit]
    if not pieces:
        raise SystemExit(f"{path} is shorter than {WINDOW} tokens")
    return [torch.tensor([piece]) for piece in pieces]


@torch.inference_mode()
def loss(model: transformers.PreTrainedModel, texts: list[torch.Tensor]) -> float:
    """Nats a token."""
    return statistics.fmean(model(text, labels=text, use_cache=False).loss.item() for text in texts)


@torch.inference_mode()
def inputs_of_layers(model: transformers.PreTrainedModel, texts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    sites = {name: module for name, module in linear_layers(model).items() if name == site(name)}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in sites}
    handles = [module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].flatten(0, -2)))
               for name, module in sites.items()]
    for text in texts:
        model(text, use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(values) for name, values in seen.items()}


def signal_to_noise_db(values: torch.Tensor, quantized: torch.Tensor) -> float:
    return 10 * math.log10(values.square().sum().item() / (quantized - values).square().sum().item())


def measure_calibration(model, calibration: dict[str, torch.Tensor], evaluation: dict[str, torch.Tensor],
                        texts: list[torch.Tensor], shown: str) -> list[dict]:
    rows = []
    for bits in (8, 4):
        for name, calibrate in CALIBRATIONS.items():
            thresholds = {layer: calibrate(values, bits) for layer, values in calibration.items()}
            handles = [module.register_forward_pre_hook(
                lambda _, args, t=thresholds[site(layer)], b=bits: (quantize(args[0], t, b),))
                for layer, module in linear_layers(model).items()]
            quantized_loss = loss(model, texts)
            for handle in handles:
                handle.remove()
            values, threshold = evaluation[shown], thresholds[shown]
            rows.append({"bits": bits, "calibration": name, "loss": quantized_loss, "shown_layer": shown,
                         "threshold": threshold, "clipped": (values.abs() > threshold).double().mean().item(),
                         "signal_to_noise_db": signal_to_noise_db(values, quantize(values, threshold, bits)),
                         "median_signal_to_noise_db": statistics.median(
                             signal_to_noise_db(v, quantize(v, thresholds[k], bits)) for k, v in evaluation.items())})
    return rows


def measure_granularity(model, texts: list[torch.Tensor]) -> list[dict]:
    rows = []
    layers = linear_layers(model)
    originals = {name: module.weight.detach().clone() for name, module in layers.items()}
    for bits in (8, 4):
        for scales in ("one a tensor", "one a channel"):
            ratios = []
            for name, module in layers.items():
                weight = originals[name]
                threshold = weight.abs().max() if scales == "one a tensor" else weight.abs().amax(1, keepdim=True)
                quantized = quantize(weight, threshold, bits)
                ratios.append(signal_to_noise_db(weight, quantized))
                module.weight.data.copy_(quantized)
            rows.append({"bits": bits, "scales": scales, "loss": loss(model, texts),
                         "median_signal_to_noise_db": statistics.median(ratios)})
            for name, module in layers.items():
                module.weight.data.copy_(originals[name])
    return rows


# --- All of it --------------------------------------------------------------------------------------


def print_tables(result: dict) -> None:
    print("\n| tensor | to | overflow | to zero | changed | median relative error | largest |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for r in result["casts"]["tensors"]:
        print(f"| {r['tensor']} | {r['dtype']} | {r['overflowed']:,} | {r['flushed']:,} | "
              f"{r['changed'] / r['elements']:.1%} | {r['median_relative_error']:.2g} | {r['max_relative_error']:.2g} |")
    print("sum of 4,096 ones:", result["casts"]["sum_of_4096_ones"],
          "mean square of 300s:", result["casts"]["mean_square_of_300s"])
    print("\n| arithmetic | prompts that part | at token (median) | fp32's top-2 gap there: median, largest | "
          "logits: median, largest difference |\n|---|---:|---:|---:|---:|")
    for name in HALF_TYPES:
        r = result["tokens"][name]
        parted = (f"{r['median_first_difference']:g} | {r['median_top2_gap_there']:.3f}, "
                  f"{r['largest_top2_gap_there']:.3f}" if r["parted"] else "| ")
        print(f"| {name} | {r['parted']} of {r['prompts']} | {parted} | {r['median_logit_difference']:.2%}, "
              f"{r['max_logit_difference']:.2%} |")
    print(f"median top-2 gap in fp32: {result['tokens']['median_top2_gap']:.3f}")
    shown = result["calibration"][0]["shown_layer"]
    print(f"\nloss in fp32: {result['loss_fp32']:.3f} nats a token; layer shown: {shown}, "
          f"its largest input is {result['shown_max_over_deviation']:.0f} standard deviations")
    print("\n| bits | calibration | threshold | clipped | signal to noise, dB | all layers: median dB | loss |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for r in result["calibration"]:
        print(f"| {r['bits']} | {r['calibration']} | {r['threshold']:.3f} | {r['clipped']:.3%} | "
              f"{r['signal_to_noise_db']:.1f} | {r['median_signal_to_noise_db']:.1f} | {r['loss']:.3f} |")
    print("\n| bits of the weights | scales | median signal to noise, dB | loss |\n|---:|---|---:|---:|")
    for r in result["granularity"]:
        print(f"| {r['bits']} | {r['scales']} | {r['median_signal_to_noise_db']:.1f} | {r['loss']:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/quire-tiny")
    licences = pathlib.Path("/usr/share/common-licenses")
    parser.add_argument("--calibration-text", type=pathlib.Path, default=licences / "GPL-3")
    parser.add_argument("--evaluation-text", type=pathlib.Path, default=licences / "MPL-2.0")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/bench/numerics.json"))
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    calibration = inputs_of_layers(model, windows(tokenizer, arguments.calibration_text, 4))
    texts = windows(tokenizer, arguments.evaluation_text, 3)
    evaluation = inputs_of_layers(model, texts)
    # The layer with the longest tail: the one that calibration matters to most.
    shown = max(calibration, key=lambda name: (calibration[name].abs().max() / calibration[name].std()).item())
    shown_values = calibration[shown]
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": arguments.model,
        "casts": measure_casts(model, {"layers.0.self_attn.q_proj": evaluation["layers.0.self_attn.q_proj"],
                                       shown: evaluation[shown]}),
        "tokens": measure_tokens(arguments.model, tokenizer),
        "loss_fp32": loss(model, texts),
        "shown_max_over_deviation": (shown_values.abs().max() / shown_values.std()).item(),
        "calibration": measure_calibration(model, calibration, evaluation, texts, shown),
        "granularity": measure_granularity(model, texts),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print_tables(result)


if __name__ == "__main__":
    main()
