"""`python -m clinreadnet.cli` is `clinreadnet`."""

from clinreadnet.cli import main

main()
