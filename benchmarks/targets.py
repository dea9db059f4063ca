"""What figures on one H200 in bf16 must be, and what others reached in the same work (docs/benchmarks.md)."""

# (model folder's name, work): {metric: (kind, value)}
TARGETS = {
    ("llama-3.1-8b", "1x2/512"): {"ms a token": ("at_most", 4.25)},
    ("llama-3.1-8b", "1x1024/128"): {"TTFT": ("at_most", 26)},
    ("llama-3.1-8b", "8x1024/128"): {"rate": ("at_least", 1_300)},
    ("llama-3.1-8b", "32x128/128"): {"rate": ("at_least", 5_600)},
    ("llama-3.1-8b", "1024x128/128"): {"rate": ("at_least", 17_000)},
    ("llama-3.1-8b", "256x1024/1024"): {"rate": ("at_least", 9_600)},
    ("llama-3.2-1b", "1x2/512"): {"ms a token": ("at_most", 0.95)},
    ("llama-3.2-1b", "256x1024/1024"): {"rate": ("at_least", 38_000)},
}

_VLLM, _BI = "vLLM 0.24", "vLLM 0.24, batch-invariant"
# Measured on the same kind of machine, not in the same run.
REFERENCES = {
    ("llama-3.1-8b", "1x2/512"): {"ms a token": {_VLLM: 4.85, _BI: 17.8}},
    ("llama-3.1-8b", "1x1024/128"): {"TTFT": {_VLLM: 25.8, _BI: 34.2}},
    ("llama-3.1-8b", "8x1024/128"): {"rate": {_VLLM: 1_201, _BI: 417}},
    ("llama-3.1-8b", "32x128/128"): {"rate": {_VLLM: 5_176, _BI: 1_837}},
    ("llama-3.1-8b", "1024x128/128"): {"rate": {_VLLM: 16_782, _BI: 13_902}},
    ("llama-3.1-8b", "256x1024/1024"): {"rate": {_VLLM: 9_520, _BI: 7_987}},
    ("llama-3.2-1b", "1x2/512"): {"ms a token": {_VLLM: 1.39, _BI: 4.50}},
    ("llama-3.2-1b", "256x1024/1024"): {"rate": {_VLLM: 37_273, _BI: 32_820}},
}


def annotate(run):
    """Adds targets and references to a run's figures, where shape, dtype and GPU are those that they were made on."""
    settings = run["settings"]
    if "H200" not in str(settings.get("device")) or settings["dtype"] != "bf16":
        return
    model = settings["model"].rstrip("/").rsplit("/", 1)[-1]
    for figure in run["figures"]:
        work, _, metric = figure["name"].partition(" ")
        if metric in (target := TARGETS.get((model, work), {})):
            kind, value = target[metric]
            figure[kind] = value
        if metric in (reference := REFERENCES.get((model, work), {})):
            figure["references"] = reference[metric]
