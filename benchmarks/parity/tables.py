"""Tables of our models beside those of other libraries."""

from __future__ import annotations

from typing import Any

from benchmarks.records import absent, exists, markdown, record


def costs_of(name: str) -> dict[str, dict[str, Any]]:
    """Encoder -> millions of weights and GFLOPs of an architecture; empty without a record."""
    rows = record("architectures")["rows"]
    return {row["encoder"]: row["segzoo"] for row in rows if row["architecture"] == name}


def speeds_of(name: str) -> dict[str, dict[str, float]]:
    """Encoder -> images a second, plain and optimised; empty where there is no record."""
    rows = record("architecture_chooser")["rows"] if exists("architecture_chooser") else []
    return {
        row["encoder"]: {way: row[way]["images_per_second"] for way in ("eager", "optimized")}
        for row in rows
        if row["architecture"] == name and "refused" not in row
    }


def architecture_chooser() -> str:
    """Images a second on a CPU of every architecture, plain and optimised."""
    if not exists("architecture_chooser"):
        return absent("architecture_chooser")
    rows = record("architecture_chooser")["rows"]
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    table = []
    for name in dict.fromkeys(row["architecture"] for row in rows):
        speeds = speeds_of(name)
        ways = [speeds.get(encoder) for encoder in encoders]
        cells = [f"{way['eager']}, {way['optimized']}" if way else "-" for way in ways]
        table.append([f"`{name}`", *cells])
    return markdown(["", *encoders], table)


def architecture_speed() -> str:
    """Every architecture of smp beside smp's own, as they are and at their fastest."""
    if not exists("architecture_speed"):
        return absent("architecture_speed")
    rows = record("architecture_speed")["rows"]
    table, notes = [], []
    for row in rows:
        cells = [f"`{row['architecture']}`", row["encoder"], row["threads"]]
        for title in ("eager", "optimized"):
            found = row.get(title, {})
            if "ratio" in found:
                both = [f"{found[who]['median']:.0f} ms" for who in ("smp_ms", "segzoo_ms")]
                cells.append(f"{found['ratio']:.2f} ({', '.join(both)})")
            else:
                cells.append(found.get("failed") or found.get("no_rival") or "not measured")
            for name, reason in found.get("not_timed", {}).items():
                notes.append(f"- `{row['architecture']}`, {name}: {reason}\n")
        work = row.get("work", {})
        cells += [
            f"{ours / theirs:.3f}" if theirs else "not counted"
            for ours, theirs in (work.get(key, (0, 0)) for key in ("gflops", "allocated_mib"))
        ]
        table.append(cells)
    head = ["", "encoder", "threads", "as they are", "`optimize`, smp's fastest"]
    head += ["operations beside smp's", "memory beside smp's"]
    return "\n".join([markdown(head, table), "".join(notes)]) if notes else markdown(head, table)


def architecture_coverage() -> str:
    """How many pairs of an architecture and an encoder work, and what is said of the others."""
    if not exists("architecture_coverage"):
        return absent("architecture_coverage")
    result = record("architecture_coverage")
    total = result["encoders"]
    rows = [[f"`{name}`", f"{n} of {total}"] for name, n in result["works_by_architecture"].items()]
    table = markdown(["architecture", f"works at {', '.join(result['sizes'])}"], rows)
    exceptions = [
        f"- `{row['architecture']}` on `{row['encoder']}`: {row['result']}\n"
        for row in result["exceptions"]
    ]
    return f"{table}\n{''.join(exceptions)}"


def architectures() -> str:
    """Weights and operations of every architecture on three kinds of encoders."""
    result = record("architectures")
    encoders = list(dict.fromkeys(row["encoder"] for row in result["rows"]))
    costs = {(row["architecture"], row["encoder"]): row["segzoo"] for row in result["rows"]}

    def cell(cost: dict[str, float] | None) -> str:
        return f"{cost['parameters_m']} M, {cost['gflops']}" if cost else "-"

    names = list(dict.fromkeys(row["architecture"] for row in result["rows"]))
    rows = [
        [
            f"`{name}`",
            *(cell(costs.get((name, encoder))) for encoder in encoders),
        ]
        for name in names
    ]
    return markdown(["", *encoders], rows)


