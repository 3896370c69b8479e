"""Under which licences timm offers the weights of plain vision transformers: asked of timm.

    python -m benchmarks.vit_licences

Every set of weights that timm knows for a family of names is asked for its licence. Nothing is
downloaded, and nothing is built.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import timm

from .common import write_result

#: What people look for, and the names that timm has for it.
FAMILIES = {
    "DINOv2": "vit_*dinov2*",
    "DINOv3, web images": "vit_*_dinov3*lvd1689m",
    "DINOv3, satellite images": "vit_*_dinov3*sat493m",
    "DINO": "vit_*.dino",
    "Perception Encoder": "vit_pe_*",
    "SigLIP 2": "vit_*siglip*v2_webli",
    "CLIP of OpenAI": "vit_*_clip_*.openai*",
    "CLIP of LAION": "vit_*_clip_*.laion2b*",
    "CLIP of Apple (DFN)": "vit_*_clip_*.dfn*",
    "MetaCLIP": "vit_*_clip_*.metaclip*",
    "EVA-02": "eva02_*",
    "BEiT v2": "beitv2_*",
    "DeiT III": "deit3_*",
    "AugReg, ImageNet-21k": "vit_*.augreg*in21k*",
    "MAE": "vit_*.mae",
    "SAM": "samvit_*",
}


def family(pattern: str) -> dict[str, Any]:
    """How many sets of weights, under which licences, and an encoder to begin with."""
    names = timm.list_pretrained(pattern)
    if not names:
        raise SystemExit(f"timm {timm.__version__} has no weights called {pattern}.")
    found: list[Any] = [timm.get_pretrained_cfg(name) for name in names]
    licences = Counter(str(config.license or "not stated") for config in found)
    return {
        "pattern": pattern,
        "weights": len(names),
        "licences": dict(licences.most_common()),
        "example": min(names, key=functools.partial(_unlike_a_first_try, names)),
    }


def _unlike_a_first_try(names: list[str], name: str) -> tuple[bool, bool, int]:
    """Small or base, without a special size, short: what somebody would try first."""
    first = name.split("_")[1] if "_" in name else ""
    return first != "small", first != "base", len(name)


def main() -> None:
    """Ask, and write the record."""
    rows = [{"family": name, **family(pattern)} for name, pattern in FAMILIES.items()]
    for row in rows:
        print(row)
    write_result("vit_licences", {"asked": "timm"}, rows=rows)


if __name__ == "__main__":
    main()
