"""A module that applications of one interpreter share."""

counts = {}


def count(name):
    counts[name] = counts.get(name, 0) + 1
    return counts[name]
