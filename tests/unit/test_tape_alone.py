"""One record of a model at a time: no copy, replica or other thread reads or writes another's tape."""

import copy
import gc
import io
import pickle
import threading

import pytest
import torch
from torch import nn

from dtl_lib.layers import Attention, DotProduct
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tape import record
from dtl_lib.tokens import TokenPlan


def build(seed=0, **options):
    torch.manual_seed(seed)
    plan = options.pop("plan", TokenPlan.of(3, 1, 0, 2))
    return ViT(ViTConfig(16, 8, dim=16, depth=3, heads=2, plan=plan, classes=4, **options)).eval()


def images(seed=1, batch=2):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def maps_of(model, x):
    with record(model) as tape, torch.no_grad():
        model(x)
    return tape.maps(2)


def in_thread(function):
    """The result of a function that another thread calls, or its exception."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


class TestASecondRecord:
    @pytest.mark.parametrize("options", [{}, {"all_queries": False}, {"grad": True}, {"stream": False}])
    def test_is_refused_and_the_first_goes_on(self, options):
        model = build()
        expected = maps_of(model, images())
        with record(model) as tape, torch.no_grad():
            model(images())
            with pytest.raises(ValueError, match="is being recorded already"), record(model, **options):
                pass
            assert torch.equal(tape.maps(2), expected)
            model(images())
        assert torch.equal(tape.maps(2), expected) and not hooks(model)

    def test_from_another_thread_too(self):
        model = build()
        with record(model):
            error = in_thread(lambda: maps_of(model, images()))
        assert "is being recorded already" in str(error)
        assert torch.equal(in_thread(lambda: maps_of(model, images())), maps_of(model, images()))

    def test_through_what_wraps_the_model(self):
        model = build()
        with record(nn.DataParallel(model)), pytest.raises(ValueError, match="already"), record(model):
            pass

    def test_of_a_model_that_shares_a_part(self):
        one, other = build(0), build(1)
        other.blocks[1] = one.blocks[1]
        with (
            record(one),
            pytest.raises(ValueError, match="this model, or a part of it, is being recorded"),
            record(other),
        ):
            pass

    def test_is_welcome_afterwards_also_after_an_error(self):
        model = build()
        with pytest.raises(RuntimeError, match="on purpose"), record(model):
            raise RuntimeError("on purpose")
        with pytest.raises(ValueError, match="give a ViT"), record(nn.Linear(2, 2)):
            pass
        assert maps_of(model, images()).shape == (2, 2, 2, 2)

    def test_a_record_that_fails_to_begin_leaves_nothing(self):
        model = build()
        core, model.blocks[2].attention.core = model.blocks[2].attention.core, None
        with pytest.raises(AttributeError), record(model):
            pass
        model.blocks[2].attention.core = core
        assert not hooks(model) and maps_of(model, images()).shape == (2, 2, 2, 2)

    def test_of_another_model_in_any_order(self):
        one, other = build(0), build(1)
        expected = [maps_of(model, images()) for model in (one, other)]
        contexts = [record(model) for model in (one, other)]
        tapes = [context.__enter__() for context in contexts]
        with torch.no_grad():
            other(images()), one(images())
        contexts[0].__exit__(None, None, None)  # the first one first
        contexts[1].__exit__(None, None, None)
        assert all(torch.equal(tape.maps(2), maps) for tape, maps in zip(tapes, expected))
        assert not hooks(one) and not hooks(other)

    def test_models_that_are_gone_are_not_remembered(self):
        from dtl_lib.hooks import _recorded

        model = build()
        context = record(model)
        context.__enter__()
        assert len(_recorded)
        context.__exit__(None, None, None)
        del model, context
        gc.collect()
        assert not len(_recorded)


class TestOtherThreads:
    def test_their_passes_leave_the_tape_alone(self):
        model = build()
        expected = maps_of(model, images(1))
        with record(model) as tape, torch.no_grad():
            model(images(1))
            logits = in_thread(lambda: model(images(2)).detach())
        assert torch.equal(tape.maps(2), expected)
        with torch.no_grad():
            assert torch.equal(logits, model(images(2)))

    def test_at_the_same_moment(self):
        """Another thread runs the model while a recorded pass is half done."""
        model = build()
        expected = maps_of(model, images(1))
        done = []

        def meanwhile(module, args):
            if threading.current_thread() is threading.main_thread() and not done:
                done.append(in_thread(lambda: model(images(2, batch=5)).shape))

        handle = model.blocks[1].register_forward_pre_hook(meanwhile)
        with record(model) as tape, torch.no_grad():
            model(images(1))
        handle.remove()
        assert done == [(5, 4)] and torch.equal(tape.maps(2), expected)

    def test_a_record_is_of_one_thread(self):
        model = build()
        with record(model) as tape:
            in_thread(lambda: model(images()))
            with pytest.raises(ValueError, match="nothing is recorded: .* in the same thread"):
                tape.maps(0)


class TestReplicas:
    """DataParallel needs two GPUs; its replicas are made here as it makes them, on the CPU."""

    @staticmethod
    def replica(model):
        """What `torch.nn.parallel.replicate` does, without copying weights to a device."""
        copies = {part: part._replicate_for_data_parallel() for part in model.modules()}
        for part, made in copies.items():
            for name, child in part._modules.items():
                made._modules[name] = None if child is None else copies[child]
            for name, value in part._parameters.items():
                if value is None:
                    made._parameters[name] = None
                else:
                    object.__setattr__(made, name, value)
        return copies[model]

    def test_a_replica_computes_the_same(self):
        model = build(plan=TokenPlan.of(3), qkv_bias=False)
        assert torch.equal(self.replica(model).blocks[0](torch.ones(1, 5, 16)), model.blocks[0](torch.ones(1, 5, 16)))

    def test_replicas_of_a_recorded_model_are_refused(self):
        model = build()
        with record(model):
            replicas = [self.replica(model.blocks[0]) for _ in range(2)]
            for replica in replicas:
                error = in_thread(lambda replica=replica: replica(torch.ones(1, 5, 16)))
                assert isinstance(error, ValueError) and "one replica's images alone" in str(error)

    @pytest.mark.parametrize("devices", [[0, 1], [0, 1, 2]])
    def test_data_parallel_on_several_devices_is_refused_at_once(self, devices):
        wrapped = nn.DataParallel(build())
        wrapped.device_ids = devices
        with (
            pytest.raises(ValueError, match=f"over {len(devices)} replicas.*record the module inside"),
            record(wrapped),
        ):
            pass

    def test_on_one_device_or_none_it_is_seen_through(self):
        model = build()
        wrapped = nn.DataParallel(model)
        with record(wrapped) as tape, torch.no_grad():
            wrapped(images())
        assert torch.equal(tape.maps(2), maps_of(model, images()))


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class TestCopies:
    @pytest.mark.parametrize("copying", [copied, pickled, saved])
    @pytest.mark.parametrize("options", [{}, {"grad": True}, {"all_queries": False}])
    def test_a_copy_made_inside_is_not_recorded(self, copying, options):
        model = build()
        with record(model, **options) as tape:
            model(images(1))
            before = tape.maps(2)
            twin = copying(model)
            assert not hooks(twin) and hooks(model)
            logits = twin(images(2))
            assert torch.equal(tape.maps(2), before)  # nothing was written
            model(images(2))
            assert not torch.equal(tape.maps(2), before)  # the model itself is recorded on
        assert torch.equal(logits, model(images(2))) and twin.config == model.config
        assert torch.equal(maps_of(twin, images(1)), maps_of(model, images(1)))

    def test_before_any_pass_and_after_two_copies(self):
        model = build()
        with record(model):
            assert not hooks(copy.deepcopy(copy.deepcopy(model)))

    def test_a_copy_can_be_recorded_beside_it(self):
        model = build()
        with record(model) as tape, torch.no_grad():
            model(images(1))
            twin = copy.deepcopy(model)
            with record(twin) as other:
                twin(images(2))
        assert torch.equal(tape.maps(2), maps_of(model, images(1)))
        assert torch.equal(other.maps(2), maps_of(model, images(2)))

    def test_a_copied_block_computes_and_writes_nothing(self):
        model = build()
        with record(model) as tape, torch.no_grad():
            model(images())
            before = tape.tokens(0)
            block = copy.deepcopy(model.blocks[0])
            block(torch.ones(1, 4, 16))
            assert torch.equal(tape.tokens(0), before)

    def test_one_s_own_hooks_are_copied_as_ever(self):
        model, seen = build(), []
        model.blocks[0].register_forward_hook(lambda *_: seen.append(1))
        with record(model):
            twin = copy.deepcopy(model)
        twin(images())
        assert seen == [1] and hooks(twin) == 1

    def test_with_a_core_of_one_s_own(self):
        class Own(DotProduct):
            pass

        model = build()
        model.blocks[1].attention = Attention(16, 2, core=Own())
        with record(model) as tape, torch.no_grad():
            model(images())
            twin = copy.deepcopy(model)
            twin(images(2))
        assert not hooks(twin) and torch.equal(tape.maps(2), maps_of(model, images()))


@pytest.mark.parametrize("grad", [True, False])
def test_on_meta_maps_have_their_shapes(grad):
    model = build().to("meta")
    with record(model) as tape, torch.set_grad_enabled(grad):
        model(images().to("meta"))
    for shape, found in {
        (2, 2, 2, 2): tape.maps(2),
        (2, 2, 2, 2, 2): tape.maps(1, "reg"),
        (2, 2, 7, 7): tape.attention(2),
        (2, 7, 16): tape.tokens(2),
    }.items():
        assert found.is_meta and found.shape == shape
