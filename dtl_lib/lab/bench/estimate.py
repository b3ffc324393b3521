"""How long training takes on n GPUs: a stated model of a step, from one that was measured on one GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...checks import typed, whole

IMAGENET_IMAGES = 1_281_167
GRADIENT_BYTES = 4  # of a parameter: gradients are summed in float32, also under autocast
BACKWARD = 2 / 3  # of a step's computing: the part that the sum over GPUs can hide behind


@dataclass(frozen=True)
class Cluster:
    """The machines, as far as the model of a step knows them.

    Args:
        gpus_per_host: GPUs that share a host, its links and its loader.
        within: bytes a second from one GPU to the next inside a host (450 GB/s: NVLink of the fourth generation).
        between: bytes a second from one host to the next (25 GB/s: a network of 200 Gb/s).
        hop: seconds until a message begins to arrive at the next GPU, however short it is.
        overlap: share of the sum of gradients that runs while the backward pass does, from 0 to 1.
        loader: images a second that a host reads, decodes and augments; None never keeps a GPU waiting.

    Raises:
        ValueError: for a value out of range.
    """

    gpus_per_host: int = 8
    within: float = 450e9
    between: float = 25e9
    hop: float = 10e-6
    overlap: float = 0.8
    loader: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "gpus_per_host", whole("gpus_per_host", self.gpus_per_host))
        for name in ("within", "between"):
            _above("a bandwidth, in bytes a second,", getattr(self, name))
        if self.loader is not None:
            _above("a loader's rate, in images a second,", self.loader)
        if not 0 <= self.hop < float("inf"):
            raise ValueError(f"hop is a number of seconds, 0 or more, not {self.hop}")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap is a share from 0 to 1, not {self.overlap}")

    def hosts(self, gpus: int) -> int:
        """Hosts that so many GPUs fill."""
        return -(-gpus // self.gpus_per_host)

    def all_reduce(self, size: float, gpus: int) -> float:
        """Seconds to sum `size` bytes over GPUs in a ring: 2·(n − 1) hops, and 2·(n − 1)/n of the bytes on every link.

        The ring is as slow as its slowest link (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms,
        §3). Gradients are summed as one message: several buckets take the hops several times.
        """
        if gpus == 1:
            return 0.0
        slowest = self.within if self.hosts(gpus) == 1 else min(self.within, self.between)
        return 2 * (gpus - 1) * (size / gpus / slowest + self.hop)


@dataclass(frozen=True)
class Estimate:
    """What a training run comes to on so many GPUs.

    Attributes:
        gpus, batch_size: GPUs, and images each has in a step.
        compute: seconds a step of one GPU alone, as measured.
        exposed: seconds a step that the sum of gradients adds, after what the backward pass hides.
        waiting: seconds a step that the GPUs wait for images.
        communication, loading: what the sum and the images take on their own.
        steps: of the whole run; parts of a batch count as parts.
    """

    gpus: int
    batch_size: int
    compute: float
    exposed: float
    waiting: float
    communication: float
    loading: float
    steps: float

    @property
    def step(self) -> float:
        """Seconds a step."""
        return self.compute + self.exposed + self.waiting

    @property
    def images_per_s(self) -> float:
        """Over all GPUs."""
        return self.gpus * self.batch_size / self.step

    @property
    def hours(self) -> float:
        """Of the whole run; evaluation and start left out."""
        return self.steps * self.step / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours times GPUs."""
        return self.hours * self.gpus

    @property
    def efficiency(self) -> float:
        """Images a second over what as many GPUs would reach if none waited for anything."""
        return self.compute / self.step

    @property
    def limit(self) -> str:
        """The longest of "compute", "communication" and "loader"; no step is shorter than any of the three."""
        lengths = {"compute": self.compute, "communication": self.communication, "loader": self.loading}
        return max(lengths, key=lengths.get)


