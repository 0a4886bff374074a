"""Evaluation: test sets, figures of models on them, paired differences, and tables beside published
figures."""
