"""`python -m csm_ft.export`: see run.py."""

import sys

from csm_ft.export.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
