"""Base datasets: what is known of each without loading it, and its images as tensors."""
