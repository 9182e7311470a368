"""`python -m csm_ft.generate`: see run.py."""

import sys

from csm_ft.generate.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
