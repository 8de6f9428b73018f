"""``python -m robustbench_cli`` is ``advdef``."""

import sys

from robustbench_cli.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
