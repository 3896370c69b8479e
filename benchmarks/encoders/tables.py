"""Tables of backbones as encoders."""

from __future__ import annotations

from benchmarks.records import markdown, record


def coverage(name: str) -> str:
    """How many architectures work, and what timm says of those that do not."""
    result = record(name)
    total = result["architectures"]
    rows = [[who, f"{count} of {total}"] for who, count in result["works_at_all_sizes"].items()]
    table = markdown(["library", f"works at {', '.join(result['sizes'])}"], rows)
    failures = [
        f"- `{name}`: {row['segzoo']}; timm alone: {row['timm']}\n"
        for name, row in result["segzoo_failures"].items()
    ]
    return f"{table}\n{''.join(failures)}"


def genericity() -> str:
    """What it costs that the Unet takes any backbone."""
    result = record("genericity")
    size = "x".join(map(str, result["size"]))
    cases = {f"forward, {name}, {size}": row for name, row in result["forward"].items()}
    for which, row in result["building_resnet34"].items():
        cases[f"building with resnet34, {which} in a process"] = row
    rows = []
    for title, row in cases.items():
        times = [f"{row['milliseconds'][who]['median']:.0f} ms" for who in ("by hand", "segzoo")]
        difference = f"{row['max_difference']:g}" if "max_difference" in row else ""
        rows.append([title, *times, row["ratio"], difference])
    head = ["median", "by hand", "segzoo", "ratio", "largest difference of the logits"]
    return markdown(head, rows) + (
        f"\n{result['rounds']} forwards and {result['processes']} processes each; load of the "
        f"machine when it began: {result['load_at_the_start']}.\n"
    )


def flat_pyramid() -> str:
    """Pyramids for a flat backbone, trained on CamVid."""
    result = record("flat_pyramid")
    rows = []
    for variant, cost in result["costs"].items():
        miou = result["miou"][variant]
        rows.append(
            [
                variant,
                *(f"{miou[key]:.3f}" for key in ("mean", "least", "greatest")),
                f"{cost['parameters']:,}",
                cost["gflops"],
                f"{cost['forward_ms']['median']:.1f} ms",
            ]
        )
    return markdown(
        [
            f"validation mean IoU, {result['recipe']['seeds']} seeds",
            *("mean", "least", "greatest", "parameters", "GFLOPs", "forward, median"),
        ],
        rows,
    )
