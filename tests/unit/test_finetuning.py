"""What fine-tuning can be given: frozen parameters, and a learning rate that falls towards the first blocks."""

import copy
import json

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from dtl_lib import data, ledger
from dtl_lib.__main__ import parser
from dtl_lib.cli.parser import hyphenated
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.pretrained import from_timm
from dtl_lib.tokens import Group, TokenPlan
from dtl_lib.train import Recipe, fit
from dtl_lib.train.finetuning import freeze, layer_scales
from dtl_lib.train.optim import make_optimizer

PLAN = TokenPlan(3, (Group("cls", 1, 0), Group("late", 2, 2)))


def build(plan=PLAN, **options):
    torch.manual_seed(0)
    return ViT(ViTConfig(16, 8, dim=16, depth=plan.depth, heads=2, plan=plan, classes=10, **options))


@pytest.fixture(scope="module")
def sets():
    sets = data.load("shapes", image_size=16, samples=32)
    for part in (sets.held_out, sets.test):
        part.length = 20
    return sets


class TestLayerDecay:
    def test_the_factor_of_every_block(self):
        scales = layer_scales(build(), 0.5)
        assert set(scales) == {name for name, _ in build().named_parameters()}
        expected = {
            "patch_embed.": 1 / 16, "positions": 1 / 16, "tokens.cls": 1 / 16, "tokens.late": 1 / 4, "blocks.0.": 1 / 8,
            "blocks.1.": 1 / 4, "blocks.2.": 1 / 2, "norm.": 1, "classifiers.": 1,
        }  # fmt: skip
        for begin, factor in expected.items():
            assert {scale for name, scale in scales.items() if name.startswith(begin)} == {factor}, begin

    def test_class_attention_is_counted_on(self):
        plan = TokenPlan.of(2, cls_pos=2, class_blocks=2)
        scales = layer_scales(build(plan, layer_scale=0.1), 0.5)
        assert [scales[f"blocks.{block}.norm1.weight"] for block in range(4)] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
        assert scales["tokens.cls"] == 1 / 8 and scales["positions"] == 1 / 32

    @pytest.mark.parametrize("decay", [0.65, 0.9])
    def test_timm_has_the_same_factors(self, decay):
        small = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 10}
        model = timm.models.VisionTransformer(**small)
        theirs = {}
        names = {id(value): name for name, value in model.named_parameters()}
        for group in param_groups_layer_decay(model, layer_decay=decay):
            theirs |= {names[id(value)]: group["lr_scale"] for value in group["params"]}
        ours = layer_scales(from_timm(model), decay)
        same = {
            "cls_token": "tokens.cls",
            "pos_embed": "positions",
            "patch_embed.proj.weight": "patch_embed.project.weight",
            "blocks.0.attn.qkv.weight": "blocks.0.attention.qkv.weight",
            "blocks.2.mlp.fc2.bias": "blocks.2.mlp.contract.bias",
            "blocks.1.norm1.weight": "blocks.1.norm1.weight",
            "head.weight": "classifiers.cls.weight",
        }
        for their, name in same.items():
            assert ours[name] == pytest.approx(theirs[their]), name
        assert ours["norm.weight"] == 1.0 and theirs["norm.weight"] == decay  # timm counts it to the last block

    @pytest.mark.parametrize("kind", ["adamw", "lamb"])
    def test_every_parameter_has_its_group(self, kind):
        model = build()
        optimizer = make_optimizer(model, Recipe(layer_decay=0.5, weight_decay=0.3, optimizer=kind))
        scales, free = layer_scales(model, 0.5), model.no_weight_decay()
        names = {id(value): name for name, value in model.named_parameters()}
        seen = []
        for group in optimizer.param_groups:
            for value in group["params"]:
                name = names[id(value)]
                seen.append(name)
                assert group["lr_scale"] == scales[name]
                assert group["weight_decay"] == (0.0 if name in free else 0.3)
        assert sorted(seen) == sorted(scales)

    def test_a_step_is_as_long_as_the_factor_says(self, sets):
        model = build()
        before = copy.deepcopy(model.state_dict())
        recipe = Recipe(max_steps=1, batch_size=16, lr=1e-3, layer_decay=0.5, weight_decay=0.0, clip=None)
        fit(model, sets, recipe, progress=False)
        for name, scale in layer_scales(model, 0.5).items():  # Adam's first step is lr for every weight with a gradient
            moved = (model.state_dict()[name] - before[name]).abs().max()
            assert float(moved) == pytest.approx(1e-3 * scale, rel=0.02), name

    def test_without_it_training_is_what_it_was(self, sets):
        """A decay of 1 is none, to the bit."""
        found = []
        for decay in (None, 1.0):
            model = build()
            fit(model, sets, Recipe(max_steps=3, batch_size=16, layer_decay=decay), progress=False)
            found.append(model.state_dict())
        assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())

    @pytest.mark.parametrize(
        "recipe", [{"layer_decay": 0.6}, {"freeze": "backbone"}, {"layer_decay": 0.6, "optimizer": "lamb"}]
    )
    def test_it_can_be_resumed(self, sets, tmp_path, recipe):
        recipe = Recipe(max_steps=4, batch_size=16, eval_every=2, **recipe)
        whole, cut = build(), build()
        fit(whole, sets, recipe, tmp_path / "whole", progress=False)

        def stop(step, *_):
            if step == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(cut, sets, recipe, tmp_path / "cut", progress=False, on_step=stop)
        again = build()
        fit(again, sets, recipe, tmp_path / "cut", progress=False, resume=True)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


