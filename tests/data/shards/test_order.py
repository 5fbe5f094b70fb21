"""The order of an epoch over shards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgc.data.seeding import SeededSampler, mix_seed
from cgc.data.shards.order import ShardSampler
from cgc.data.unlabelled import StreamSampler


def _shard_of(counts: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def _indices(sampler: SeededSampler) -> list[int]:
    return [index for index, _ in sampler]


def most_open(order: list[int], shard_of: torch.Tensor) -> int:
    """Shards between whose first and last sample a place of the order lies, at most (counted place by place)."""
    shards = shard_of[torch.tensor(order)].tolist()
    first = {shard: shards.index(shard) for shard in set(shards)}
    last = {shard: len(shards) - 1 - shards[::-1].index(shard) for shard in set(shards)}
    return max(sum(first[s] <= place <= last[s] for s in first) for place in range(len(shards)))


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    window=st.integers(0, 10),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 5),
)
def test_each_sample_once_and_few_shards_open(counts: list[int], window: int, seed: int, epoch: int) -> None:
    shard_of = _shard_of(counts)
    sampler = ShardSampler(shard_of, window=window, seed=seed)
    sampler.set_epoch(epoch)
    order = _indices(sampler)
    assert sorted(order) == list(range(sum(counts)))
    assert most_open(order, shard_of) <= (window or len(counts))


def test_samples_are_mixed_within_the_window() -> None:
    shard_of = _shard_of([50] * 20)
    order = _indices(ShardSampler(shard_of, window=5, seed=1))
    assert most_open(order, shard_of) == 5
    for first in range(200, 800, 50):  # neither shard after shard nor the samples of one in their order
        assert len(set(shard_of[order[first : first + 50]].tolist())) >= 5
    mine = [index for index in order if shard_of[index] == 3]
    assert mine != sorted(mine)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    shard_of = _shard_of([7, 3, 11, 5, 9])

    def order(seed: int, epoch: int) -> list[int]:
        sampler = ShardSampler(shard_of, window=2, seed=seed)
        sampler.set_epoch(epoch)
        return _indices(sampler)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("start", [0, 1, 17, 34, 35])
def test_a_start_within_the_epoch_gives_the_rest(start: int) -> None:
    sampler = ShardSampler(_shard_of([7, 3, 11, 5, 9]), window=3, seed=4)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start=start)
    assert list(sampler) == whole[start:]
    assert len(sampler) == len(whole) - start
    assert all(seed == mix_seed(4, 2, index) for index, seed in whole)


@pytest.mark.parametrize("window", [0, 4, 9])
def test_a_window_over_all_shards_is_the_plain_order(window: int) -> None:
    shard_of = _shard_of([5, 4, 3, 2])
    assert list(ShardSampler(shard_of, window=window, seed=3)) == list(SeededSampler(14, seed=3))


def test_without_shuffling_shards_are_read_one_after_the_other() -> None:
    assert _indices(ShardSampler(_shard_of([3, 4, 5]), window=2, shuffle=False)) == list(range(12))


@pytest.mark.parametrize("start", [0, 7, 17])
def test_what_comes_next_is_announced(start: int) -> None:
    """Whenever a shard is first met, the two after it in the order of first use; by their own numbers."""
    shard_of = torch.tensor([0] * 3 + [3] * 3 + [4] * 6 + [9] * 6)
    told: list[tuple[int, list[int]]] = []
    taken: list[int] = []
    sampler = ShardSampler(
        shard_of, window=2, seed=3, start=start, ahead=lambda shards: told.append((len(taken), shards))
    )
    for index, _ in sampler:
        taken.append(index)
    assert taken == _indices(ShardSampler(shard_of, window=2, seed=3, start=start))
    shards = shard_of[taken].tolist()
    firsts = list(dict.fromkeys(shards))
    assert told == [(shards.index(shard), firsts[k + 1 : k + 3]) for k, shard in enumerate(firsts)]


def test_shards_that_lost_all_samples_do_not_count() -> None:
    shard_of = torch.tensor([0] * 6 + [3] * 6 + [9] * 6)
    order = _indices(ShardSampler(shard_of, window=2))
    assert sorted(order) == list(range(18))
    assert most_open(order, shard_of) <= 2


def test_the_endless_stream_goes_through_shards() -> None:
    """Each pass in an order of its own, the same wherever the stream is entered."""
    shard_of = _shard_of([6, 6, 6, 6])
    stream = StreamSampler(24, passes=ShardSampler(shard_of, window=2, seed=8))
    stream.set_window(0, 60)
    items = list(stream)
    for epoch in range(2):
        one = [index for index, _ in items[24 * epoch : 24 * epoch + 24]]
        assert sorted(one) == list(range(24))
        assert most_open(one, shard_of) <= 2
    assert [index for index, _ in items[:24]] != [index for index, _ in items[24:48]]
    stream.set_window(31, 20)
    assert list(stream) == items[31:51]


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        ShardSampler(_shard_of([1]), window=-1)


def test_a_position_is_one_of_a_window() -> None:
    shard_of = torch.arange(12) // 3
    assert ShardSampler(shard_of, window=2).described == "12 images, 2 shards at a time"
    for window in (0, 4, 9):  # all samples are shuffled at once
        assert ShardSampler(shard_of, window=window).described == SeededSampler(12).described == "12 images"
