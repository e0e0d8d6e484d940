"""How much memory the batches of a training need, and how likely one needs more than there is."""
