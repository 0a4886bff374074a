"""ScoreImages: the scoring step for Ray Data and Hugging Face `datasets`; see
`rapo.client.raydata`."""

from rapo.client.raydata import ScoreImages

__all__ = ["ScoreImages"]
