"""The fewest faults that still break a seed."""

from collections.abc import Callable


def shrink(
    fired: list[int], breaks: Callable[[frozenset[int]], bool], attempts: int
) -> frozenset[int]:
    """Leaves out faults, many at a time and then fewer, while the seed still breaks.

    This is Zeller and Hildebrandt's ddmin (IEEE TSE 2002) without its step to subsets.

    Args:
      fired: numbers of the faults.
      breaks: runs the seed with these faults only.
      attempts: runs at most.

    Returns:
      The faults that are left.

    Example:
      >>> sorted(shrink(list(range(100)), lambda kept: {3, 57} <= kept, 200))
      [3, 57]
    """
    kept, parts = list(fired), 2
    while len(kept) > 1 and attempts > 0:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            attempts -= 1
            if breaks(frozenset(rest)):
                kept, parts = rest, max(parts - 1, 2)
                break
            if attempts <= 0:
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(kept))
    return frozenset(kept)
