"""Pictures of any size, in tiles: the same logits as in one piece where the model allows it."""
