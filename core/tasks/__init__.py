"""Task families: what a task is, and how batches of sequences are drawn from tasks."""
