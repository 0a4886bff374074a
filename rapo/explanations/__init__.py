"""Explanations: measures of what rationales say, against images, scores and each other."""
