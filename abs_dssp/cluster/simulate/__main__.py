"""`python -m abs_dssp.cluster.simulate`: what `abs-dssp simulate-cluster` is."""

from abs_dssp import commands

if __name__ == "__main__":
    commands.run("simulate-cluster")
