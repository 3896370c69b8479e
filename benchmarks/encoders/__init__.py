"""Every backbone of timm as an encoder."""
