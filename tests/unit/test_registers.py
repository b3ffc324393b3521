"""Registers without training, on models in which one neuron, or two, make known patches long."""

import copy
from dataclasses import replace

import pytest
import torch

import dtl_lib
from dtl_lib import Group, TokenPlan, ViT, ViTConfig, find_register_neurons, record
from dtl_lib.registers import NAME, RegisterNeuron

WRITER, SECOND, BLOCK = 11, 5, 2
PLANS = {
    "class token": TokenPlan.of(4),
    "late, with registers": TokenPlan.of(4, 2, 1, 3),
    "pooled": TokenPlan.of(4, None),
    "class attention": TokenPlan.of(4, 4, class_blocks=2),
}


def planted(plan: str = "class token", **more) -> ViT:
    """A bright patch activates neuron 11 of block 2, and half as much neuron 5: they write one direction, long."""
    torch.manual_seed(0)
    pool = "patches" if plan == "pooled" else "cls"
    config = ViTConfig(32, 8, dim=24, depth=4, heads=3, classes=5, plan=PLANS[plan], pool=pool, **more)
    model = ViT(config).eval()
    bright = torch.randn(24)
    bright = (bright - bright.mean()) / bright.std(correction=0)
    with torch.no_grad():
        model.patch_embed.project.weight.zero_()
        model.patch_embed.project.weight[:, 0] = 0.2 * bright[:, None, None] / 64  # red is bright
        mlp = model.blocks[BLOCK].mlp
        for neuron, activation in ((WRITER, 60.0), (SECOND, -15.0)):
            mlp.expand.weight[neuron] = activation * bright / 24
            mlp.expand.bias[neuron] = -40.0 if activation > 0 else 0.0
            mlp.contract.weight[:, neuron] = bright.roll(1) * (1 if activation > 0 else -1)
        mlp.contract.weight[:, SECOND].zero_()
        for value in model.classifiers.parameters():
            value.normal_()
    return model


def images(count: int = 3, size: tuple[int, int] = (32, 32)) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in which one patch is red, another in each image; and which."""
    draw = torch.Generator().manual_seed(1)
    made = 0.05 * torch.randn(count, 3, *size, generator=draw)
    rows, columns = size[0] // 8, size[1] // 8
    long = torch.zeros(count, rows, columns, dtype=torch.bool)
    for number in range(count):
        row, column = number % rows, (2 * number + 1) % columns
        made[number, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        long[number, row, column] = True
    return made, long


def found(model: ViT, size: tuple[int, int] = (32, 32)) -> tuple[RegisterNeuron, ...]:
    made, long = images(size=size)
    return find_register_neurons(model, made, long, BLOCK)


def lengths(model: ViT, made: torch.Tensor, block: int = 3) -> dict[str, torch.Tensor]:
    with torch.no_grad(), record(model) as tape:
        model(made)
    return tape.norms(block)


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
@pytest.mark.parametrize("plan", PLANS)
def test_the_neuron_that_writes_is_found_and_its_work_moved(plan, size):
    model = planted(plan)
    made, long = images(size=size)
    neurons = found(model, size)
    assert [(one.block, one.neuron, one.sign) for one in neurons] == [(BLOCK, WRITER, 1.0)]
    assert neurons[0].share > 0.8 and neurons[0].high > 10 > 1 > abs(neurons[0].usual)
    before = lengths(model, made)["patches"]
    assert before[long].min() > 5 * before[~long].max()
    with dtl_lib.test_time_registers(model, neurons, n=2) as moved:
        assert moved is model and model.plan.group(NAME) == Group(NAME, 2, enter=BLOCK)
        after = lengths(model, made)
        assert after["patches"].max() < 0.1 * before[long].min()
        assert after[NAME].shape == (3, 2) and after[NAME].min() > 0.5 * before[long].min()


def test_what_moves_is_the_largest_activation_of_the_image_and_nothing_else():
    model, (made, _) = planted(), images()
    neurons, seen = found(model), []
    second = model.blocks[BLOCK].mlp.contract
    look = lambda module, given: seen.append(given[0])  # noqa: E731
    early = second.register_forward_pre_hook(look)  # sees what comes in, and the other what has become of it
    with dtl_lib.test_time_registers(model, neurons):
        late = second.register_forward_pre_hook(look)
        with torch.no_grad():
            model(made)
    early.remove(), late.remove()
    plain, moved = seen
    others = [neuron for neuron in range(plain.shape[-1]) if neuron != WRITER]
    assert plain.shape == moved.shape == (3, 18, 96) and torch.equal(moved[..., others], plain[..., others])
    assert torch.equal(moved[:, 1, WRITER], plain[:, 1:, WRITER].amax(dim=1))  # it stands after the class token
    assert not moved[:, [0, *range(2, 18)], WRITER].any()


@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_gives_what_its_images_give_one_by_one(plan):
    model, (made, _) = planted(plan), images()
    with dtl_lib.test_time_registers(model, found(model)), torch.no_grad():
        together, alone = model(made), torch.cat([model(one[None]) for one in made])
    assert torch.allclose(together, alone, atol=1e-6 * float(alone.abs().max()))


def test_afterwards_the_model_is_what_it_was():
    model, (made, _) = planted(), images()
    neurons = found(model)
    plan, config, state = model.plan, model.config, copy.deepcopy(model.state_dict())
    with torch.no_grad():
        before = model(made)
    with pytest.raises(RuntimeError, match="on the way"), dtl_lib.test_time_registers(model, neurons):
        with torch.no_grad():
            assert not torch.equal(model(made), before)
        raise RuntimeError("on the way")
    with torch.no_grad():
        assert torch.equal(model(made), before)
    assert model.plan is plan and model.config is config and list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())
    with dtl_lib.test_time_registers(model, neurons), torch.no_grad():
        assert not torch.equal(model(made), before), "a second time as the first"


def test_other_neurons_change_nothing_about_the_long_patches():
    model, (made, long) = planted(), images()
    (writer,) = found(model)
    before = lengths(model, made)["patches"][long]
    with dtl_lib.test_time_registers(model, [replace(writer, neuron=40)]):
        assert torch.allclose(lengths(model, made)["patches"][long], before, rtol=0.02)


def test_tokens_may_leave_again():
    model, (made, _) = planted(), images()
    with dtl_lib.test_time_registers(model, found(model), leave=3):
        assert NAME in model.plan.layout(2) and NAME not in model.plan.layout(3)
        with torch.no_grad():
            assert model(made).isfinite().all()


def test_tokens_may_enter_earlier():
    """The patches attend to them on the way, so the logits differ; the neuron's work moves all the same."""
    model, (made, _) = planted(), images()
    neurons, logits = found(model), []
    for enter in (None, 0):
        with dtl_lib.test_time_registers(model, neurons, enter=enter), torch.no_grad(), record(model) as tape:
            logits.append(model(made))
        assert (NAME in tape.plan.layout(0)) == (enter == 0)
        norms = tape.norms(3)
        assert norms["patches"].max() < 0.1 * norms[NAME].min()
    assert not torch.equal(*logits)
    with pytest.raises(ValueError, match="have to enter before block 2"):
        with dtl_lib.test_time_registers(model, neurons, enter=3):
            pass


