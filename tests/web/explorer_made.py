"""Small models of several plans, pictures for them, and what a test reads off the explorer's page."""

import itertools
import re

import numpy as np
import torch

from dtl_lib.explore import SHOWS, State
from dtl_lib.models import ViT, ViTConfig
from dtl_lib.tokens import Group, TokenPlan

PLANS = {
    "late, with registers": TokenPlan(3, (Group("cls", 1, 1), Group("reg", 3, 0), Group("mid", 1, 1, 2))),
    "class attention": TokenPlan(2, (Group("cls", 1, 2), Group("dist", 1, 2), Group("reg", 2, 1)), class_blocks=1),
    "no class token": TokenPlan.of(2, None),
}

CAMERA = """() => { navigator.mediaDevices.getUserMedia = async () => {
    const canvas = document.createElement('canvas'); [canvas.width, canvas.height] = [64, 64];
    const context = canvas.getContext('2d'); context.fillStyle = 'rgb(200, 40, 90)'; context.fillRect(0, 0, 64, 64);
    window.shooting = setInterval(() => context.fillRect(0, 0, 64, 64), 50);
    return window.stream = canvas.captureStream(); } }"""


def model_of(kind):
    torch.manual_seed(1)
    plan = PLANS[kind]
    pool = "cls" if plan.group("cls") else "patches"
    heads, patch = (3, 8) if pool == "cls" else (2, 4)  # the last has other heads and patches than the rest
    shape = {"image_size": (16, 24), "patch_size": patch, "dim": 12, "depth": plan.depth, "heads": heads}
    model = ViT(ViTConfig(**shape, plan=plan, classes=6, pool=pool, crop=1.0)).eval()
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


def says(tab, side=0):
    return tab.locator(".dtl-says span").nth(side).inner_text()


def answers(tab, side=0):
    rows = tab.locator(".dtl-answers").nth(side).locator("li").all_inner_texts()
    return [(text.split("\n")[0], text.split("\n")[1]) for text in rows]


def states_of(model):
    """Every state but the colours' strength, as Python's and as the page's."""
    rows, columns = model.config.grid
    groups = [(group.name, at) for group in model.plan.groups for at in range(group.tokens)]
    groups += [("patches", 0), *(("patch", list(at)) for at in itertools.product(range(rows), range(columns)))]
    for show, block in itertools.product(SHOWS, range(model.plan.blocks)):
        for head in (None, 0, model.config.heads - 1) if show == "attention" else (None,):
            for (group, at), scale in itertools.product(groups, ("shared", "own")):
                name = group if group in ("cls", "dist", "patches") else f"{group}:{at}"
                name = f"patch:{at[0]},{at[1]}" if group == "patch" else name
                state = {"block": block, "head": head, "show": show, "scale": scale}
                yield State(query=name, **state), {"group": group, "at": at, **state}
