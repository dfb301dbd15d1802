"""`python -m janus` is the command `janus`."""

import sys

from .cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
