"""Tables on plain vision transformers: licences, costs of heads, and what they reach on CamVid."""

from __future__ import annotations

from .records import absent, exists, kinds, markdown, record

_NAMES = {"unet": "`Unet`", "dpt": "`DPT`", "linear_head": "`LinearHead`", "eomt": "`EoMT`"}


def vit_licences() -> str:
    """Families of weights and their licences."""
    rows = []
    for row in record("vit_licences")["rows"]:
        licences = [
            name if len(row["licences"]) == 1 else f"{name} ({count})"
            for name, count in row["licences"].items()
        ]
        rows.append([row["family"], f"`{row['example']}`", row["weights"], ", ".join(licences)])
    return markdown(["trained as", "for example", "sets of weights", "licence"], rows)


def vit() -> str:
    """Time and memory of heads on one transformer."""
    if not exists("vit"):
        return absent("vit")
    found = {(row["architecture"], row["way"]): row for row in record("vit")["rows"]}
    rows = []
    for architecture in dict.fromkeys(name for name, _ in found):

        def cell(way: str, key: str, name: str = architecture) -> str:
            row = found.get((name, way))
            if row is None:
                return "-"
            return f"{row['ms']['median']:.0f} ms" if key == "ms" else f"{row[key]:.0f} MiB"

        rows.append(
            [
                _NAMES[architecture],
                f"{found[architecture, 'predict']['parameters'] / 1e6:.1f} M",
                *(cell(way, "ms") for way in ("predict", "train", "frozen", "kept")),
                *(cell(way, "kept_mib") for way in ("train", "frozen")),
            ]
        )
    head = ["head", "weights", "predict", "training step", "frozen", "features kept"]
    return markdown([*head, "memory for training", "frozen"], rows)


def vit_camvid() -> str:
    """Mean IoU on CamVid, on each kind of processor."""
    if not exists("vit_camvid"):
        return absent("vit_camvid")
    rows = [
        [
            f"{found['environment']['cpu']}, {found['precision']}",
            _NAMES[row["system"]],
            f"{row['parameters'] / 1e6:.1f} M",
            row["epochs"],
            row["runs"],
            f"{row['miou_mean']:.3f}",
            f"{row['miou_least']:.3f} to {row['miou_greatest']:.3f}",
            f"{row['cpu_seconds_mean']:.0f} s",
        ]
        for found in kinds("vit_camvid")
        for row in found["summary"]
    ]
    head = ["processor, precision", "head", "weights", "epochs", "seeds", "mean IoU", "over seeds"]
    return markdown([*head, "processor time"], rows)
