"""`abs-dssp goodput` from the source tree; see abs_dssp/commands."""

from abs_dssp import commands

if __name__ == "__main__":
    commands.run("goodput")
