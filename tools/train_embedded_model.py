#!/usr/bin/env python3
"""Makes models/quire-tiny: corpus, tokenizer, training, export, measurements, model card.

    tools/train_embedded_model.py --corpus DIR --out DIR [--minutes 8]

runs every step on one machine that has Debian 12's apt and, for the training, a GPU. Steps can run on
different machines: --steps names them, and the folders carry what they hand on:

    DIR/packages   unpacked Debian packages      (corpus)
    DIR/text       train.jsonl, held_out.jsonl   (corpus)
    DIR/tokens     tokenizer, token files        (tokenize; all that `train` needs)
    OUT/weights.pt, OUT/curve.json               (train)
    OUT/model      the Hugging Face folder       (export, evaluate, card)
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

STEPS = ("corpus", "tokenize", "train", "export", "evaluate", "card")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder of packages, text and tokens")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--steps", default=",".join(STEPS), help="which to run (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="readers of packages at a time")
    parser.add_argument("--minutes", type=float, default=8.0, help="training time, compilation included")
    parser.add_argument("--train-steps", type=int, help="train exactly so many steps instead")
    parser.add_argument("--sequences", type=int, default=128, help="sequences of 2,048 tokens a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate-documents", type=int, default=1_000_000, help="held-out documents a source")
    arguments = parser.parse_args()
    steps = arguments.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    text, tokens = arguments.corpus / "text", arguments.corpus / "tokens"
    out, model = arguments.out, arguments.out / "model"

    # Imported here: the training machine need not have what the other steps need.
    if "corpus" in steps:
        from embedded_model import corpus
        corpus.make(text, arguments.corpus / "packages", arguments.processes)
    if "tokenize" in steps:
        from embedded_model import tokenizer
        tokenizer.make(text, tokens)
    if "train" in steps:
        from embedded_model import training
        training.train(tokens, out, arguments.minutes, arguments.train_steps, arguments.sequences,
                       arguments.learning_rate, arguments.seed)
    if "export" in steps:
        from embedded_model import export
        export.write(out / "weights.pt", tokens, model)
    if "evaluate" in steps:
        from embedded_model import export
        result = export.measure(model, text, arguments.evaluate_documents)
        result["samples"] = export.samples(model)
        (out / "evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if "card" in steps:
        from embedded_model import card
        card.write(text, tokens, out, model)


if __name__ == "__main__":
    main()
