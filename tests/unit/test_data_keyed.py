"""Keyed randomness: a number depends on what it is for, and on nothing else."""

import torch

from dtl_lib.data import keyed

WORD = 2**64


def splitmix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def test_hash_is_splitmix64_in_wrapping_int64():
    words = [0, 1, 2**63, WORD - 1, 0x9E3779B97F4A7C15, 123456789]
    hashed = keyed._mix(torch.tensor([keyed._signed(word) for word in words]))
    assert [value % WORD for value in hashed.tolist()] == [splitmix(word) for word in words]


def test_numbers_do_not_depend_on_the_batch():
    together = keyed.uniform((3, 2), (1, 2), torch.arange(50), "x")
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(keyed.uniform((3, 2), (1, 2), order, "x"), together[order])
    assert torch.equal(keyed.uniform((3, 2), (1, 2), [7], "x")[0], together[7])


def test_numbers_depend_on_key_index_stream_and_counter():
    base = keyed.uniform((64,), (1, 2), [5], "x")
    others = [
        keyed.uniform((64,), (2, 1), [5], "x"),
        keyed.uniform((64,), (1, 3), [5], "x"),
        keyed.uniform((64,), (1, 2), [6], "x"),
        keyed.uniform((64,), (1, 2), [5], "y"),
    ]
    assert base.unique().numel() == 64
    for other in others:
        assert not (base == other).any()


def test_one_number_of_many_is_drawn_alone():
    drawn = keyed.uniform((3, 5), (1, 2), torch.arange(6), "x").flatten(1)
    rows, places = torch.tensor([4, 0, 4, 2]), torch.tensor([14, 0, 3, 7])
    assert torch.equal(keyed.uniform_at(places, (1, 2), rows, "x"), drawn[rows, places])


def test_numbers_are_uniform_and_uncorrelated_between_neighbours():
    for draws in (
        keyed.uniform((8,), (0, 0), torch.arange(4096), "x"),
        keyed.uniform((4096,), (0, 0), range(8), "x").T,
    ):
        assert draws.min() >= 0 and draws.max() < 1
        counts = torch.histc(draws, 16, 0, 1)
        chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi_square < 45  # 15 degrees of freedom: exceeded once in 10,000
        assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.07


def test_seeds_near_each_other_are_unrelated():
    draws = torch.stack([keyed.uniform((), (seed, 0), torch.arange(4096), "x") for seed in range(8)])
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.07


def test_permutation_holds_every_number_once_and_follows_its_key():
    order = keyed.permutation(1000, (3, 4))
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, keyed.permutation(1000, (3, 5)))
    assert torch.equal(order, keyed.permutation(1000, (3, 4)))


def test_borrowed_generator_comes_back_as_it_was():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    with keyed.borrowed_generator() as seed_it:
        seed_it(7)
        torch.rand(5)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
