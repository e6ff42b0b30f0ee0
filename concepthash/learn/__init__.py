"""Training: model, guidance, losses, data, loop and checkpoints. Needs the extra ``train``."""
