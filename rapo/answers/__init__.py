"""Answers: the prompt, and how a score is read from what the model writes."""
