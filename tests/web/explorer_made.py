"""Small models of several plans, pictures for them, and what a test reads off the explorer's page."""

import re

import numpy as np
import torch

from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import Group, TokenPlan

PLANS = {
    "late, with registers": TokenPlan(3, (Group("cls", 1, 1), Group("reg", 3, 0), Group("mid", 1, 1, 2))),
    "class attention": TokenPlan(2, (Group("cls", 1, 2), Group("dist", 1, 2), Group("reg", 2, 1)), class_blocks=1),
    "no class token": TokenPlan.of(2, None),
}


def model_of(kind):
    torch.manual_seed(1)
    plan = PLANS[kind]
    pool = "cls" if plan.group("cls") else "patches"
    model = ViT(
        ViTConfig((16, 24), 8, dim=12, depth=plan.depth, heads=3, plan=plan, classes=6, pool=pool, crop=1.0)
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_((value + 0.4 * torch.randn_like(value)).half().float())
    return model


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def words(text):
    return re.sub(r"[\d.]+(e-\d+)?", "#", text)


def load(tab):
    tab.click(".dtl-load")
    tab.wait_for_selector(".dtl-load", state="hidden")


def own_picture(tab, folder):
    tab.set_input_files(".dtl-file", folder / "own.png")
    tab.wait_for_selector("[data-part=pictures] [data-value=own]")
    tab.wait_for_selector(".dtl-load", state="hidden")


def says(tab):
    return tab.inner_text(".dtl-says")


def answers(tab):
    rows = tab.locator(".dtl-answers li").all_inner_texts()
    return [(text.split("\n")[0], text.split("\n")[1]) for text in rows]
