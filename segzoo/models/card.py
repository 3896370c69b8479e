"""The model card: what the Hub and a stranger should know of a model."""

from __future__ import annotations

from ..config import ModelConfig


def model_card(architecture: str, title: str, config: ModelConfig) -> str:
    """Markdown with the Hub's metadata; claims nothing that the model does not say of itself."""
    names = config.class_names or tuple(f"class {i}" for i in range(config.classes))
    listing = "\n".join(f"- {i}: {name}" for i, name in enumerate(names))
    return f"""---
library_name: segzoo
pipeline_tag: image-segmentation
tags:
- segzoo
- image-segmentation
- {architecture}
---
# {title} with {config.encoder}

A segmentation model of {config.classes} class{"es" if config.classes > 1 else ""} for images of \
{config.in_channels} band{"s" if config.in_channels > 1 else ""} and any size.

```python
import segzoo

model = segzoo.from_pretrained("REPOSITORY")
mask = model.predict(image)  # uint8 (C, H, W) or (N, C, H, W)
```

## Classes
{listing}
"""