def architecture_parity() -> str:
    """The largest difference of each converted architecture to smp's own."""
    rows = record("architecture_parity")["rows"]
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    names = list(dict.fromkeys(row["architecture"] for row in rows))
    found = {(row["architecture"], row["encoder"]): row for row in rows}

    def cell(row: dict[str, Any]) -> str:
        if "smp" in row:
            return "smp has none"
        if "refused" in row:
            return "refused"
        return f"{max(item['difference'] for item in row.values() if isinstance(item, dict)):g}"

    table = [[f"`{name}`", *(cell(found[name, one]) for one in encoders)] for name in names]
    return markdown(["", *encoders], table)


def parity() -> str:
    """The Unet against smp."""
    rows = []
    for case in record("parity")["cases"]:
        named = ", ".join(f"{key}={value}" for key, value in case["arguments"].items())
        differences = case["eval_max_difference_float32"]
        rows.append(
            [
                named or "defaults",
                *(f"{value:g}" for value in differences.values()),
                f"{case['step_max_relative_difference_float64']:.1e}",
            ]
        )
    sizes = list(record("parity")["cases"][0]["eval_max_difference_float32"])
    head = ["arguments", *(f"logits, {size}" for size in sizes), "gradients and statistics"]
    return markdown(head, rows)


def dynamic_unet() -> str:
    """DynamicUnet against fastai's own."""
    result = record("dynamic_unet")
    size = "x".join(map(str, result["size"]))
    rows = [
        [f"{name}: GFLOPs at {size}", "", row["gflops"], ""] for name, row in result["work"].items()
    ]
    times = {
        "inference, batch 1, CPU ms": "inference_batch_1",
        "inference, batch 1, channels_last, CPU ms": "inference_batch_1_channels_last",
        "training step, batch 2, CPU ms": "training_step_batch_2",
    }
    for title, key in times.items():
        both = result[key]["cpu_ms"]
        values = [f"{both[who]['median']:.0f}" for who in ("fastai", "segzoo")]
        rows.append([title, *values, result[key]["ratio"]])
    memory = {
        "activations kept in training, batch 4, MiB": "training_activations_mib_batch_4",
        "rise of peak memory, inference, batch 1, MiB": "peak_rise_mib_inference_batch_1",
        "rise of peak memory, training step, batch 4, MiB": "peak_rise_mib_training_step_batch_4",
    }
    for title, key in memory.items():
        rows.append([title, *(result[key][who] for who in ("fastai", "segzoo", "ratio"))])
    return markdown(["resnet34", "fastai", "segzoo", "ratio"], rows)


def training() -> str:
    """A training step of the Unet beside smp's."""
    head = [record("training")["encoder"]]
    settings = record("training")["settings"].values()
    for setting in settings:
        what = f"{setting['batch']} images of {setting['size']}x{setting['size']}"
        head += [f"{what}: images/s", "against smp's best", "kept, MiB", "peak, MiB"]
    rows = []
    for name in next(iter(settings))["candidates"]:
        row = [name]
        for found in (setting["candidates"][name] for setting in settings):
            faster = found["speed_up_over_smp's_best"]
            row += [
                f"{found['images_per_second']:.2f}",
                f"{faster:.2f}",
                f"{found['kept_mib']:.0f}",
                f"{found['peak_mib']:.0f}",
            ]
        rows.append(row)
    return markdown(head, rows)


def dynamic_parity() -> str:
    """DynamicUnet against fastai's own, on the same weights."""
    cases = record("dynamic_parity")["cases"]
    encoders = sorted({case["case"].partition(",")[0] for case in cases})
    rows = []
    for encoder in encoders:
        mine = [case for case in cases if case["case"].partition(",")[0] == encoder]
        outputs = max(value for case in mine for value in case["eval"].values())
        step = max(value for case in mine for value in case["training_step_33x47"].values())
        rows.append([encoder, len(mine), f"{outputs:g}", f"{step:g}"])
    sizes = ", ".join(cases[0]["eval"])
    head = [
        "encoder",
        "option sets",
        f"outputs at {sizes}",
        "loss, gradients and buffers of a step",
    ]
    return markdown(head, rows)


def camvid_fastai() -> str:
    """Training on CamVid by unet_learner and by our model in fastai's Learner."""
    result = record("camvid_fastai")
    rows = [
        [who, *(f"{row[key]:.3f}" for key in ("mean", "least", "greatest"))]
        for who, row in result["miou_after_the_last_epoch"].items()
    ]
    head = f"validation mean IoU after {result['recipe']['epochs']} epochs"
    return markdown([head, "mean of 3 seeds", "least", "greatest"], rows)
