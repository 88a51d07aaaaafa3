"""`python -m abs_dssp`: what `abs-dssp` is."""

from abs_dssp import commands

commands.main()
