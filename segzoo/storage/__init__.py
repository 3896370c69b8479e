"""How a model is saved: config.json, model.safetensors, its card, in a folder or on the Hub."""
