"""`python -m sslmem_utils` is `sslmem`: for torchrun, which starts modules."""

from .cli import main

raise SystemExit(main())
