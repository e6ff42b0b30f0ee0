"""The page ``benchmarks.md``: what each file of results measures, its command, and its figures.

Every figure is read from ``benchmarks/results``. A file that is not named here has a section all
the same, with the rows it holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

HEAD = """\
# Benchmarks

<!-- Written by docs/renew.py from the files in benchmarks/results. -->

Each section is one JSON file of `benchmarks/results`, which also names the machine and its
versions. `make bench` measures again; one alone runs by the command in its section. Times are
medians of interleaved runs, and a ratio to another program was taken in the same process run.
What they mean together, and where the limits are, is in the README under "Measured" and "Limits".
"""

Row = Mapping[str, Any]


class Section(NamedTuple):
    """A heading, a sentence, and the rows of a file that are shown."""

    title: str
    text: str
    rows: Callable[[Any], Sequence[Row]]


def _map_and_spread(data: Any) -> list[Row]:
    """mAP of each method, one column a code length."""
    table: dict[str, dict[str, str]] = {}
    for row in data["table"]["rows"]:
        column = "float" if row["bits"] is None else f"{row['bits']} bits"
        spread = f" ± {row['map']['sd']:.3f}" if row["map"]["sd"] > 1e-9 else ""
        table.setdefault(row["method"], {})[column] = f"{row['map']['mean']:.3f}{spread}"
    columns = dict.fromkeys(column for cells in table.values() for column in cells)
    return [{"method": m, **{c: cells.get(c) for c in columns}} for m, cells in table.items()]


def _over_seeds(data: Any) -> list[Row]:
    rows = []
    for name, values in data["mean_and_sd_over_seeds"].items():
        mode, bits, concepts = name.split("-")
        seeds = values["seeds"][0]
        cells = {
            key: f"{mean:.3f}" + (f" ± {spread:.3f}" if seeds > 1 else "")
            for key, (mean, spread, *_) in ((k, v) for k, v in values.items() if k != "seeds")
        }
        rows.append({"mode": mode, "bits": bits, "concepts": concepts, "seeds": seeds, **cells})
    return rows


def _example(data: Any) -> list[Row]:
    scores = data["evaluation"]
    return [
        {
            "mAP": scores["map"]["expected"],
            "by tie order": f"{scores['map']['low']:.3f} to {scores['map']['high']:.3f}",
            "P@1": scores["precision"]["1"],
            "P@10": scores["precision"]["10"],
            "chance": scores["chance_map"],
            "minutes of epochs": data["minutes_of_epochs"],
            "MB": data["bundle_bytes"]["model.onnx"] / 1e6,
        }
    ]


def _discovered(data: Any) -> list[Row]:
    steps = ("k-means in the box", "+ weights", "found object (mode parts), seed 0")
    rows = [(f"{m}: {step}", m, step) for m in (4, 8) for step in steps]
    return [{"concepts": m, "step": step, **_scalars(data["rows"][name])} for name, m, step in rows]


def _precisions(data: Any) -> list[Row]:
    """Milliseconds a photo, one column a batch and number of threads."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for name in ("vit_tiny", "vit_base_patch32_random_weights"):
        for row in data[name]["speed"]:
            column = f"batch {row['batch']}, {row['threads']} threads"
            cells = table.setdefault((name, row["what"]), {})
            cells[column] = f"{row['ms_a_photo']:.3g} ({row['times_onnxruntime_fp32']:.2f}x)"
    return [{"model": model, "run by": what, **cells} for (model, what), cells in table.items()]


def _areas(data: Any) -> list[Row]:
    """The area under the curve of each concept's deletion, by whose map."""
    rows = []
    for name, values in data["rows"].items():
        areas = values["curves"]["areas"]
        for key in ("deletion", "other_deletion", "random_deletion"):
            cells = {f"concept {m}": area for m, area in enumerate(areas[key])}
            whose = {"deletion": "own", "other_deletion": "another's"}.get(key, "random")
            rows.append({"model": name, "map": whose, **cells})
    return rows


def _pace(data: Any) -> list[Row]:
    keys = ("photos", "threads", "bound_by", "index_to_reachable", "load_to_rclip")
    return [
        {**{f"{k}/s": v for k, v in row["photos_per_second"].items()}, **{k: row[k] for k in keys}}
        for row in data["rows"]
    ]


def _seconds(data: Any) -> list[Row]:
    return [data["seconds"]]


def _training(data: Any) -> list[Row]:
    share = data["share"]
    return [
        {"how": name, "images/s": value, "of the network's own": share.get(name)}
        for name, value in data["images_per_s"].items()
    ]


def _over_http(data: Any) -> list[Row]:
    rows = [("code", row) for row in data["by_code"]] + [("photo", data["by_photo"])]
    return [{"asked by": what, **_scalars(row)} for what, row in rows]


def _hostile(data: Any) -> list[Row]:
    keys = ("requests", "answered_500", "honest_queries", "honest_answered_otherwise", "memory_mb")
    return [_scalars({key: data[key] for key in keys})]


def _devices(data: Any) -> list[Row]:
    keys = {"map": "mAP", "map_difference": "difference", "test_bits_flipped": "bits flipped"}
    return [
        {
            "mode": run["mode"],
            "seed": run["seed"],
            "trained by": how,
            **{shown: run[how].get(key) for key, shown in keys.items()},
            "largest loss difference": run[how].get("largest_relative_difference_of_a_loss"),
        }
        for run in data["trainings"]
        for how in ("one process", "two processes", "one process, two threads")
    ]


