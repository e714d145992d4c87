"""The effect of bf16: the same attacks made in bf16 and in fp32, all judged in fp32.

uv run python benchmarks/precision.py --encoder bundled:scenes-deacl --limit 500 --eps 1/255 --eps 4/255
uv run python benchmarks/precision.py --encoder bundled:photos-deacl --dataset cifar10 --data-root ../shared/data
"""

import argparse
import json
from pathlib import Path
from typing import Literal

import pandas as pd

import robustprobe as rp

PRECISIONS: tuple[Literal["fp32"], Literal["bf16"]] = ("fp32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--train-limit", type=int, default=1200)
    parser.add_argument("--eps", action="append", default=[])
    parser.add_argument("--attack", action="append", default=[], help="by default embed and each task's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tables = [scores(options, precision) for precision in PRECISIONS]
    keys = ["encoder", "dataset", "task", "attack", "eps", "n"]
    both = tables[0].merge(tables[1], on=keys, suffixes=("_fp32", "_bf16"))
    both["difference"] = both["value_bf16"] - both["value_fp32"]
    print(both[[*keys, "value_fp32", "value_bf16", "difference"]].to_string(index=False, float_format="%.4f"))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(json.loads(both.to_json(orient="records")), indent=1) + "\n")


def scores(options: argparse.Namespace, precision: Literal["fp32", "bf16"]) -> pd.DataFrame:
    table = rp.evaluate(
        options.encoder,
        [options.dataset],
        options.attack or None,
        eps=options.eps or ["1/255", "4/255", "8/255"],
        root=options.data_root,
        limit=options.limit,
        device=options.device,
        precision=precision,
        head={"train_limit": options.train_limit},
        sanity_images=0,
    )
    return table[~table.attack.isin(["clean", "noise"])][["encoder", "dataset", "task", "attack", "eps", "n", "value"]]


if __name__ == "__main__":
    main()
