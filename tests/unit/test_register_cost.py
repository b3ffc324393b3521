"""What registers cost, tried with small models: what is compared with what, recorded, and left out."""

import pytest

from book.experiments import register_cost
from dtl_lib import ledger
from dtl_lib.config import ViTConfig, named
from dtl_lib.lab import bench
from tests.unit.pretended import pretended_gpu

TINY = ViTConfig(16, 8, dim=24, depth=12, heads=3, classes=5)
SHORT = "--device cpu --rounds 2 --batch-size 2".split()
LABELS = [
    "no registers", "no registers, again", *(f"{n} from 0" for n in ("1 register", "4 registers", "8 registers")),
    "16 registers from 0", *(f"16 registers from {place}" for place in (3, 6, 9)),
]  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Small models under the names of large ones, and no memory to measure."""
    monkeypatch.setattr(register_cost, "named", lambda name: TINY)
    monkeypatch.setattr(bench, "step_memory", lambda config, batch, **how: config.cost().activation_bytes)


def test_the_models_have_twelve_blocks():
    for name in register_cost.MODELS:
        assert named(name).plan.depth == register_cost.DEPTH and not named(name).plan.group("reg")


def test_registers_are_measured_against_none(small, tmp_path, capsys):
    register_cost.main([*SHORT, "--folder", str(tmp_path)])
    records = ledger.read("register_cost", tmp_path)
    assert len(records) == 2 * 2 * len(LABELS) == len({record.what for record in records})
    for at, record in enumerate(records):
        label = LABELS[at % len(LABELS)]
        assert f", {label}: " in record.what and record.n == 2
        low, high = record.get("time")[1:]
        assert low <= record.get("time")[0] <= high and record.get("images_per_s") > 0
        assert record.command == "python -m book.experiments.register_cost"
        training = "training step" in record.what
        assert ("predicted_memory" in record.values) == training == ("activation_bytes" in record.values)
        if label == LABELS[0]:
            assert record.get("time") == [1, 1, 1] and record.get("memory") == 1 == record.get("predicted")
    costs = [record.get("predicted") for record in records[: len(LABELS)]]
    assert costs[0] == costs[1] and costs[1:6] == sorted(set(costs[1:6]))  # the more the dearer
    assert costs[5:] == sorted(set(costs[5:]), reverse=True) and costs[-1] > 1  # the later the cheaper
    assert capsys.readouterr().out.count("times the first's time") == len(records)


def test_what_is_recorded_is_not_measured_again(small, tmp_path, monkeypatch):
    measured, was = [], bench.measure
    monkeypatch.setattr(bench, "measure", lambda runs, *how: measured.append(list(runs)) or was(runs, *how))
    only = [*SHORT, "--folder", str(tmp_path), "--only"]
    register_cost.main([*only, "vit_cifar_patch4_32, 4 registers from 0: forward"])
    register_cost.main([*only, "vit_cifar_patch4_32, 4 registers from 0"])
    register_cost.main([*only, "vit_cifar_patch4_32, 4 registers from 0"])
    assert measured == [["no registers", "4 registers from 0"]] * 2
    assert ["forward" in record.what for record in ledger.read("register_cost", tmp_path)] == [True, False]


def test_a_damaged_record_is_not_passed_over(small, tmp_path):
    (tmp_path / "register_cost.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1"):
        register_cost.main([*SHORT, "--folder", str(tmp_path)])


@pytest.mark.slow
def test_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(register_cost, "named", lambda name: TINY)
    with pretended_gpu():
        register_cost.main(["--rounds", "2", "--folder", str(tmp_path), "--only", "patch4_32, 4 registers from 0"])
    forward, step = ledger.read("register_cost", tmp_path)
    assert forward.device == step.device == "a pretended GPU" and "batches of 512" in step.what
    assert step.get("peak_bytes") > 0
