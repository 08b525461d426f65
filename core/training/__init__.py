"""How a pack of cells is trained, step by step and from evaluation to evaluation: pack trainer,
stacked models, optimizer, captured step, early stopping, the form of checkpoints, and the cost."""