def estimate(
    step_seconds: float, batch_size: int, parameters: int, gpus: int, *, epochs: float = 300,
    images: int = IMAGENET_IMAGES, cluster: Cluster | None = None,
) -> Estimate:  # fmt: skip
    """What training takes on `gpus` GPUs, each of which makes steps like the measured one.

    A step is its computing, then what of the sum of gradients did not fit behind the backward pass; where the loader
    needs longer than that, the GPUs wait for it. Weights are copied to every GPU (DistributedDataParallel).

    Args:
        step_seconds: of one GPU with a batch of its own.
        batch_size: images in it; the batch of all GPUs is `gpus` times that.
        parameters: learned numbers.
        gpus: how many.
        epochs: passes over the images.
        images: in an epoch.
        cluster: links, overlap, loader; `Cluster()` where None.

    Raises:
        ValueError: for a value out of range.
    """
    cluster = cluster or Cluster()
    gpus, batch_size = whole("gpus", gpus), whole("batch_size", batch_size)
    images, parameters = whole("images", images), whole("parameters", parameters)
    _above("step_seconds", step_seconds)
    _above("epochs", typed("epochs", epochs, float))
    communication = cluster.all_reduce(GRADIENT_BYTES * parameters, gpus)
    exposed = communication - min(cluster.overlap * communication, BACKWARD * step_seconds)
    on_a_host = batch_size * min(gpus, cluster.gpus_per_host)
    loading = 0.0 if cluster.loader is None else on_a_host / cluster.loader
    waiting = max(0.0, loading - step_seconds - exposed)
    steps = epochs * images / (batch_size * gpus)
    return Estimate(gpus, batch_size, step_seconds, exposed, waiting, communication, loading, steps)


def images_per_second_needed(step_seconds: float, batch_size: int, gpus: int = 8) -> float:
    """What a host's loader has to deliver so that its GPUs never wait."""
    _above("step_seconds", step_seconds)
    return whole("gpus", gpus) * whole("batch_size", batch_size) / step_seconds


def cores_needed(images_per_second: float, per_core: float) -> int:
    """Cores that deliver so many images a second, at a measured rate a core."""
    _above("a core's rate, in images a second,", per_core)
    return max(1, math.ceil(images_per_second / per_core))


def table(
    estimates: Sequence[Estimate], parameters: int, epochs: float, images: int, cluster: Cluster | None = None
) -> str:
    """The estimates, one line each, with what they assume below."""
    cluster, first = cluster or Cluster(), estimates[0]
    head = ("GPUs", "batch", "step ms", "compute", "exposed", "waiting", "images/s", "hours", "GPU-hours", "efficiency")
    lines = ["".join(f"{name:>11}" for name in head) + "  limited by"]
    for one in estimates:
        times = (one.step, one.compute, one.exposed, one.waiting)
        cells = [f"{one.gpus}", f"{one.gpus * one.batch_size:,}", *(f"{1e3 * seconds:,.1f}" for seconds in times)]
        cells += [f"{one.images_per_s:,.0f}", f"{one.hours:,.1f}", f"{one.gpu_hours:,.1f}", f"{one.efficiency:.1%}"]
        lines.append("".join(f"{cell:>11}" for cell in cells) + f"  {one.limit}")
    loader = "never waited for" if cluster.loader is None else f"{cluster.loader:,.0f} images/s a host"
    return "\n".join(
        [
            *lines,
            f"Assumed: {epochs:g} epochs of {images:,} images; {first.batch_size} images a GPU in every step, at the "
            f"speed measured on one; {cluster.gpus_per_host} GPUs a host;",
            f"gradients of {parameters:,} parameters in float32 summed in a ring over {cluster.within / 1e9:g} GB/s "
            f"within a host, {cluster.between / 1e9:g} GB/s between hosts, {1e6 * cluster.hop:g} µs a hop,",
            f"{cluster.overlap:.0%} of it behind the backward pass, and never more than {BACKWARD:.2g} of the step; "
            f"loader: {loader}; evaluation, saving and start left out.",
        ]
    )


def _above(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value:
        raise ValueError(f"{name} is a number above 0, not {value!r}")
