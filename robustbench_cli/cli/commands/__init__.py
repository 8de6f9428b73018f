"""One file per command; :mod:`robustbench_cli.cli.dispatch` imports a command's file when it is needed."""
