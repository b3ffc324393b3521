"""The signal by block: against a loop of one's own, and what it leaves alone."""

import pytest
import torch
import torch.nn.functional as F

from dtl_lib import probes
from dtl_lib.config import ViTConfig
from dtl_lib.models import ViT, enter_and_leave
from dtl_lib.tokens import TokenPlan

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 0, 4])
PLAN = TokenPlan.of(3, cls_pos=1, reg_pos=2, num_reg=2)


def made(**changes) -> ViT:
    torch.manual_seed(1)
    model = ViT(ViTConfig(16, 4, dim=12, depth=3, heads=3, classes=5, **changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "model",
    [made(), made(layer_scale=0.1), made(plan=PLAN), made(pool="patches")],
    ids=["plain", "LayerScale", "late tokens", "no class token"],
)
def test_as_by_hand(model):
    images, learned = IMAGES.double(), model.learned()
    x, _ = model.embed(images)
    stream, attention, mlp = [], [], []
    for block, change in zip(model.blocks, model.changes):
        if change:
            x = enter_and_leave(x, *change, learned)
        x.retain_grad()
        stream.append(x)
        a = block.scale1(block.attention(block.norm1(x)))
        attention.append((a.norm(dim=-1) / x.norm(dim=-1)).mean())
        x = x + a
        b = block.scale2(block.mlp(block.norm2(x)))
        mlp.append((b.norm(dim=-1) / x.norm(dim=-1)).mean())
        x = x + b
    x.retain_grad()
    stream.append(x)
    logits = model.classify(model.head_names[0], model.norm(x)[:, 0]) if model.head_tokens else None
    logits = model.classify("patches", model.pool_patches(x)) if logits is None else logits
    F.cross_entropy(logits, LABELS, reduction="sum").backward()
    found = probes.signal(model, images, LABELS)
    want = {
        "stream": [part.norm(dim=-1).mean() for part in stream],
        "gradient": [part.grad.flatten(1).norm(dim=1).mean() for part in stream],
        "attention": attention,
        "mlp": mlp,
    }
    for name, values in want.items():
        torch.testing.assert_close(getattr(found, name), torch.stack(values).detach().float(), rtol=1e-5, atol=1e-7)
        assert found.to_dict()[name] == getattr(found, name).tolist()


def test_class_attention_counts_the_tokens_it_updates():
    model = made(plan=TokenPlan.of(3, cls_pos=3, class_blocks=2), layer_scale=0.5, talking_heads=True)
    found = probes.signal(model, IMAGES.double(), LABELS)
    assert len(found.stream) == 6 and len(found.mlp) == 5
    kept = {}
    model.blocks[3].register_forward_hook(lambda block, args, output: kept.update(before=args[0], after=output))
    model(IMAGES.double())
    block, x = model.blocks[3], kept["before"]
    added = block.scale1(block.attention(block.norm1(x), block.queries))
    want = (added.norm(dim=-1) / x[:, :1].norm(dim=-1)).mean()
    assert found.attention[3].item() == pytest.approx(want.item(), rel=1e-5)


def test_a_block_that_is_scaled_alone_changes_its_own_ratio():
    model = made(layer_scale=0.1)
    before = probes.signal(model, IMAGES.double(), LABELS)
    with torch.no_grad():
        model.blocks[2].scale2.factor.mul_(3)
    after = probes.signal(model, IMAGES.double(), LABELS)
    torch.testing.assert_close(after.mlp / before.mlp, torch.tensor([1.0, 1.0, 3.0]))
    assert torch.equal(after.attention, before.attention)


def test_the_model_stays_as_it_is():
    model = made().train().requires_grad_(False)
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    with torch.no_grad():
        found = probes.signal(model, IMAGES.double(), LABELS)
    assert found.gradient.all() and not model.all_queries and model.training
    assert hooks == [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    assert all(part.grad is None for part in model.parameters())


def test_hooks_are_gone_after_an_error():
    model = made()
    with pytest.raises(ValueError, match="nearest that does"):
        probes.signal(model, IMAGES.double()[..., :10], LABELS)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()) and not model.all_queries


def test_branches_are_taken_before_stochastic_depth():
    model = made(drop_path=0.9, drop_path_schedule="uniform").train()
    torch.manual_seed(0)
    found = probes.signal(model, IMAGES.double(), LABELS)
    assert found.attention[0] > 0 and found.mlp[0] > 0
