"""What the objects of a training set, counted by class, tell as facts."""

from __future__ import annotations

from collections.abc import Mapping

from d2check.model import Scalar


def class_facts(instances: Mapping[str, int]) -> dict[str, Scalar]:
    """The commonest and the rarest class that occur at all; nothing for fewer than two classes."""
    counts = {name: number for name, number in instances.items() if number > 0}
    if len(counts) < 2:
        return {}
    by_count = sorted(counts, key=counts.__getitem__)
    fewest, most = by_count[0], by_count[-1]
    return {
        "commonest_class": most,
        "instances_most": counts[most],
        "rarest_class": fewest,
        "instances_fewest": counts[fewest],
    }
