"""Decodes units of the manifest into uint8 frames at the size the model takes. Knows nothing of Ray or torch."""
