"""Weights by name: the real ViT-Ti is timm's on real photos, and what is missing or damaged is said in one sentence."""

import logging
import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dtl_lib import pretrained
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT
from dtl_lib.pretrained import from_timm, load_pretrained, load_shared
from dtl_lib.tokens import Group, TokenPlan

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
TINY = "test_vit.r160_in1k"  # timm's smallest: 0.4 M parameters
DATA = Path(os.environ.get("DTL_DATA") or "nowhere")
needs_weights = pytest.mark.skipif(
    not (DATA / "weights" / f"{NAME}.safetensors").is_file(), reason=f"needs DTL_DATA with weights/{NAME}.safetensors"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty DTL_DATA, an empty cache of the hub's client, and no network."""
    monkeypatch.setenv("DTL_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def tiny(folder):
    """timm's smallest ViT with random weights, stored as if fetched."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, pretrained=False).eval()
    save_file(model.state_dict(), folder / f"{TINY}.safetensors")
    return model


@needs_weights
class TestRealWeights:
    @pytest.mark.slow
    def test_top_5_of_every_photo_is_timms(self):
        photos = sorted((DATA / "imagenet").glob("*/n*/*.JPEG"))
        if not photos:
            pytest.skip("needs DTL_DATA with imagenet/{train,val}/nXXXXXXXX/*.JPEG")
        theirs = timm.create_model(NAME, pretrained=False).eval()
        theirs.load_state_dict(load_file(DATA / "weights" / f"{NAME}.safetensors"))
        ours = load_pretrained(NAME)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
        for start in range(0, len(photos), 32):
            images = torch.stack([transform(Image.open(file).convert("RGB")) for file in photos[start : start + 32]])
            with torch.inference_mode():
                a, b = ours(images), theirs(images)
            assert float((a - b).norm() / b.norm()) <= 5e-6
            assert torch.equal(a.topk(5).indices, b.topk(5).indices)

    def test_preprocessing_is_timms(self):
        config, theirs = load_pretrained(NAME).config, timm.get_pretrained_cfg(NAME)
        assert (config.mean, config.std) == (theirs.mean, theirs.std)
        assert (config.crop, config.interpolation) == (theirs.crop_pct, theirs.interpolation)

    def test_name_without_its_tag(self):
        a, b = (load_pretrained(name).state_dict() for name in (NAME, NAME.split(".")[0]))
        assert all(torch.equal(a[name], b[name]) for name in a)


class TestFromAFile:
    def test_is_timms_function_and_ready_to_use(self, tiny):
        model = load_pretrained(TINY)
        images = torch.randn(2, 3, *model.config.image_size)
        with torch.no_grad():
            torch.testing.assert_close(model(images), tiny(images))
        assert not model.training
        assert len(model.loaded.shared) == len(model.state_dict())
        assert model.loaded.initialised == model.loaded.left == ()

    def test_a_path_object_and_a_checkpoint_of_ours(self, tiny, tmp_path):
        from dtl_lib.checkpoint import save_model

        model = load_pretrained(TINY)
        save_model(tmp_path / "own.safetensors", model)
        for name in (tmp_path / "own.safetensors", str(tmp_path / "own.safetensors")):
            twin = load_pretrained(name)
            assert twin.config == model.config
            assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_timm_model_made_by_hand():
    theirs = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=7)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(from_timm(theirs.eval())(images), theirs(images))


class TestAnotherPlan:
    def test_shared_tensors_load_and_the_rest_is_listed(self, tiny, caplog):
        depth = load_pretrained(TINY).config.depth
        plan = TokenPlan(depth, (Group("cls", 1, 2), Group("reg", 4, 1)))
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            model = load_pretrained(TINY, plan=plan)
        base = load_pretrained(TINY).state_dict()
        assert model.plan == plan
        assert model.loaded.initialised == ("tokens.reg",) and model.loaded.left == ()
        assert "initialised: tokens.reg" in caplog.text
        assert set(model.loaded.shared) == set(base)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in base.items())
        assert float(model.tokens["reg"].detach().std()) > 0.01

    def test_the_same_plan_is_the_same_model(self, tiny):
        base = load_pretrained(TINY)
        model = load_pretrained(TINY, plan=base.plan)
        assert model.loaded.initialised == () and model.config == base.config

    def test_without_a_class_token(self, tiny):
        depth = load_pretrained(TINY).config.depth
        loaded = load_pretrained(TINY, plan=TokenPlan.of(depth, cls_pos=None)).loaded
        assert loaded.initialised == ("classifiers.patches.bias", "classifiers.patches.weight")
        assert loaded.left == ("classifiers.cls.bias", "classifiers.cls.weight", "tokens.cls")

    def test_other_classes(self, tiny):
        model = load_pretrained(TINY, classes=7)
        heads = ("classifiers.cls.bias", "classifiers.cls.weight")
        assert model.loaded.initialised == model.loaded.left == heads
        assert model(torch.randn(1, 3, *model.config.image_size)).shape == (1, 7)
        assert load_pretrained(TINY, classes=1000).loaded.initialised == ()
        assert load_pretrained(TINY, classes=0).loaded.left == heads

    def test_fewer_blocks_are_said(self, tiny):
        depth = load_pretrained(TINY).config.depth
        left = load_pretrained(TINY, plan=TokenPlan.of(depth - 1)).loaded.left
        assert left and all(name.startswith(f"blocks.{depth - 1}.") for name in left)

    def test_trunk_blocks_do_not_become_class_attention(self, tiny):
        depth = load_pretrained(TINY).config.depth
        loaded = load_pretrained(TINY, plan=TokenPlan.of(depth - 1, cls_pos=depth - 1, class_blocks=1)).loaded
        last = {f"blocks.{depth - 1}.norm1.weight", f"blocks.{depth - 1}.mlp.expand.bias"}
        assert last <= set(loaded.initialised) and last <= set(loaded.left)

    def test_class_attention_finds_its_own_in_a_trunk_of_another_depth(self):
        def build(depth):
            plan = TokenPlan.of(depth, cls_pos=depth, class_blocks=1)
            return ViT(ViTConfig(16, 8, dim=8, depth=depth, heads=2, plan=plan, classes=3))

        deep, shallow = build(3), build(2)
        loaded = load_shared(shallow, deep.state_dict(), depth=3)
        torch.testing.assert_close(shallow.blocks[2].state_dict(), deep.blocks[3].state_dict())
        assert loaded.initialised == () and all(name.startswith("blocks.2.") for name in loaded.left)

    def test_another_shape_is_initialised_and_left(self, tiny):
        model = load_pretrained(TINY)
        weights = model.state_dict() | {"tokens.cls": torch.zeros(2, model.config.dim), "extra": torch.zeros(1)}
        before = model.tokens["cls"].clone()
        loaded = load_shared(model, weights, model.plan.depth)
        assert loaded.initialised == ("tokens.cls",) and loaded.left == ("extra", "tokens.cls")
        assert torch.equal(model.tokens["cls"], before)
        assert str(loaded) == f"{len(weights) - 2} tensors loaded; initialised: tokens.cls; left out: extra, tokens.cls"


class TestWhatIsMissingOrDamaged:
    def test_no_weights_and_no_network(self, folder, monkeypatch):
        asked = []  # the hub's client tries again for most of a minute
        make = timm.create_model
        monkeypatch.setattr(
            timm, "create_model", lambda *args, **how: asked.append(args) if how["pretrained"] else make(*args, **how)
        )
        with pytest.raises(
            ValueError, match=f"no weights for {TINY}: put them at .*weights/{TINY}.safetensors, or conn"
        ):
            load_pretrained(TINY)
        assert not asked

    def test_the_hubs_own_error_is_told(self, folder, monkeypatch):
        def create_model(name, pretrained):
            raise RuntimeError("gated\nrepository\n" + "x" * 1000)

        monkeypatch.setattr(pretrained, "_reach_hub", lambda: None)
        monkeypatch.setattr(timm, "create_model", create_model)
        with pytest.raises(ValueError, match=r"or connect to the hub \(gated repository\)$"):
            load_pretrained(TINY)

    def test_what_the_hubs_client_has_fetched_needs_no_network(self, tiny, folder, monkeypatch, tmp_path):
        elsewhere = tmp_path / "model.safetensors"
        (folder / f"{TINY}.safetensors").rename(elsewhere)
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: str(elsewhere))
        assert torch.equal(load_pretrained(TINY).norm.weight, tiny.norm.weight)

    @pytest.mark.parametrize("keep", [0, 5, 1000, -1])
    def test_a_file_cut_short(self, tiny, folder, keep):
        file = folder / f"{TINY}.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(
            ValueError, match=f"{TINY}.safetensors does not hold the weights of {TINY} .*: fetch it again"
        ):
            load_pretrained(TINY)

    def test_a_file_of_another_model(self, tiny, folder):
        file = folder / f"{TINY}.safetensors"
        save_file({"tokens": torch.zeros(3)}, file)
        with pytest.raises(ValueError, match="does not hold the weights of .*[Mm]issing key.*fetch it again"):
            load_pretrained(TINY)

    def test_a_pickle_is_not_run(self, tiny, folder):
        file, ran = folder / f"{TINY}.safetensors", folder / "ran"

        class Bomb:
            def __reduce__(self):
                return Path.touch, (ran,)

        torch.save({"bomb": Bomb()}, file)
        with pytest.raises(ValueError, match="does not hold the weights"):
            load_pretrained(TINY)
        assert not ran.exists()

    @pytest.mark.parametrize("name", ["vit_tinny", "model.pt", "", "resnet"])
    def test_names_that_are_none(self, folder, name):
        with pytest.raises(ValueError, match=f"'{name}' is no timm model, no zoo/… and no path to a .safetensors file"):
            load_pretrained(name)

    def test_a_tag_that_timm_has_not(self, folder):
        with pytest.raises(ValueError, match="timm has no weights 'test_vit.nonsense'; it has test_vit.r160_in1k"):
            load_pretrained("test_vit.nonsense")

    def test_a_path_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="none.safetensors does not exist"):
            load_pretrained(str(tmp_path / "none.safetensors"))

    def test_the_zoo(self, tmp_path, monkeypatch, tiny):
        from dtl_lib.checkpoint import save_model

        model = load_pretrained(TINY)
        monkeypatch.setattr("dtl_lib.zoo.FOLDER", tmp_path / "zoo")
        monkeypatch.setattr("dtl_lib.zoo.check", lambda card, name: None)  # test_zoo.py looks at cards
        with pytest.raises(ValueError, match="the zoo has no 'zoo/shapes'; it has nothing yet"):
            load_pretrained("zoo/shapes")
        save_model(tmp_path / "zoo" / "vit.reg4.safetensors", model)
        with pytest.raises(ValueError, match="the zoo has no 'zoo/shapes'; it has zoo/vit.reg4"):
            load_pretrained("zoo/shapes")
        assert load_pretrained("zoo/vit.reg4").config == model.config


class TestNamesAndFilesAsTheyAreFound:
    @pytest.mark.parametrize("name", [f"timm/{TINY}", f"hf_hub:timm/{TINY}", f"hf-hub:timm/{TINY}", f"hf_hub:{TINY}"])
    def test_names_as_the_hub_writes_them(self, tiny, name):
        assert torch.equal(load_pretrained(name).norm.weight, tiny.norm.weight)

    @pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "hf_hub:facebook/dinov2", "timm/", "timm/nothing"])
    def test_another_owner_s_are_none(self, folder, name):
        with pytest.raises(ValueError, match="is no timm model"):
            load_pretrained(name)

    @pytest.mark.parametrize(
        "name, said",
        [
            ("resnet18.a1_in1k", "not a ResNet"),
            ("timm/convit_tiny.fb_in1k", "not a ConVit"),
            ("beit_base_patch16_224.in22k_ft_in22k", "not a Beit"),
            ("vit_base_patch16_rpn_224.sw_in1k", "is made with ResPostBlock"),
        ],
    )
    def test_an_architecture_that_cannot_be_is_refused_before_the_download(self, folder, name, said, monkeypatch):
        monkeypatch.setattr(pretrained, "_reach_hub", lambda: pytest.fail("it was going to be fetched"))
        with pytest.raises(ValueError, match=said):
            load_pretrained(name)

    @staticmethod
    def store(folder, weights):
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / f"{TINY}.safetensors")

    @pytest.mark.parametrize("prefix", ["backbone.", "model.", "module.", "_orig_mod.", "student.backbone."])
    def test_a_prefix_is_left_out(self, tiny, folder, prefix, caplog):
        self.store(folder, {prefix + name: value for name, value in tiny.state_dict().items()})
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            model = load_pretrained(TINY)
        x = torch.randn(1, 3, *model.config.image_size)
        with torch.no_grad():
            torch.testing.assert_close(model(x), tiny(x))
        if prefix not in ("module.", "_orig_mod."):  # timm takes these off itself, without a word
            assert f"its names begin with '{prefix}', which is left out" in caplog.text

    def test_without_a_head_it_is_features(self, tiny, folder, caplog):
        self.store(folder, {name: value for name, value in tiny.state_dict().items() if not name.startswith("head.")})
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            model = load_pretrained(TINY)
        assert model.config.classes == 0 and "it has no head" in caplog.text
        assert torch.equal(model.norm.weight, tiny.norm.weight)

    @pytest.mark.parametrize("prefix", ["", "backbone."])
    def test_with_a_head_of_its_own(self, tiny, folder, caplog, prefix):
        own = {"head.weight": torch.randn(7, 64), "head.bias": torch.randn(7)}
        rest = {prefix + name: value for name, value in tiny.state_dict().items() if not name.startswith("head.")}
        self.store(folder, rest | own)
        with caplog.at_level(logging.WARNING, logger="dtl_lib"):
            model = load_pretrained(TINY)
        assert model.config.classes == 7 and "a head of its own, for 7 classes" in caplog.text
        assert torch.equal(model.classifiers["cls"].bias, own["head.bias"])

    @pytest.mark.parametrize("lost", ["blocks.1.norm1.bias", "cls_token"])
    def test_what_lacks_more_than_a_head_is_refused(self, tiny, folder, lost):
        weights = {f"model.{name}": value for name, value in tiny.state_dict().items() if name != lost}
        self.store(folder, weights)
        with pytest.raises(ValueError, match="does not hold the weights of"):
            load_pretrained(TINY)

    def test_what_has_more_than_a_head_is_refused(self, tiny, folder):
        self.store(folder, tiny.state_dict() | {"decoder.weight": torch.zeros(3)})
        with pytest.raises(ValueError, match="does not hold the weights of .*decoder"):
            load_pretrained(TINY)
