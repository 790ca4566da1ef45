"""Computed tensors are kept within a budget so that asking for all of them in turn finds some again."""

from __future__ import annotations

import torch

from lmms_plam.merge import Kept


def ask(kept, names, rounds):
    """The share of the asked tensors, of four bytes each, that were found in the last round."""
    for _ in range(rounds):
        found = 0
        for name in names:
            if kept.get(name) is None:
                kept.put(name, torch.zeros(1))
            else:
                found += 1
    return found / len(names)


def test_asked_for_in_turn_about_as_many_are_found_as_there_is_room_for():
    assert ask(Kept(4 * 100), range(200), rounds=5) > 0.4
    assert ask(Kept(4 * 200), range(200), rounds=2) == 1
    assert ask(Kept(0), range(200), rounds=5) == 0


def test_what_nobody_asks_for_any_more_makes_room():
    kept = Kept(4 * 100)
    ask(kept, range(1000, 1300), rounds=3)
    assert ask(kept, range(100), rounds=1) == 0
    assert ask(kept, range(100), rounds=40) > 0.9


def test_the_budget_is_held_and_what_is_larger_is_never_kept():
    kept = Kept(40)
    for name in range(100):
        kept.put(name, torch.zeros(3))
        kept.put(-1 - name, torch.zeros(11))
    left = [tensor for name in range(-100, 100) if (tensor := kept.get(name)) is not None]
    assert 28 < sum(tensor.nbytes for tensor in left) <= 40
    assert all(len(tensor) == 3 for tensor in left)
