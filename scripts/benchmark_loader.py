#!/usr/bin/env python3
"""The loader alone: real rows of a data set, shuffled and batched, in tokens a second."""

import argparse
import time
from pathlib import Path

from electra_jax.text.loader import batches
from electra_jax.text.rows import open_data_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder that `electra-jax prepare` wrote")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    rows = open_data_set(args.data, verify=False).train
    began = time.perf_counter()
    count = sum(batch.size for batch in batches(rows, args.batch, 0, 0, args.steps))
    rate = count / (time.perf_counter() - began)
    print(f"{rate / 1e6:.1f} million tokens/s: batch {args.batch}, length {rows.length}, {args.steps} steps")


if __name__ == "__main__":
    main()
