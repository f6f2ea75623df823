"""Commands with a file of their own; `runbook.cli` names them."""
