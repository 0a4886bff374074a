"""Stages: one file each, in the order data, aescot, coldstart, rapo, evaluate, export, serve."""