def test_a_neuron_may_write_with_a_negative_activation():
    """SwiGLU's do. Here the activation function is taken out, so that the planted neuron can."""
    model, (made, long) = planted(), images()
    mlp = model.blocks[BLOCK].mlp
    with torch.no_grad():
        mlp.expand.weight[WRITER] *= -1
        mlp.expand.bias[WRITER] = 0
        mlp.contract.weight[:, WRITER] *= -1
    mlp.forward = lambda x: mlp.contract(mlp.expand(x))
    (writer,) = find_register_neurons(model, made, long, BLOCK)
    assert (writer.neuron, writer.sign) == (WRITER, -1.0)
    with dtl_lib.test_time_registers(model, [writer]):
        after = lengths(model, made)
        assert after["patches"].max() < 0.1 * after[NAME].min()


def test_layer_scale_counts():
    """What a neuron writes is scaled: one that LayerScale silences is not found."""
    model, (made, long) = planted(layer_scale=1.0), images()
    assert [one.neuron for one in find_register_neurons(model, made, long, BLOCK)] == [WRITER]
    with torch.no_grad():
        model.blocks[BLOCK].scale2.factor.zero_()
    rest = find_register_neurons(model, made, long, BLOCK)
    assert all(one.block != BLOCK for one in rest)


def test_the_last_block_is_the_same_however_many_of_its_tokens_are_computed():
    model, (made, long) = planted(), images()
    neurons = find_register_neurons(model, made, long, 3)
    assert (neurons[0].block, neurons[0].neuron) == (BLOCK, WRITER)
    last = replace(neurons[0], block=3)
    with torch.no_grad(), dtl_lib.test_time_registers(model, [last]):
        narrow = model(made)
        model.all_queries = True
        whole = model(made)
        model.all_queries = False
    assert torch.allclose(narrow, whole, atol=1e-5) and not torch.allclose(narrow, model(made), atol=1e-7)


def test_bad_input():
    model, (made, long) = planted(), images()
    (writer,) = found(model)
    with pytest.raises(ValueError, match=r"long is a bool tensor of \(3, 4, 4\)"):
        find_register_neurons(model, made, long.flatten(1), BLOCK)
    with pytest.raises(ValueError, match="some patches have to be long and some not"):
        find_register_neurons(model, made, torch.zeros_like(long), BLOCK)
    with pytest.raises(ValueError, match="there is no block 4"):
        find_register_neurons(model, made, long, 4)
    with pytest.raises(ValueError, match="block 4 is class attention"):
        find_register_neurons(planted("class attention"), made, long, 4)
    with pytest.raises(ValueError, match="share is above 0"):
        find_register_neurons(model, made, long, BLOCK, share=0)
    with pytest.raises(ValueError, match="non-finite"):
        find_register_neurons(model, made / 0, long, BLOCK)
    for wrong, why in (
        ([], "at least one neuron"),
        ([replace(writer, neuron=96)], "neurons 0 … 95, not 96"),
        ([replace(writer, block=9)], "there is no block 9"),
        (writer, "in a list"),
        ([(2, 11, 1)], "neurons are RegisterNeurons"),
        ([replace(writer, sign=0.5)], "a sign of 1 or -1"),
        ([replace(writer, neuron=11.5)], "neurons 0 … 95, not 11.5"),
        ([writer, replace(writer, sign=-1.0)], "neuron 11 of block 2 is there twice"),
    ):
        with pytest.raises(ValueError, match=why), dtl_lib.test_time_registers(model, wrong):
            pass
    with dtl_lib.test_time_registers(model, [writer]):
        with pytest.raises(ValueError, match='tokens called "test" already'):
            with dtl_lib.test_time_registers(model, [writer]):
                pass
    with pytest.raises(ValueError, match="class attention, where patches are not computed"):
        with dtl_lib.test_time_registers(planted("class attention"), [replace(writer, block=4)]):
            pass
