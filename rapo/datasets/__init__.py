"""Datasets: images with human scores, one reader per on-disk format and one loader for all."""
