"""`python -m abs_dssp.verify`: what `abs-dssp verify` is."""

from abs_dssp import commands

if __name__ == "__main__":
    commands.run("verify")
