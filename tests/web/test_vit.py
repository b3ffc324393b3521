"""The ViT in the browser computes what PyTorch's does, for any plan, from weights as they are stored."""

import base64
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from dtl_lib.explore import browser as packing
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tape import record
from dtl_lib.tokens import Group, TokenPlan
from tests.web.pages import PATIENCE

SCRIPT = packing.WEB / "vit.js"
RUN = """([spec, data, pixels, plan]) => {
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
    const vit = dtlVit(), model = { config: spec.config, weights: vit.unpack(spec.tensors, bytes(data)) };
    const { logits, blocks } = vit.forward(model, new Float32Array(bytes(pixels)), plan ?? spec.plan);
    const { dim, heads } = spec.config;
    const maps = blocks.map((block) => [...Array(heads).keys()].map((head) =>
        [...Array(block.q.length / dim).keys()].map((token) =>
            [...vit.attentionRow(block, heads, head, token, dim)])));
    const [xs, layouts] = [blocks.map(({ x }) => [...x]), blocks.map(({ layout }) => layout)];
    return { logits: logits && [...logits], maps, x: xs, layouts };
}"""
PLANS = {
    "class token": (TokenPlan.of(3), {}),
    "late, with registers": (TokenPlan.of(3, cls_pos=2, reg_pos=1, num_reg=3), {"layer_scale": 0.5}),
    "registers that leave": (
        TokenPlan(3, (Group("late", 2, 1, 2), Group("dist", 1, 1), Group("reg", 2, 0), Group("cls", 1, 1))),
        {"qkv_bias": False, "norm_eps": 1e-3},
    ),
    "mean of the patches": (TokenPlan.of(2, None, 0, 2), {"pool": "patches", "norm_after_pool": True}),
    "mean of normed patches": (TokenPlan.of(2, None), {"pool": "patches", "positions": "sincos"}),
    "class attention": (
        TokenPlan(2, (Group("cls", 1, 2), Group("reg", 2, 1)), class_blocks=2),
        {"positions": "none", "layer_scale": 0.1},
    ),
}


@pytest.fixture(scope="module")
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_script_tag(content=SCRIPT.read_text("utf8"))
    yield page
    context.close()


def model_of(plan, **options):
    """A small ViT whose every parameter matters."""
    torch.manual_seed(0)
    model = ViT(ViTConfig((16, 24), 8, dim=24, depth=plan.depth, heads=3, mlp_ratio=3, plan=plan, classes=5, **options))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return model.eval()


def in_browser(page, packed, image, plan=None):
    def text(data):
        return base64.b64encode(data).decode()

    pixels = text(image.numpy().astype("<f4").tobytes())
    plan = json.loads(json.dumps(asdict(plan))) if plan else None
    return page.evaluate(RUN, [packed.spec, text(packed.data), pixels, plan])


def in_torch(model, image):
    with torch.inference_mode(), record(model) as tape:
        logits = model(image)
    return logits[0], tape


def agree(got, model, image):
    logits, tape = in_torch(model, image)
    np.testing.assert_allclose(got["logits"], logits, rtol=1e-5, atol=1e-5 * logits.abs().max())
    for block in range(model.plan.blocks):
        maps = tape.attention(block)[0]
        np.testing.assert_allclose(got["maps"][block], maps, rtol=1e-5, atol=1e-5 * maps.max())
        tokens = tape.tokens(block)[0].flatten()
        np.testing.assert_allclose(got["x"][block], tokens, rtol=1e-5, atol=1e-5 * tokens.abs().max())
        layout = {name: where.start for name, where in model.plan.layout(block).items()}
        assert {group["name"]: group["start"] for group in got["layouts"][block]} == layout


@pytest.mark.parametrize("storage", packing.STORAGES)
@pytest.mark.parametrize("kind", PLANS)
def test_the_browser_computes_what_pytorch_does(page, kind, storage):
    plan, options = PLANS[kind]
    model, image = model_of(plan, **options), torch.randn(1, 3, 16, 24)
    packed = packing.pack(model, storage)
    agree(in_browser(page, packed, image), packed.model, image)
    change = packing.error(packed, model, image)["logit"]
    assert (change == 0) == (storage == "float32") and change < 0.2


def test_one_set_of_weights_takes_another_plan(page):
    plan = TokenPlan.of(3, cls_pos=0, reg_pos=0, num_reg=3)
    model, image = model_of(plan), torch.randn(1, 3, 16, 24)
    packed, other = packing.pack(model, "float32"), TokenPlan.of(3, cls_pos=2, reg_pos=1, num_reg=3)
    moved = ViT(replace(model.config, plan=other)).eval()
    moved.load_state_dict(model.state_dict())
    got = in_browser(page, packed, image, other)
    agree(got, moved, image)
    assert np.abs(np.subtract(got["logits"], in_browser(page, packed, image)["logits"])).max() > 0.01


def test_positions_are_interpolated_before(page):
    model, image = model_of(TokenPlan.of(2)), torch.randn(1, 3, 24, 40)
    packed = packing.pack(model, "float32", image_size=(24, 40))
    agree(in_browser(page, packed, image), model, image)


def test_without_classes_there_are_maps(page):
    plan = TokenPlan.of(2)
    model = ViT(ViTConfig(16, 8, dim=16, depth=2, heads=2, plan=plan, classes=0)).eval()
    image = torch.randn(1, 3, 16, 16)
    got = in_browser(page, packing.pack(model), image)
    assert got["logits"] is None and len(got["maps"]) == 2


def test_cut_weights_are_an_error(page):
    packed = packing.pack(model_of(TokenPlan.of(2)))
    for data in (packed.data[:-2], packed.data + b"\0\0"):
        with pytest.raises(Exception, match="complete|bounds|length"):
            in_browser(page, replace(packed, data=data), torch.randn(1, 3, 16, 24))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"talking_heads": True}, "talking_heads=True"),
        ({"mlp": "swiglu"}, "mlp='swiglu'"),
        ({"rotary": "axial", "qk_norm": True}, "qk_norm=True, rotary='axial'"),
    ],
)
def test_what_it_lacks_is_refused_by_name(changes, named):
    config = ViTConfig(16, 8, dim=16, depth=2, heads=2, classes=4, **changes)
    with pytest.raises(ValueError, match=named):
        packing.pack(ViT(config))


def test_files_hold_the_weights():
    packed = packing.pack(model_of(TokenPlan.of(2)))
    data = b""
    for number, (name, text) in enumerate(packed.files("a")):
        called, at, part = json.loads(f"[{text[len('dtlWeights(') : -3]}]")
        assert (name, called, at) == (f"a_{number}.js", "a", number)
        data += base64.b64decode(part)
    assert data == packed.data
