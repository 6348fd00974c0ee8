"""python -m vpccni.lab ...: the same commands as `vpccni lab ...`."""

import sys

from vpccni.lab.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
