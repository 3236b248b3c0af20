"""The main job, `python -m pure_batchops`: see `pure_batchops.demo.mislabelled`."""

import sys

from pure_batchops.demo.mislabelled import main

if __name__ == "__main__":
    sys.exit(main())
