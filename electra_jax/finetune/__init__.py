"""Tasks: examples, fine-tuning of many members at once, metrics, prediction."""
