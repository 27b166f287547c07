"""Writes the table of docs/speed.md, and its plot, from `benchmark/results/*.json`.

python -m benchmark.report
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmark.measuring import REPOSITORY, RESULTS

DOCUMENT = REPOSITORY / "docs" / "speed.md"
PLOT = REPOSITORY / "docs" / "speed.svg"
BEGIN, END = "<!-- benchmark:begin -->\n", "<!-- benchmark:end -->\n"
MISSING = "not measured"

Results = dict[str, dict[str, Any]]


def read_results(folder: Path = RESULTS) -> Results:
    """All results, by name; those that are not there are empty."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def find(results: Results, path: str) -> Any:
    """A value by its keys, joined by dots; None when it was not measured."""
    value: Any = results
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def cell(results: Results, text: str, *paths: str) -> str:
    """A text with the values at some paths in it, or `MISSING` when one of them is not there."""
    values = [find(results, path) for path in paths]
    return MISSING if None in values else text.format(*values)


def yardstick(results: Results) -> str:
    """How much faster the faster one of the other runtimes is than ours."""
    ratios = {
        name: find(results, f"cpu_throughput.{key}.ours_times_faster")
        for key, name in (("onnx_runtime", "ONNX Runtime"), ("openvino", "OpenVINO"))
    }
    known = {name: 1 / ratio for name, ratio in ratios.items() if ratio}
    if not known:
        return MISSING
    best = max(known, key=known.__getitem__)
    return f"{known[best]:.2f} times ({best})"


def best_rate(results: Results, network: str) -> str:
    """The rate at the container's batch size, and its share of the ceiling."""
    size = find(results, f"gpu.{network}.batch_size")
    path = f"gpu.{network}.by_batch_size.{size}"
    return cell(results, "{} views/s, {} % of the ceiling", f"{path}.views_a_second", f"{path}.percent_of_ceiling")


def rows(results: Results) -> list[tuple[str, str, str]]:
    """Question, goal, and what was measured."""
    scaling = find(results, "folder_scaling.runs") or []
    folder = MISSING
    in_precision = f", {dtype}" if (dtype := find(results, "gpu.default.dtype")) else ""
    recipe = find(results, "augmentation_cost.recipe") or "compact"
    if len(scaling) > 2:
        many = [run for run in scaling if run["crops"] >= 1000]
        costs, peaks = ([run[key] for run in many] for key in ("milliseconds_a_crop", "peak_mib"))
        folder = f"{min(costs):.2f} to {max(costs):.2f} ms a crop, {min(peaks)} to {max(peaks)} MiB"
    return [
        (
            "H+ (840 M), process start to weights loaded as they are stored (ours: bfloat16), CPU",
            "8 times the reference, a third of its memory",
            cell(
                results,
                "{} times ({} s), memory 1/{} ({} MiB)",
                "cold_start.hplus_ready.times_faster",
                "cold_start.hplus_ready.ours.seconds",
                "cold_start.hplus_ready.times_less_memory",
                "cold_start.hplus_ready.ours.peak_mib",
            ),
        ),
        (
            "default weights, a whole case, process start to JSON, CPU",
            "3 s",
            cell(
                results,
                "{} s, {} MiB; {} times the reference",
                "cold_start.default_case.ours.seconds",
                "cold_start.default_case.ours.peak_mib",
                "cold_start.default_case.times_faster",
            ),
        ),
        (
            "the same case in the server",
            "",
            cell(results, "{} s, {} times a fresh process", "invoke_time.invoke.seconds", "invoke_time.times_faster"),
        ),
        (
            "default weights, throughput, CPU",
            "4 times the reference",
            cell(
                results,
                "{} times ({} crops/s, {} % of the ceiling)",
                "cpu_throughput.reference.ours_times_faster",
                "cpu_throughput.ours.crops_a_second",
                "cpu_throughput.ours.percent_of_ceiling",
            ),
        ),
        ("the fastest other runtime against ours", "at most 1.3 times", yardstick(results)),
        (
            "folder mode, from 1,000 crops on (a tiny network; memory without the decoders' processes)",
            "linear time, flat memory",
            folder,
        ),
        (
            f"augmentation in one worker, against a step of `{recipe}`, CPU",
            "below 1",
            cell(results, "{}", "augmentation_cost.worker_over_step"),
        ),
        ("H+, throughput, GPU", "60 % of the ceiling", best_rate(results, "hplus")),
        (
            "H+, a case of 16 crops, four views, GPU",
            "0.06 s; 10 times the reference; 3 GB",
            cell(
                results,
                "{} s; {} times; {} MiB",
                "gpu.hplus.case_seconds",
                "gpu.hplus.times_faster_than_reference",
                "gpu.hplus.case_peak_mib.reserved",
            ),
        ),
        (f"default weights, throughput, GPU{in_precision}", "", best_rate(results, "default")),
        (
            "H+, a training step of 16 crops, GPU",
            "4 times a plain float32 loop; 16 GB; loading at most 5 %",
            cell(
                results,
                "{} s; {} times; {} GiB; {}",
                "gpu.training.bf16.seconds_a_step",
                "gpu.training.bf16.times_faster_than_plain",
                "gpu.training.bf16.peak_gib",
                "gpu.training.bf16.loading_share",
            ),
        ),
    ]


def section(results: Results) -> str:
    """The document's section, Markdown: the machines, the table, the plot."""
    machines = sorted(
        {
            f"{result['machine']['processor']}, {result['machine']['cores']} cores"
            for name, result in results.items()
            if name != "gpu"
        }
    )
    gpu = find(results, "gpu.machine.gpu") or "none at hand"
    lines = ["| | goal | measured |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(results)]
    about = (
        f"CPU: {'; '.join(machines) or MISSING}. GPU: {gpu}. The ceiling is the rate of a large matrix product there."
    )
    lines = [about, "", *lines, "", f"![Speed]({PLOT.name})"]
    return "\n".join(lines) + "\n"


def plot(results: Results, path: Path) -> None:
    """Ratios to the reference, and folder mode's time and memory."""
    ratios = {
        "H+ ready: time": find(results, "cold_start.hplus_ready.times_faster"),
        "H+ ready: memory": find(results, "cold_start.hplus_ready.times_less_memory"),
        "case: time": find(results, "cold_start.default_case.times_faster"),
        "throughput, CPU": find(results, "cpu_throughput.reference.ours_times_faster"),
        "H+ case, GPU": find(results, "gpu.hplus.times_faster_than_reference"),
    }
    known = {name: ratio for name, ratio in ratios.items() if ratio}
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = left.barh(list(known)[::-1], list(known.values())[::-1], color="#4c72b0")
    left.bar_label(bars, fmt="%.1f", padding=3)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xlabel="times better than the reference", xlim=(0, 1.2 * max(known.values(), default=1)))
    runs = [run for run in find(results, "folder_scaling.runs") or [] if run["crops"] > 1]
    crops = [run["crops"] for run in runs]
    right.loglog(crops, [run["seconds"] for run in runs], "o-", color="#4c72b0", label="seconds")
    right.loglog(crops, [run["peak_mib"] for run in runs], "s--", color="#dd8452", label="peak memory, MiB")
    right.set(xlabel="crops in the folder")
    right.legend()
    with matplotlib.rc_context({"svg.hashsalt": "atypical-mitosis"}):  # the same results give the same file
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Rewrites the section and the plot."""
    results = read_results()
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + section(results) + END + after, encoding="utf-8")
    plot(results, PLOT)


if __name__ == "__main__":
    main()
