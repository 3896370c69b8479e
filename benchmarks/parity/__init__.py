"""The same logits as other libraries, to the bit or within stated roundings."""
