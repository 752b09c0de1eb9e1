"""Fine-tuning of many members at once, its results, and the use of what was fine-tuned."""
