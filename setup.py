"""Package layout: how the folders of this repository become the installed package.

- What is installed is one top-level package, `rapo`. The system's folders lie in it as
  `rapo/_system/...`, because other packages, too, are called `services` or `configs`.
- Everything else about the package is in pyproject.toml.
"""

from setuptools import find_packages, setup

SYSTEM = ("actors", "cluster", "configs", "services")

system = [*SYSTEM, *find_packages(include=[f"{name}.*" for name in SYSTEM])]
setup(
    packages=[*find_packages(include=["rapo", "rapo.*"]), *(f"rapo._system.{name}" for name in system)],
    package_dir={f"rapo._system.{name}": name for name in SYSTEM},
)
