"""The table of the server, from its record."""

from __future__ import annotations

from .records import absent, exists, markdown, record


def serving() -> str:
    """How quick it is beside the bare model, and what a load of all kinds leaves behind."""
    if not exists("serving"):
        return absent("serving")
    rows = [
        [
            row["batch"],
            f"{row['bare_per_second']:.1f}",
            f"{row['bare_with_files_per_second']:.1f}",
            f"{row['per_second']:.1f}",
            f"{row['one_client']['p50_ms']:.0f} ms",
            f"{row['good']['p50_ms']:.0f} / {row['good']['p99_ms']:.0f} ms",
            f"{row['mixed']['p50_ms']:.0f} / {row['mixed']['p99_ms']:.0f} ms",
        ]
        for row in record("serving")["rows"]
    ]
    head = [
        *("batch", "bare model, pictures a second", "with files read and written", "served"),
        *("one client, median", "16 clients, p50 / p99", "among bad ones, p50 / p99"),
    ]
    return markdown(head, rows) + "\n" + "\n".join(map(_told, record("serving")["rows"]))


def serving_batches() -> str:
    """What the model takes for a picture when several go together."""
    if not exists("serving"):
        return absent("serving")
    rows = [
        [
            "x".join(map(str, row["size"])),
            *(f"{row[f'of_{count}_ms']:.0f} ms" for count in (1, 4, 8)),
        ]
        for row in record("serving")["batches"]
    ]
    return markdown(["pictures", "one at a time", "four together", "eight together"], rows)


def thread_helpers() -> str:
    """What a model takes beside threads that have helpers of their own."""
    if not exists("thread_helpers"):
        return absent("thread_helpers")
    rows = [
        [
            row["beside"],
            "{median:.0f} ({min:.0f} to {max:.0f})".format(**row["ms"]),
            f"{row['times_as_long']:.2f}",
        ]
        for row in record("thread_helpers")["rows"]
    ]
    return markdown(["beside", "ms (least to greatest)", "times as long"], rows)


def _told(row: dict[str, object]) -> str:
    requests = row["requests"]
    assert isinstance(requests, dict)
    bad = ", ".join(f"{count} {name}" for name, count in requests.items() if name != "good")
    memory = row["memory_mib"]
    assert isinstance(memory, list)
    later = max(memory[1:], default=memory[0])
    return (
        f"With batches of {row['batch']}, {requests['good']} good requests among bad ones ({bad}): "
        f"{row['right']} of {sum(requests.values())} answers as they should be, memory "
        f"{memory[0]:.0f} MiB after the first round and at most {later:.0f} MiB after later ones, "
        f"{row['seats_taken_afterwards']:.0f} seats taken afterwards, and exit code "
        f"{row['exit_code_after_sigterm']} after SIGTERM. A picture of one million pixels takes "
        f"the model {row['mib_a_megapixel']:.0f} MiB.\n"
    )
