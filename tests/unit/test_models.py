"""The ViT: features, class attention, sizes, parameters, copies and types."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from dtl_lib.layers import ClassAttention, DotProduct, TalkingHeads, interpolate_positions
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import Group, TokenNotThere, TokenPlan
from tests.unit.fixed import noise
from tests.unit.small import SMALL, block_inputs, build, images
from tests.unit.strategies import configs

some = settings(max_examples=40, deadline=None)


class TestFeatures:
    def test_by_name(self):
        plan = TokenPlan(3, (Group("cls", 1, 2), Group("reg", 4, 1), Group("late", 2, 2)))
        model, x = build(replace(SMALL, plan=plan)), images(SMALL)
        f = model.features(x)
        assert list(f.tokens) == ["cls", "reg", "late", "patches"]
        assert [f[name].shape[1] for name in f.tokens] == [1, 4, 2, 6]
        assert f.grid == (2, 3)
        stream, _ = model.encode(x)
        torch.testing.assert_close(torch.cat([f.cls, f.reg, f.late, f.patches], dim=1), model.norm(stream))

    @some
    @given(configs())
    def test_every_group_that_stays_is_its_part_of_the_stream(self, config):
        model, x, last = build(config), images(config), config.plan.layout(config.plan.blocks - 1)
        stream, grid = model.encode(x)
        stream = stream if config.norm_after_pool else model.norm(stream)
        features = model.features(x)
        assert list(features.tokens) == list(config.plan.final) and features.grid == grid == config.grid
        for name, tokens in features.tokens.items():
            torch.testing.assert_close(tokens, stream[:, last[name]])

    def test_patches_are_row_by_row(self):
        model, x = build(SMALL), images(SMALL)
        x2 = x.clone()
        x2[:, :, 4, 9] += 1
        moved = (model.embed(x)[0] != model.embed(x2)[0]).any(dim=-1)
        assert moved[0].nonzero().tolist() == [[1 * 3 + 2]]

    def test_what_is_not_there(self):
        plan = TokenPlan(3, (Group("cls", 1, 1), Group("reg", 2, 0, 2), Group("end", 1, 0, 3)))
        f = build(replace(SMALL, plan=plan)).features(images(SMALL))
        with pytest.raises(TokenNotThere, match="reg enters at block 0 and leaves at 2; .* there are cls, patches"):
            f.reg  # noqa: B018
        with pytest.raises(TokenNotThere, match="end enters at block 0 and leaves at 3"):
            f["end"]
        with pytest.raises(TokenNotThere, match=r"this plan has no dist \(it has cls, reg, end, patches\)"):
            f.dist  # noqa: B018
        assert issubclass(TokenNotThere, ValueError)
        assert not hasattr(f, "_repr_html_")  # what a notebook asks of every value it shows

    @pytest.mark.parametrize("through", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_survive_copying(self, through):
        f = build(SMALL).eval().features(images(SMALL))
        f = replace(f, tokens={name: value.detach() for name, value in f.tokens.items()})
        assert torch.equal(through(f).patches, f.patches) and through(f).plan == f.plan


class TestClassAttention:
    plan = TokenPlan.of(2, cls_pos=2, class_blocks=2, reg_pos=2, num_reg=3)
    config = replace(
        SMALL, depth=2, plan=plan, talking_heads=True, layer_scale=0.1, drop_path=0.2, drop_path_schedule="uniform"
    )

    def test_is_cait_by_configuration(self):
        model = ViT(self.config)
        kinds = [(isinstance(block, ClassAttention), type(block.attention.core)) for block in model.blocks]
        assert kinds == [(False, TalkingHeads)] * 2 + [(True, DotProduct)] * 2
        assert [getattr(block.drop_path, "probability", 0) for block in model.blocks] == [0.2, 0.2, 0, 0]

    def test_only_the_class_token_is_updated(self):
        model, x = build(self.config), images(self.config)
        with block_inputs(model) as given_to:
            f = model.features(x)
        torch.testing.assert_close(f.patches, model.norm(given_to[2][:, 4:]))
        torch.testing.assert_close(f.reg, model.norm(model.tokens["reg"]).expand(2, -1, -1))
        assert not torch.allclose(f.cls, model.norm(model.tokens["cls"]).expand(2, -1, -1))

    def test_registers_are_keys_there(self):
        model, x = build(self.config), images(self.config)
        before = model(x)
        with torch.no_grad():
            model.tokens["reg"].add_(noise(3, 12, seed=3))
        assert not torch.allclose(model(x), before)


class TestSizes:
    @pytest.mark.parametrize("size", [(8, 12), (4, 4), (20, 8), (8, 40), (28, 28)])
    @pytest.mark.parametrize("positions", ["learned", "sincos"])
    @pytest.mark.parametrize("offset", [None, 0.1])
    def test_other_sizes_are_the_model_with_positions_interpolated(self, size, positions, offset):
        model = build(replace(SMALL, positions=positions, position_offset=offset))
        there = build(replace(SMALL, image_size=size, positions=positions, position_offset=offset))
        state = model.state_dict()
        grid = (size[0] // 4, size[1] // 4)
        moved = interpolate_positions(model.positions.detach(), grid, offset)
        if positions == "learned":
            state["positions"] = moved
        else:
            there.positions = moved
        there.load_state_dict(state)
        x = noise(2, 3, *size)
        torch.testing.assert_close(model(x), there(x))
        assert model.features(x).grid == grid

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((2, 3, 9, 12), "9×12 does not divide into patches of 4: the nearest that does is 8×12"),
            ((2, 3, 8, 15), "nearest that does is 8×16"),
            ((2, 3, 3, 3), "nearest that does is 4×4"),
            ((2, 3, 0, 8), "nearest that does is 4×8"),
            ((3, 8, 12), r"images are \(batch, 3, height, width\), not \(3, 8, 12\)"),
            ((2, 1, 8, 12), r"images are \(batch, 3, height, width\), not \(2, 1, 8, 12\)"),
            ((2, 8, 12, 3), r"images are \(batch, 3, height, width\), not \(2, 8, 12, 3\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, shape, message):
        with pytest.raises(ValueError, match=message):
            build(SMALL)(noise(*shape))

    def test_bytes_are_refused(self):
        with pytest.raises(ValueError, match="images are floating point.*not torch.uint8"):
            build(SMALL)(torch.zeros(1, 3, 8, 12, dtype=torch.uint8))

    @pytest.mark.parametrize(
        "images, weights", [("float32", "float16"), ("float16", "float32"), ("float64", "bfloat16")]
    )
    def test_images_of_another_precision_than_the_weights(self, images, weights):
        model = build(SMALL).to(getattr(torch, weights))
        x = torch.zeros(1, 3, 8, 12, dtype=getattr(torch, images))
        with pytest.raises(ValueError, match=f"images are torch.{images} and the model torch.{weights}: images.to"):
            model(x)

    def test_autocast_takes_images_of_either_precision(self):
        for precision in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16):
                assert build(SMALL).float()(noise(1, 3, 8, 12).to(precision)).isfinite().all()

    def test_an_empty_batch(self):
        assert build(SMALL)(noise(0, 3, 8, 12)).shape == (0, 5)


class TestParameters:
    @some
    @given(configs())
    def test_every_one_gets_a_gradient(self, config):
        """None is unused, or distributed training would wait for it for ever."""
        for drop_path in (config.drop_path, 0.0):
            model = build(replace(config, drop_path=drop_path)).train()
            heads = model.heads(images(config))
            sum(head.square().sum() for head in heads).backward()
            assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        for name, token in model.tokens.items():  # nothing is dropped by chance in the second of the two
            assert token.grad.abs().sum() > 0, name

    def test_what_weight_decay_leaves_alone(self):
        plan = TokenPlan.of(1, dist=True, reg_pos=0, num_reg=2)
        model = ViT(replace(SMALL, depth=1, plan=plan, layer_scale=0.1, talking_heads=True))
        decayed = {name for name, _ in model.named_parameters()} - model.no_weight_decay()
        block = ("attention.qkv", "attention.project", "mlp.expand", "mlp.contract")
        matrices = {f"blocks.0.{name}.weight" for name in (*block, "attention.core.before", "attention.core.after")}
        heads = {"classifiers.cls.weight", "classifiers.dist.weight"}
        assert decayed == {"patch_embed.project.weight"} | matrices | heads
        assert {"tokens.cls", "tokens.dist", "tokens.reg", "positions", "norm.bias"} <= model.no_weight_decay()
        assert {"blocks.0.norm1.weight", "blocks.0.scale1.factor"} <= model.no_weight_decay()

    def test_initialisation(self):
        torch.manual_seed(0)
        model = ViT(replace(SMALL, dim=192, image_size=64, plan=TokenPlan.of(3, reg_pos=0, num_reg=40)))
        for name in ("positions", "tokens.reg", "blocks.1.mlp.expand.weight", "classifiers.cls.weight"):
            assert 0.018 < float(model.get_parameter(name).detach().std()) < 0.022, name
        zeros = [name for name, value in model.named_parameters() if not value.any()]
        assert all(name.endswith("bias") for name in zeros) and len(zeros) == 1 + 6 * 3 + 1 + 1

    def test_a_seed_is_a_model(self):
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(ViT(SMALL).state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    @pytest.mark.parametrize("name", ["keys", "pop", "training", "forward"])
    def test_names_that_torch_has_taken(self, name):
        plan = TokenPlan(3, (Group("cls", 1), Group(name, 1)))
        with pytest.raises(ValueError, match=f"'{name}' cannot name a group"):
            ViT(replace(SMALL, plan=plan))


class TestCopies:
    config = replace(SMALL, plan=TokenPlan(3, (Group("cls", 1, 1), Group("reg", 2, 0, 2))), drop_path=0.1)

    @pytest.mark.parametrize("through", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_a_copy_is_the_same_function_and_its_own(self, through):
        model, x = build(self.config), images(self.config)
        twin = through(model)
        assert torch.equal(twin(x), model(x)) and twin.config == model.config
        with torch.no_grad():
            twin.tokens["reg"].add_(noise(2, 12))
        assert not torch.equal(twin(x), model(x))

    def test_state_dict_round_trip_without_unpickling(self):
        model, x, file = build(self.config), images(self.config), io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        twin = ViT(ViTConfig.from_dict(model.config.to_dict())).double().eval()
        twin.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(twin(x), model(x))

    def test_build_by_name(self):
        plan = TokenPlan.of(4, cls_pos=2, reg_pos=1, num_reg=3)
        model = ViT.build("vit_shapes_patch8_32", plan=plan, classes=7, drop_path=0.1)
        assert model.plan == plan and model.config.classes == 7 and model.config.drop_path == 0.1
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
        no_class = ViT.build("vit_shapes_patch8_32", plan=TokenPlan.of(4, cls_pos=None))
        assert no_class.config.head_names == ("patches",)
        with pytest.raises(ValueError, match="no configuration is called"):
            ViT.build("vit_shapes")


class TestTypes:
    @pytest.mark.parametrize("pool", ["cls", "patches"])
    def test_autocast(self, pool):
        plan = TokenPlan.of(3, cls_pos=1, reg_pos=0, num_reg=2, class_blocks=2 if pool == "cls" else 0)
        config = replace(SMALL, plan=plan, pool=pool, talking_heads=True, layer_scale=0.1)
        model, x = build(config).float(), images(config).float()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        assert logits.dtype == torch.bfloat16
        assert float((logits.detach().float() - model(x).detach()).norm() / model(x).detach().norm()) < 0.05
        logits.float().square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("size", [(8, 12), (12, 12)])
    @pytest.mark.parametrize("positions", ["learned", "sincos"])
    def test_one_type_throughout(self, dtype, size, positions):
        model = build(replace(SMALL, positions=positions)).to(dtype)
        assert model.positions.dtype == dtype
        with block_inputs(model) as given_to:
            assert model(noise(2, 3, *size).to(dtype)).dtype == dtype
        assert {x.dtype for x in given_to} == {dtype}

    def test_float32_is_close_to_float64(self):
        model, x = build(SMALL), images(SMALL)
        exact = model(x).detach()
        assert float((model.float()(x.float()) - exact).detach().norm() / exact.norm()) < 2e-6
