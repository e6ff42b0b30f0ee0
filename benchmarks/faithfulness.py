"""Are maps the cause of bits? Parts and cells of CUB-20's test photos covered, encoded again.

Needs ``../shared`` (20 classes of CUB-200-2011, a ViT-Ti/16). The runs are rows of
``benchmarks.concepts``, trained if they are not there; then 5 minutes a row on two cores:
``python -m benchmarks.faithfulness parts-64-4-0 paper-64-4-0``.
"""

import sys

from benchmarks.concepts import DATA, trained
from benchmarks.report import write
from concepthash.explain import concept_curves, cover_parts, read_annotations, score_parts
from concepthash.export.bundle import export_bundle
from concepthash.runtime.hasher import Hasher

ROWS = ("parts-64-4-0", "paper-64-4-0")
COVERED, CURVES = 200, 40  # photos, spread over the split


def measure(name: str) -> dict[str, object]:
    hasher = Hasher(export_bundle(trained(name), force=True).bundle)
    annotations = read_annotations(DATA / "part_locs.csv")
    leading = score_parts(hasher, annotations).leading_parts
    causality = cover_parts(hasher, annotations, leading, sample=COVERED)
    curves = concept_curves(hasher, annotations, sample=CURVES)
    print(name, causality, curves, sep="\n", flush=True)
    return {
        "leading_parts": list(leading),
        "causality": causality.to_json(),
        "curves": curves.to_json(),
    }


def main() -> None:
    rows = {name: measure(name) for name in sys.argv[1:] or ROWS}
    write(
        "faithfulness",
        {
            "what": f"CUB-20 test split, {COVERED} photos with parts covered, {CURVES} for curves",
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
