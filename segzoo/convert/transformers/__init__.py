"""From transformers: its segmentation models, without transformers."""
