"""Package checks of `rapo doctor`: Python, the installed packages against what the installed rapo
requires, and whether the heavy ones load."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cluster.cli.check_result import CheckResult
from cluster.cli.import_check import ImportedPackage, Imports
from cluster.files.versions import VLLM_DISTRIBUTIONS


def check_packages() -> Iterator[CheckResult]:
    """A row for each package that is pinned to one version, and one row for all others."""
    yield _python()
    others, bad = 0, []
    for requirement in requirements("system"):
        name, wanted = requirement.name, requirement.specifier
        version = _installed(name)
        if _is_pinned(wanted):
            yield _package(name, version, wanted)
            continue
        others += 1
        if version is None or not fits(version, wanted):
            bad.append(f"{name} {version or 'missing'} (needs {wanted})")
    if bad:
        yield CheckResult("other packages", ", ".join(bad), "wrong", "Install them with `make setup`.")
    else:
        yield CheckResult("other packages", f"{others} as required")
    yield _vllm()


def check_imports(imports: Imports) -> Iterator[CheckResult]:
    """An installed package may still not load: its wheel may need libraries that are missing."""
    for name in ("torch", "torchvision", "vllm"):
        check = f"import {name}"
        package = imports.packages.get(name)
        if package is None:
            yield CheckResult(check, imports.ended, "wrong", f"Run `python -c 'import {name}'` to see where it stops.")
        elif package.error:
            advice = f"Install {name} again with `make setup`, for the build of torch that is here."
            yield CheckResult(check, package.error, "wrong", advice)
        else:
            yield _imported(name, check, package)


def requirements(extra: str) -> list[Requirement]:
    """What the installed rapo requires with an extra; empty where rapo is not installed."""
    try:
        lines = metadata.requires("rapo") or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.name != "rapo" and (r.marker is None or r.marker.evaluate({"extra": extra}))]


def fits(version: str, wanted: SpecifierSet) -> bool:
    """Whether a version is among the wanted ones. A local build's `+cpu` counts for nothing."""
    return wanted.contains(version, prereleases=True)


def _python() -> CheckResult:
    version = platform.python_version()
    try:
        wanted = SpecifierSet(metadata.metadata("rapo")["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        return CheckResult("Python", version, "wrong", "Install rapo into this interpreter with `make setup`.")
    if fits(version, wanted):
        return CheckResult("Python", version)
    return CheckResult("Python", version, "wrong", f"Make the virtual environment with a Python that is {wanted}.")


def _package(name: str, version: str | None, wanted: SpecifierSet) -> CheckResult:
    if version is None:
        return CheckResult(name, "not installed", "wrong", f"Install {name}{wanted} with `make setup`.")
    if fits(version, wanted):
        return CheckResult(name, version)
    return CheckResult(name, version, "wrong", f"Install the version that rapo was tested with, {name}{wanted}.")


def _vllm() -> CheckResult:
    """vLLM is either of two distributions, which must not be installed together."""
    found = {name: version for name in VLLM_DISTRIBUTIONS if (version := _installed(name)) is not None}
    if len(found) > 1:
        text = ", ".join(f"{name} {version}" for name, version in found.items())
        return CheckResult(
            "vllm", text, "wrong", "Uninstall both and install one, because they overwrite each other's files."
        )
    name, version = next(iter(found.items()), ("vllm", None))
    wanted = {r.name: r.specifier for extra in ("cpu", "gpu") for r in requirements(extra)}
    return _package(name, version, wanted.get(name, SpecifierSet()))


def _imported(name: str, check: str, package: ImportedPackage) -> CheckResult:
    distributions = VLLM_DISTRIBUTIONS if name == "vllm" else (name,)
    installed = [version for each in distributions if (version := _installed(each)) is not None]
    found = f"{package.version}, {package.build}" if package.build else package.version
    if installed and not any(fits(package.version, SpecifierSet(f"=={Version(v).public}")) for v in installed):
        advice = f"Another {name} shadows the installed {installed[0]}: look at PYTHONPATH and at this folder."
        return CheckResult(check, found, "wrong", advice)
    return CheckResult(check, found)


def _is_pinned(wanted: SpecifierSet) -> bool:
    return any(specifier.operator == "==" for specifier in wanted)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
