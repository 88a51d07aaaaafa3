"""`abs-dssp abs-fig1` from the source tree; see abs_dssp/commands."""

from abs_dssp import commands

if __name__ == "__main__":
    commands.run("abs-fig1")
