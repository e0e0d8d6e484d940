"""The phases of a short run: what is tried beside the training as it is configured."""
