"""What a trained model is measured by: metrics on held-out sequences, and yardsticks beside it."""
