"""The model of training on n GPUs: cases counted by hand, and what has to hold for any."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtl_lib.lab.bench.estimate import IMAGENET_IMAGES, Cluster, cores_needed, estimate, images_per_second_needed, table

TI = 5_717_416  # parameters of DeiT-Ti
PLAIN = Cluster(gpus_per_host=8, within=100e9, between=10e9, hop=0.0, overlap=0.0)


class TestByHand:
    def test_one_gpu_sends_nothing(self):
        one = estimate(0.2, 100, TI, 1, epochs=300, cluster=Cluster(within=1.0, between=1.0))
        assert (one.communication, one.exposed, one.waiting, one.step) == (0, 0, 0, 0.2)
        assert one.steps == pytest.approx(300 * 1_281_167 / 100)
        assert one.hours == pytest.approx(300 * 12811.67 * 0.2 / 3600) == one.gpu_hours
        assert (one.efficiency, one.limit, one.images_per_s) == (1.0, "compute", 500)

    def test_eight_in_a_ring_within_a_host(self):
        """10 M parameters are 40 MB; 2·7/8 of them over 100 GB/s are 0.7 ms."""
        eight = estimate(0.01, 32, 10_000_000, 8, cluster=PLAIN)
        assert eight.communication == pytest.approx(0.7e-3) == eight.exposed
        assert eight.step == pytest.approx(10.7e-3) and eight.efficiency == pytest.approx(10 / 10.7)
        assert eight.images_per_s == pytest.approx(8 * 32 / 10.7e-3)
        assert eight.gpu_hours == pytest.approx(8 * eight.hours)

    def test_the_network_between_hosts_is_what_the_ring_waits_for(self):
        """2·15/16 of 40 MB over 10 GB/s are 7.5 ms; a link within a host that is slower still decides."""
        assert estimate(0.01, 32, 10_000_000, 16, cluster=PLAIN).communication == pytest.approx(7.5e-3)
        slow = replace(PLAIN, within=5e9)
        assert estimate(0.01, 32, 10_000_000, 16, cluster=slow).communication == pytest.approx(15e-3)
        alone = replace(PLAIN, gpus_per_host=1)
        assert estimate(0.01, 32, 10_000_000, 2, cluster=alone).communication == pytest.approx(4e-3)

    def test_every_hop_takes_its_time(self):
        """2·15 hops of 10 µs are 0.3 ms, however small the model."""
        slow = replace(PLAIN, hop=10e-6)
        assert estimate(0.01, 32, 10_000_000, 16, cluster=slow).communication == pytest.approx(7.8e-3)
        assert estimate(0.01, 32, 1, 16, cluster=slow).communication == pytest.approx(0.3e-3, rel=1e-4)

    def test_what_the_backward_pass_hides(self):
        """Of 7.5 ms four fifths are 6 ms, which fit behind 2/3 of a step of 30 ms, and not behind those of 3 ms."""
        hidden = replace(PLAIN, overlap=0.8)
        assert estimate(0.03, 32, 10_000_000, 16, cluster=hidden).exposed == pytest.approx(1.5e-3)
        assert estimate(0.003, 32, 10_000_000, 16, cluster=hidden).exposed == pytest.approx(5.5e-3)
        all_of_it = replace(PLAIN, overlap=1.0)
        assert estimate(0.03, 32, 10_000_000, 16, cluster=all_of_it).exposed == 0

    def test_a_slow_loader_is_what_it_takes(self):
        """8 GPUs of 32 images at 1,000 images/s a host: 256 ms a step, whatever the GPUs do."""
        fed = replace(PLAIN, loader=1000)
        eight = estimate(0.01, 32, 10_000_000, 8, cluster=fed)
        assert eight.step == pytest.approx(0.256) and eight.waiting == pytest.approx(0.256 - 10.7e-3)
        assert (eight.limit, eight.images_per_s) == ("loader", pytest.approx(1000))
        sixteen = estimate(0.01, 32, 10_000_000, 16, cluster=fed)
        assert sixteen.images_per_s == pytest.approx(2000), "every host has a loader of its own"
        half = estimate(0.01, 32, 10_000_000, 4, cluster=fed)
        assert half.images_per_s == pytest.approx(1000), "four GPUs of a host wait for half as many images"

    def test_each_of_the_three_limits(self):
        assert estimate(0.1, 32, 10_000_000, 16, cluster=replace(PLAIN, loader=1e5)).limit == "compute"
        assert estimate(0.005, 32, 10_000_000, 16, cluster=replace(PLAIN, loader=1e5)).limit == "communication"
        assert estimate(0.005, 32, 10_000_000, 16, cluster=replace(PLAIN, loader=1e3)).limit == "loader"

    def test_what_eight_gpus_eat(self):
        assert images_per_second_needed(0.1, 256) == pytest.approx(20480)
        assert images_per_second_needed(0.1, 256, gpus=1) == pytest.approx(2560)
        assert [cores_needed(20480, rate) for rate in (20480, 20479, 160)] == [1, 2, 128]


steps = st.floats(1e-3, 2)
sizes = st.integers(10**4, 10**9)
many = st.integers(1, 512)
clusters = st.builds(
    Cluster,
    gpus_per_host=st.integers(1, 16),
    within=st.floats(1e8, 1e12),
    between=st.floats(1e8, 1e12),
    hop=st.floats(0, 1e-3),
    overlap=st.floats(0, 1),
    loader=st.none() | st.floats(10, 1e6),
)


@given(steps, st.integers(1, 512), sizes, many, clusters)
def test_the_parts_are_the_whole_and_none_is_negative(seconds, batch, size, gpus, cluster):
    found = estimate(seconds, batch, size, gpus, cluster=cluster)
    assert min(found.exposed, found.waiting, found.communication, found.loading) >= 0
    assert found.step >= max(found.compute, found.communication, found.loading) * (1 - 1e-9)
    assert 0 < found.efficiency <= 1
    longest = {"compute": found.compute, "communication": found.communication, "loader": found.loading}
    assert longest[found.limit] == max(longest.values())
    assert found.images_per_s * found.hours * 3600 == pytest.approx(300 * IMAGENET_IMAGES)


@given(steps, sizes, st.integers(2, 512), clusters, st.floats(1.1, 100))
def test_faster_parts_never_make_it_slower(seconds, size, gpus, cluster, times):
    step = estimate(seconds, 64, size, gpus, cluster=cluster).step
    better = [replace(cluster, within=cluster.within * times, between=cluster.between * times)]
    better += [replace(cluster, overlap=1.0), replace(cluster, hop=cluster.hop / times)]
    better += [replace(cluster, loader=None if cluster.loader is None else cluster.loader * times)]
    assert all(estimate(seconds, 64, size, gpus, cluster=other).step <= step * (1 + 1e-9) for other in better)
    assert estimate(seconds / times, 64, size, gpus, cluster=cluster).step <= step * (1 + 1e-9)


@given(steps, sizes, st.integers(1, 256), clusters)
def test_more_gpus_are_never_more_efficient(seconds, size, gpus, cluster):
    few, more = (estimate(seconds, 64, size, n, cluster=cluster) for n in (gpus, gpus + 1))
    assert more.efficiency <= few.efficiency * (1 + 1e-9) and more.gpu_hours >= few.gpu_hours * (1 - 1e-9)


@given(steps, sizes, many)
def test_infinite_links_and_loader_scale_perfectly(seconds, size, gpus):
    free = Cluster(within=math.inf, between=math.inf, hop=0, overlap=0)
    one, found = (estimate(seconds, 64, size, n, cluster=free) for n in (1, gpus))
    assert found.efficiency == 1 and found.hours == pytest.approx(one.hours / gpus)


@given(steps, st.integers(1, 512), sizes)
def test_a_loader_as_fast_as_needed_is_fast_enough(seconds, batch, size):
    needed = images_per_second_needed(seconds, batch, 8)
    fed = estimate(seconds, batch, size, 8, cluster=Cluster(loader=needed))
    starved = estimate(seconds, batch, size, 8, cluster=Cluster(within=math.inf, loader=0.9 * needed))
    assert fed.waiting <= 1e-9 * seconds and starved.waiting > 0


def test_the_table_says_what_it_assumes():
    cluster = Cluster(within=123e9, between=7e9, hop=3e-6, overlap=0.35, loader=4321, gpus_per_host=4)
    found = [estimate(0.05, 48, TI, gpus, epochs=90, images=1000, cluster=cluster) for gpus in (1, 8)]
    text = table(found, TI, 90, 1000, cluster)
    lines = text.splitlines()
    for number, line in zip(found, lines[1:]):
        assert line.split()[0] == str(number.gpus) and f"{1e3 * number.step:,.1f}" in line
        assert line.endswith(number.limit) and f"{number.efficiency:.1%}" in line
    for word in (
        "90 epochs of 1,000 images",
        "48 images a GPU",
        "4 GPUs a host",
        "5,717,416",
        "123 GB/s",
        "7 GB/s",
        "3 µs",
    ):
        assert word in text
    assert "35%" in text and "4,321 images/s a host" in text
    assert "never waited for" in table(found, TI, 90, 1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpus": 0}, "gpus is a whole number"),
        ({"batch_size": 1.5}, "batch_size is a whole number"),
        ({"step_seconds": 0.0}, "step_seconds is a number above 0"),
        ({"epochs": -1}, "epochs is a number above 0"),
    ],
)
def test_wrong_input(change, words):
    with pytest.raises(ValueError, match=words):
        estimate(**{"step_seconds": 0.1, "batch_size": 8, "parameters": 100, "gpus": 1, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap": 1.2}, "overlap is a share"),
        ({"hop": -1e-6}, "hop is a number of seconds"),
        ({"within": 0}, "bandwidth"),
        ({"loader": -5}, "loader's rate"),
    ],
)
def test_wrong_clusters(change, words):
    with pytest.raises(ValueError, match=words):
        Cluster(**change)
