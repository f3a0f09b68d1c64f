"""`lengthen eval`: evaluate trained models."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named, start_computing


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        metavar="RUN|CHECKPOINT|HF_FOLDER",
        help="models to evaluate",
    )
    parser.add_argument(
        "--tasks", required=True, metavar="NAME,...", help="valid,lambada,...; all; lm-eval:NAME"
    )
    parser.add_argument("--sets", type=Path, metavar="DIR", help="folder of the published sets")
    parser.add_argument(
        "--data", type=Path, metavar="STORE", help="token store for valid (the run's own)"
    )
    parser.add_argument("--shots", type=int, default=0, help="solved questions before each one (0)")
    parser.add_argument("--stride", type=int, help="tokens scored in a window (the full length)")
    parser.add_argument(
        "--windows",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="shorter lengths for valid (1/8, 1/4, 1/2)",
    )
    parser.add_argument("--limit", type=int, help="number of items to use (all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of shots (0)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp64"),
        help="precision (fp64 for fp64 weights, else fp32)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file for all results (one beside each model)"
    )


def _run(options: argparse.Namespace, _: Settings) -> int:
    start_computing(options)
    from lengthen.evaluation.evaluate import Evaluations, evaluate
    from lengthen.evaluation.models import NamedModel
    from lengthen.evaluation.results import Result

    measured: list[tuple[NamedModel, Result]] = []
    try:
        evaluate(**named(options), on_result=lambda *pair: measured.append(pair))
    finally:  # results from before Ctrl-C, or before a model that cannot be used, are shown too
        Evaluations(tuple(measured)).print()
    return 0


COMMAND = Command(
    "Evaluate trained models: loss by position, WikiText-103, LAMBADA, lm-eval's tasks.",
    """
  lengthen eval runs/first --tasks valid
  lengthen eval runs/baseline runs/first --tasks valid,lambada,hellaswag,wikitext103 --sets sets
  lengthen eval runs/first/checkpoints/step-00001000 --tasks piqa,arc_easy --shots 5
  lengthen eval gpt2 --tasks wikitext103 --sets sets --stride 32 --out gpt2.json
  lengthen eval runs/first --tasks lm-eval:blimp
""",
    _arguments,
    _run,
)
