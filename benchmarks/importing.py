"""What ``segzoo.Unet`` costs on top of ``import torch``: whole processes, in turn.

python -m benchmarks.importing
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import write_result
from segzoo.timing import in_turn


def run(statement: str) -> None:
    """One fresh interpreter."""
    subprocess.run([sys.executable, "-c", statement], check=True)


def main(rounds: int = 15) -> None:
    """Measure and write the record."""
    times = in_turn(
        {
            "torch": lambda: run("import torch"),
            "segzoo": lambda: run("import segzoo; segzoo.Unet"),
        },
        rounds=rounds,
    )
    ratio = times["segzoo"].median / times["torch"].median
    print(f"import segzoo takes {ratio:.3f} times import torch")
    milliseconds = {name: timing.summary() for name, timing in times.items()}
    write_result(
        "importing", {"rounds": rounds, "milliseconds": milliseconds, "ratio": round(ratio, 3)}
    )


if __name__ == "__main__":
    main()
