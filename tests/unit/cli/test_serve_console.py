"""What `rapo serve` says on its console of files that change while it runs."""

from __future__ import annotations

import logging
from io import StringIO
from pathlib import Path

from cluster.cli.serving.serve import changes_said
from cluster.terminal.console import Console
from services.gateway.reloading import ReloadingFile, read_toml


def test_a_changed_file_that_cannot_be_used_is_said_on_the_console(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("")
    file = ReloadingFile((tokens,), lambda: read_toml(tokens, "serve.gateway.tokens"))
    out, err = StringIO(), StringIO()
    logging.getLogger("services").setLevel(logging.INFO)
    with changes_said(Console(stdout=out, stderr=err)):
        tokens.write_text("web = 'x'")
        assert file.refresh()
        tokens.write_text("web = ")
        assert not file.refresh()
    said = out.getvalue() + err.getvalue()
    assert "read again: tokens.toml" in said
    assert "warning: the old content stays in force: serve.gateway.tokens" in said
    assert "not valid TOML" in said
    tokens.write_text("again = ")
    file.refresh()
    assert out.getvalue() + err.getvalue() == said, "afterwards nothing is said"