def _sharded(data: Any) -> list[Row]:
    return [
        {
            "tables": row["tables"],
            "queries": how,
            **{f"{where}, ms": each for where, each in times.items()},
        }
        for row in data["rows"]
        for how, times in row["ms_a_query"].items()
    ]


def _tortured(data: Any) -> list[Row]:
    return [
        {
            "part": name,
            "broke": len(part["failures"]),
            "seconds": part["took_seconds"],
            "done": ", ".join(
                f"{key.replace('_', ' ')} {_cell(value)}"
                for key, value in _scalars(part["figures"]).items()
            ),
        }
        for name, part in data["parts"].items()
    ]


def _rows(data: Any) -> list[Row]:
    rows = data.get("rows", [])
    if isinstance(rows, dict):
        return [{"": name, **_scalars(values)} for name, values in rows.items()]
    return [_scalars(row) for row in rows]


def _scalars(row: Row) -> Row:
    """What fits into a cell; of values below another, those one step down."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        for name, cell in inner:
            if not isinstance(cell, (dict, list)):
                flat[key if name is None else f"{key}: {name}"] = cell
    return flat


SECTIONS = {
    "cub20": Section("The worked example", "The commands of the README, seed 0.", _example),
    "concepts": Section(
        "Modes, lengths and numbers of concepts",
        "Retrieval, and agreement of the maps with annotated key points "
        "([concepts.md](concepts.md)); mean and deviation over seeds.",
        _over_seeds,
    ),
    "baselines": Section(
        "Ten published methods on the same backbone",
        "mAP on the test split; the protocol is in [baselines.md](baselines.md).",
        _map_and_spread,
    ),
    "discovery": Section(
        "Parts found without training",
        "A selection; the file has every step and every setting that was tried.",
        _discovered,
    ),
    "faithfulness": Section(
        "Do sub-codes depend on their maps?",
        "Area under the curve of a sub-code's logits while cells go in the order of a map; "
        "lower means that the map names what the sub-code is read from.",
        _areas,
    ),
    "export": Section(
        "Lower precisions on a CPU",
        "Milliseconds a photo, and how many times the speed of fp32 in ONNX Runtime.",
        _precisions,
    ),
    "index": Section(
        "Indexing photos",
        "Photos a second: `index` is `chash index`, `decode` and `model` are its two halves alone.",
        _pace,
    ),
    "atlas": Section("Atlas", "`chash atlas`, start to end.", _rows),
    "serve": Section(
        "Server",
        "`chash serve`; a rate is what was asked for, without one as fast as it goes.",
        _over_http,
    ),
    "hostile": Section(
        "Hostile requests", "To `chash serve`; seeded, so the same each time.", _hostile
    ),
    "start": Section("Start, model of the demo", "Seconds of whole processes.", _seconds),
    "start_cub20": Section(
        "Start, model of the worked example", "Seconds of whole processes.", _seconds
    ),
    "ray_index": Section(
        "Indexing with Ray",
        "The plain command and the same with workers of Ray, on one machine.",
        _rows,
    ),
    "sharded": Section(
        "Sharded against single",
        "Milliseconds a query; all answers are equal, row by row.",
        _sharded,
    ),
    "billion": Section("A billion codes", "What it means is in [scale.md](scale.md).", _rows),
    "torture": Section(
        "Torture",
        "`make torture`: what was done to it, and how often it broke.",
        _tortured,
    ),
    "ddp": Section(
        "One process against two",
        "Short trainings of few photos: how far the same training drifts, not how good it is.",
        _devices,
    ),
    "training": Section("Training", "Images a second of the training loop.", _training),
    "search": Section("Exact scan", "Beside faiss IndexBinaryFlat.", _rows),
    "tables": Section("Search tables", "Beside faiss IndexBinaryFlat and our own scan.", _rows),
    "peers": Section("Other indexes", "Recall of the first 10, and time.", _rows),
    "gpu_search": Section(
        "Search by torch", "The torch path on a CPU, as no GPU was there.", _rows
    ),
    "gallery": Section("Opening a gallery", "Milliseconds; files in the page cache.", _rows),
    "dedupe": Section("Near duplicates", "`chash dedupe` of a million codes.", _rows),
    "decode": Section("Decoding at reduced scale", "Against decoding in full.", _rows),
}


def page() -> str:
    """The page as Markdown."""
    files = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    order = [*(n for n in SECTIONS if n in files), *(n for n in files if n not in SECTIONS)]
    return "\n".join([HEAD, *(line for name in order for line in _section(name, files[name]))])


def _section(name: str, path: Path) -> Iterator[str]:
    data = json.loads(path.read_text("utf-8"))
    title, text, rows = SECTIONS.get(name) or Section(
        name.replace("_", " ").capitalize(), "", _rows
    )
    yield from [f"## {title}", ""]
    if text:
        yield from [text, ""]
    yield from [f"    {data['command']}", ""]
    found = rows(data)
    if found:
        yield from [*_table(found), ""]
    cpus, processor = data["machine"]["cpus"], data["machine"]["processor"]
    where = f"{cpus} CPUs of {processor}, {data['date']}"
    yield f"{_sentence(data.get('what', ''))}{where}: `benchmarks/results/{path.name}`."
    yield ""


def _table(rows: Sequence[Row]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for cells in (
        [column.replace("_", " ") for column in columns],
        ["---"] * len(columns),
        *([_cell(row.get(column)) for column in columns] for row in rows),
    ):
        yield f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def _sentence(text: str) -> str:
    if not text:
        return ""
    command = text.startswith("chash ")
    return f"{text if command else text[:1].upper() + text[1:]}. "
