"""How models are measured: metrics of their predictions on a split's sequences, and yardsticks,
which are other learning algorithms on the same sequences. Nothing here changes a model."""
