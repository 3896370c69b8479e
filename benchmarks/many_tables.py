"""The tables of many pictures, from the committed records."""

from __future__ import annotations

from .records import absent, exists, markdown, record

_WAYS = {
    "listing": "all jobs",
    "shard": "one of sixteen shards",
    "manifest": "all, with a manifest of as many",
    "plain": "all, without `--recursive`",
}


def listing() -> str:
    """A million names."""
    if not exists("listing"):
        return absent("listing")
    rows = [
        [
            f"{row['files_in_a_folder']:,}",
            _WAYS[row["way"]],
            f"{row['jobs']:,}",
            f"{row['cpu_seconds']:.0f} s",
            f"{row['rise_mib']} MiB",
            f"{row['peak_mib']} MiB",
        ]
        for row in record("listing")["rows"]
    ]
    head = [
        *("files in a folder", "what is gone through", "jobs", "processor time"),
        *("memory for it", "peak of the process"),
    ]
    return markdown(head, rows)


def predict_throughput() -> str:
    """Pictures a second beside those of the bare model."""
    if not exists("predict_throughput"):
        return absent("predict_throughput")
    rows = [
        [
            row["encoder"],
            row["way"],
            f"{row['images_per_second']:.2f}",
            f"{row['of_the_bare_model']:.2f}",
        ]
        for row in record("predict_throughput")["rows"]
    ]
    return markdown(["encoder of a Unet", "", "pictures a second", "of the bare model"], rows)


def kill_predictions() -> str:
    """Kills at arbitrary moments, and what the runs ended with."""
    if not exists("kill_predictions"):
        return absent("kill_predictions")
    rows = [
        [name, row["kills"], row["runs"], row["same_files"]]
        for name, row in record("kill_predictions")["ways"].items()
    ]
    return markdown(["what was killed", "kills", "runs", "of them with the same files"], rows)
