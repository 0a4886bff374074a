"""Families: what differs between families of vision-language models, a file for each."""
