"""What ``import segzoo`` costs on top of ``import torch``: whole processes, in turn.

python -m benchmarks.importing
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import in_turn, write_result


def run(statement: str) -> None:
    """One fresh interpreter."""
    subprocess.run([sys.executable, "-c", statement], check=True)


def main(rounds: int = 15) -> None:
    """Measure and write the record."""
    times = in_turn(
        {name: lambda name=name: run(f"import {name}") for name in ("torch", "segzoo")},
        rounds=rounds,
    )
    ratio = times["segzoo"]["median"] / times["torch"]["median"]
    print(f"import segzoo takes {ratio:.3f} times import torch")
    write_result("importing", {"rounds": rounds, "milliseconds": times, "ratio": round(ratio, 3)})


if __name__ == "__main__":
    main()
