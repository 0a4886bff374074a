"""PipSettings: where the user lets pip look for packages, and the same in uv's words.

- uv reads none of pip's configuration, so it is translated into uv's environment variables.
- An option that uv has no word for is named in `untranslated`: then pip has to install.
- What a person reads of a source never holds its credentials.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Later ones win, as in pip.
_LEVELS = ("global", "install", ":env:")

#: pip's option, the variables that say the same to uv, and what stands between several values.
_WORDS = {
    "index-url": (("UV_DEFAULT_INDEX",), " "),
    "pypi-url": (("UV_DEFAULT_INDEX",), " "),
    "extra-index-url": (("UV_INDEX",), " "),
    "find-links": (("UV_FIND_LINKS",), ","),
    "trusted-host": (("UV_INSECURE_HOST",), " "),
    "cert": (("SSL_CERT_FILE",), " "),
    "client-cert": (("SSL_CLIENT_CERT",), " "),
    "proxy": (("HTTP_PROXY", "HTTPS_PROXY"), " "),
    "timeout": (("UV_HTTP_TIMEOUT",), " "),
    "default-timeout": (("UV_HTTP_TIMEOUT",), " "),
    "retries": (("UV_HTTP_RETRIES",), " "),
}
#: Options that change neither where packages come from nor which ones are taken.
_OTHER = frozenset(
    {
        "break-system-packages", "cache-dir", "compile", "config-file", "constraint", "debug", "disable-pip-version-check",
        "exists-action", "format", "log", "no-cache-dir", "no-color", "no-compile", "no-index", "no-input",
        "no-python-version-warning", "no-warn-script-location", "prefer-binary", "progress-bar", "quiet",
        "require-virtualenv", "root-user-action", "upgrade", "upgrade-strategy", "user", "verbose",
    }
)  # fmt: skip
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_PYPI = "PyPI"


@dataclass(frozen=True, slots=True)
class PipSettings:
    """pip's options in effect for `pip install`, by their long names."""

    options: Mapping[str, str]

    @classmethod
    def parse(cls, listing: str) -> PipSettings:
        """From what `pip config list` prints."""
        found: dict[str, dict[str, str]] = {level: {} for level in _LEVELS}
        for line in listing.splitlines():
            key, equals, value = line.partition("=")
            level, _, option = key.rpartition(".")
            if equals and level in found:
                found[level][option.lower().replace("_", "-")] = str(ast.literal_eval(value))
        return cls({option: value for level in _LEVELS for option, value in found[level].items()})

    @property
    def untranslated(self) -> list[str]:
        return sorted(self.options.keys() - _WORDS.keys() - _OTHER)

    @property
    def no_index(self) -> bool:
        return self.options.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t")

    @property
    def uv_arguments(self) -> list[str]:
        """What has no variable, or one that an argument of ours would overrule."""
        constraints = [part for file in self.options.get("constraint", "").split() for part in ("-c", file)]
        return [*(["--no-index"] if self.no_index else []), *constraints]

    def uv_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """`environment` for uv. A variable of uv's that the user has set stays as it is."""
        # uv is told which interpreter to install for; these would make it take another one, or
        # another build of torch than the one it is asked for.
        own = ("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TORCH_BACKEND", "VIRTUAL_ENV", "CONDA_PREFIX")
        result = {name: value for name, value in environment.items() if name not in own}
        said = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # all sources are equal, as to pip
        if "no-cache-dir" in self.options:  # with any value: to pip, even "false" means no cache
            said["UV_NO_CACHE"] = "1"
        for option, (variables, separator) in _WORDS.items():
            values = self.options.get(option, "").split()
            if option == "find-links":
                values = [place for value in values if (place := _place(value))]
            if values:
                said |= dict.fromkeys(variables, separator.join(values))
        users = {name for name in said if name.startswith("UV_") and name in environment}
        return result | {name: value for name, value in said.items() if name not in users}

    def sources(self, environment: Mapping[str, str]) -> list[str]:
        """What was asked, for a person, by an installer that ran with `environment`."""
        links = environment.get("UV_FIND_LINKS", "").replace(",", " ").split()
        extra = " ".join(environment.get(name, "") for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL")).split()
        default = environment.get("UV_DEFAULT_INDEX", environment.get("UV_INDEX_URL", _PYPI))
        return [redacted(source) for source in (*links, *([] if self.no_index else [*extra, default]))]


def redacted(text: str) -> str:
    """`text` without the user names and passwords of its URLs."""
    return _CREDENTIALS.sub("", text)


def _place(value: str) -> str | None:
    """One of pip's `find-links` for uv, which neither knows `~` nor passes over a folder that is
    not there."""
    if "://" in value:
        return value
    path = Path(value).expanduser()
    return str(path) if path.exists() else None
