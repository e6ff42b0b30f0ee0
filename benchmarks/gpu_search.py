"""Search on a GPU beside the C kernel and the memory of the GPU, equal answers checked.

Without CUDA only plain torch on the CPU is timed, for information: no one should search with it.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.codes import random_codes
from benchmarks.report import interleaved, write
from concepthash.gpu import TorchSearcher
from concepthash.runtime import HammingIndex, Hits

MILLION = 1_000_000
K = 10


def equal(a: Hits, b: Hits) -> bool:
    return all(
        (getattr(a, name) == getattr(b, name)).all() for name in ("ids", "distances", "per_concept")
    )


def rows(
    index: HammingIndex,
    searchers: dict[str, TorchSearcher],
    batches: list[int],
    *,
    threads: int | None,
    repeats: int,
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for batch in batches:
        queries = random_codes(batch, index.bits, seed=1)
        expected = index.search(queries, K)
        runs: dict[str, Callable[[], object]] = {
            "C": lambda q=queries: index.search(q, K, threads=threads)
        }
        for name, searcher in searchers.items():
            tensor = torch.tensor(queries, device=searcher.device)
            assert equal(searcher.search(tensor, K), expected), f"{name} differs from the CPU"
            runs[name] = lambda s=searcher, t=tensor: s.search(t, K)
        seconds = interleaved(runs, repeats)
        for name, taken in seconds.items():
            found.append(
                {
                    "search": name,
                    "bits": index.bits,
                    "codes": len(index),
                    "batch": batch,
                    "ms_a_query": taken / batch * 1e3,
                    "ratio_to_c": seconds["C"] / taken,
                    "gigabytes_read_a_second": len(index) * index.bits / 8 / taken / 1e9,
                }
            )
            print(found[-1], flush=True)
    return found


def bandwidth(count: int, repeats: int) -> float:
    """Gigabytes a second that a sum over as many words reads on the GPU."""
    words = torch.zeros(count, dtype=torch.int64, device="cuda")
    seconds = interleaved({"sum": lambda: words.sum().item()}, repeats)
    return count * 8 / seconds["sum"] / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, help="100 million, or 1 million without CUDA")
    cuda = torch.cuda.is_available()
    count = parser.parse_args().codes or (100 if cuda else 1) * MILLION
    index = HammingIndex()
    index.add(random_codes(count))
    if cuda:
        made = {
            "triton": TorchSearcher.of(index, kernel="triton"),
            "torch": TorchSearcher.of(index, kernel="torch"),
            "triton, half streamed": TorchSearcher.of(index, memory=count * 4),
        }
        values: dict[str, object] = {
            "device": torch.cuda.get_device_name(),
            "read_gigabytes_a_second": bandwidth(count, 9),
            "rows": rows(index, made, [1, 64, 1024], threads=None, repeats=9),
        }
    else:
        torch.set_num_threads(1)
        made = {"torch on the CPU": TorchSearcher.of(index, device="cpu")}
        values = {
            "device": "no CUDA device: the Triton kernel was not run; the CPU by one thread",
            "rows": rows(index, made, [1, 64], threads=1, repeats=5),
        }
    write(
        "gpu_search",
        {"what": f"exact scan, k = {K}, random codes, answers equal to HammingIndex's", **values},
    )


if __name__ == "__main__":
    main()
