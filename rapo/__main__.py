"""Entry point: the commands, as `rapo` and as `python -m rapo`."""

from __future__ import annotations

import os
from importlib import import_module

from rapo.system_folder import add_to_path


def main() -> None:
    """Run the command line."""
    # What gRPC has to say reaches a user as an error of rapo; its own lines would come before it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    add_to_path()
    # Not an import statement: the commands lie outside this package and can be found only now.
    import_module("cluster.cli.main").main()


if __name__ == "__main__":
    main()
