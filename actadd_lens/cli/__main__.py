"""`python -m actadd_lens.cli`: the same as `actadd`."""

import sys

from actadd_lens.cli import main

if __name__ == "__main__":
    sys.exit(main())
