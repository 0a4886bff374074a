"""Scenes: the embedded data set of rendered scenes with a known latent beauty, rated by simulated
raters."""

from rapo.datasets.scenes.folder import write_scenes as write_scenes
from rapo.datasets.scenes.render import render_scene as render_scene
