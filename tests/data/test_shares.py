"""Every process reads its part of each batch of one order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgc.data.seeding import SeededSampler
from cgc.data.shares import ShareOfBatches, plan_of
from cgc.errors import InputError


def batches(items: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


@given(
    length=st.integers(0, 40),
    each=st.integers(1, 4),
    size=st.integers(1, 4),
    epoch=st.integers(0, 2),
    done=st.integers(0, 12),
    uneven=st.booleans(),
)
def test_parts_make_up_the_batches_of_one_process(
    length: int, each: int, size: int, epoch: int, done: int, uneven: bool
) -> None:
    batch_size = each * size
    order = SeededSampler(length, seed=7)
    order.set_epoch(epoch, start=min(done * batch_size, length))
    whole = batches(list(order), batch_size)
    shares = [ShareOfBatches(order, batch_size, rank, size, uneven=uneven) for rank in range(size)]
    parts = [list(share) for share in shares]
    assert [len(part) for part in parts] == [len(share) for share in shares]
    if uneven:
        assert sorted(item for part in parts for item in part) == sorted(item for b in whole for item in b)
        return
    if whole and len(whole[-1]) % size:
        whole[-1] = whole[-1][: len(whole[-1]) - len(whole[-1]) % size]
    per_step = [batches(part, each) for part in parts]
    assert len({len(part) for part in parts}) == 1
    joined = [[item for part in step for item in part] for step in zip(*per_step, strict=True)]
    assert joined == [batch for batch in whole if batch]
    assert shares[0].batches(len(order)) == len(joined)


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(InputError, match="-b 10 cannot be shared equally by 4 processes; 8 or 12 can"):
        ShareOfBatches(SeededSampler(20), 10, 0, 4)
    with pytest.raises(InputError, match=r"-b 3 .*; 4 can"):
        ShareOfBatches(SeededSampler(20), 3, 0, 4)


class _Loader:
    def __init__(self, sampler: object, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size


def test_a_plan_counts_images_of_all_processes() -> None:
    order = SeededSampler(21)
    assert plan_of(_Loader(order, 4)) == (order, 4, 6, "21 images")
    assert plan_of(_Loader(ShareOfBatches(order, 4, 1, 2), 2)) == (
        order,
        4,
        5,
        "21 images",
    )  # of one image nobody has a part
    assert plan_of(_Loader(ShareOfBatches(SeededSampler(22), 4, 1, 2), 2))[1:3] == (4, 6)