class TestFreezing:
    @pytest.mark.parametrize(
        "pattern, learning",
        [
            ("backbone", {"classifiers"}),
            ("patch_embed.*, positions, tokens.*", {"blocks", "norm", "classifiers"}),
            ("blocks.[0-1].*,patch_embed.*", {"positions", "tokens", "blocks", "norm", "classifiers"}),
            ("classifiers.*", {"patch_embed", "positions", "tokens", "blocks", "norm"}),
        ],
    )
    def test_what_is_named_does_not_learn(self, pattern, learning, sets):
        model = build()
        before = copy.deepcopy(model.state_dict())
        fit(model, sets, Recipe(max_steps=2, batch_size=16, freeze=pattern, ema=0.9), progress=False)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert {name.partition(".")[0] for name in moved} == learning
        assert moved == {name for name, value in model.named_parameters() if value.requires_grad}
        if pattern.startswith("blocks"):
            assert {name.split(".")[1] for name in moved if name.startswith("blocks")} == {"2"}

    @pytest.mark.parametrize("pattern", ["head.*", "block.0", "backbone,blocks.7.*", "patch_embed"])
    def test_a_pattern_that_fits_nothing_is_refused(self, pattern):
        with pytest.raises(ValueError, match="no parameter is called .*names begin with positions, patch_embed"):
            freeze(build(), Recipe(freeze=pattern))

    @pytest.mark.parametrize("how", ["*", "backbone,classifiers.*", "by hand"])
    def test_a_model_in_which_nothing_learns_is_refused(self, how, sets):
        model = build()
        model.requires_grad_(how != "by hand")
        with pytest.raises(ValueError, match="every parameter of the model is frozen"):
            fit(
                model,
                sets,
                Recipe(max_steps=1, batch_size=16, freeze=None if how == "by hand" else how),
                progress=False,
            )

    def test_a_model_that_is_frozen_in_part_by_hand(self, sets):
        model = build()
        model.blocks.requires_grad_(False)
        before = copy.deepcopy(model.blocks.state_dict())
        fit(model, sets, Recipe(max_steps=1, batch_size=16), progress=False)
        assert all(torch.equal(value, before[name]) for name, value in model.blocks.state_dict().items())


class TestTheRecipe:
    @pytest.mark.parametrize(
        "wrong, said",
        [
            ({"layer_decay": 0.0}, "layer_decay is above 0 and at most 1"),
            ({"layer_decay": 1.2}, "layer_decay is above 0 and at most 1"),
            ({"layer_decay": "0.5"}, "layer_decay is a number"),
            ({"layer_decay": float("nan")}, "layer_decay is a number"),
            ({"freeze": ""}, "freeze is backbone, or patterns"),
            ({"freeze": " , "}, "freeze is backbone, or patterns"),
            ({"freeze": True}, "freeze is text or none, not True"),
            ({"freeze": ["backbone"]}, "freeze is text or none"),
        ],
    )
    def test_what_it_refuses(self, wrong, said):
        with pytest.raises(ValueError, match=said):
            Recipe(**wrong)

    def test_the_flags(self):
        line = "train --layer_decay 0.75 --freeze blocks.0.*,positions"
        args = parser().parse_args(hyphenated(line.split()))
        assert (args.layer_decay, args.freeze) == (0.75, "blocks.0.*,positions")
        args = parser().parse_args(["train", "--layer-decay", "none", "--freeze", "none"])
        assert args.layer_decay is None and args.freeze is None

    def test_older_cards_and_records_are_read(self):
        old = {
            name: value for name, value in Recipe(lr=2e-3).to_dict().items() if name not in ("layer_decay", "freeze")
        }
        assert Recipe.from_dict(json.loads(json.dumps(old))) == Recipe(lr=2e-3)
        for name in ("atlas_shapes", "atlas_cpu", "training_ingredients"):
            records = ledger.read(name)  # checks every digest
            assert records and all(Recipe.from_dict(record.recipe) for record in records if record.recipe)
