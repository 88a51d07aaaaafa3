"""Runs a script of experiments/ with fewer methods and worker times than it has.

fewer.py METHODS REGIMES SCRIPT ARGUMENTS...

METHODS and REGIMES are labels, separated by ";"; all where nothing is given.
"""

import functools
import runpy
import sys

from abs_dssp.experiment import methods
from abs_dssp.experiment.optimality import regimes as places


def chosen(function, labels):
    """`function`, of whose results only those with these labels are left, if any."""

    @functools.wraps(function)
    def fewer(*arguments):
        found = function(*arguments)
        return [each for each in found if not labels or each.label in labels.split(";")]

    return fewer


def main():
    some, regimes, script = sys.argv[1:4]
    sys.argv[:] = sys.argv[3:]
    methods.recommended = chosen(methods.recommended, some)
    places.every = chosen(places.every, regimes)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
