"""The model on the explorer's page: it sees what PyTorch sees, its tokens move, and if it fails the rest stays."""

import base64
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dtl_lib.data.photos import centre
from dtl_lib.explore import State, explore
from dtl_lib.models import ViT
from dtl_lib.tokens import Group, TokenPlan
from tests.web.explorer_made import CAMERA, PLANS, answers, load, own_picture, pixels, says, states_of

DROPPED = """async ([address, how]) => {
    const blob = await new Promise((done) => { const image = new Image(); image.onload = () => {
        const canvas = document.createElement('canvas'); [canvas.width, canvas.height] = [image.width, image.height];
        canvas.getContext('2d').drawImage(image, 0, 0); canvas.toBlob(done); }; image.src = address; });
    const data = new DataTransfer(); data.items.add(new File([blob], 'own.png', { type: 'image/png' }));
    const kind = how === 'drop' ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
    document.querySelector('.dtl-picture').dispatchEvent(kind);
}"""


@pytest.mark.parametrize("script", [None, "window.Worker = undefined"], ids=["worker", "no worker"])
def test_an_own_picture_is_seen_as_pytorch_sees_it(open_explorer, explorer_folder, small_models, script):
    tab, model = open_explorer(script=script), small_models["late, with registers"]
    assert not [url for url in tab.asked if "weights" in url]  # nothing is loaded that was not asked for
    own_picture(tab, explorer_folder)
    for show, block, query in (
        ("attention", 1, "cls:0"), ("attention", 2, "reg:1"), ("attention", 0, "cls:0"), ("attention", 1, "mid:0"),
        ("rollout", 2, "reg:0"), ("norms", 0, "cls:0"), ("lens", 2, "cls:0"), ("attention", 2, "patches:0"),
    ):  # fmt: skip
        tab.click(f"[data-part=show] [data-value={show}]")
        tab.fill(".dtl-block input", str(block))
        tab.click(f"[data-part=tokens] [data-value='{query}']")
        name = query.removesuffix(":0") if query.startswith(("cls", "patches")) else query
        view = explore(model, pixels(7), State(block=block, query=name, show=show))
        assert says(tab) == view.sentence
        assert answers(tab) == [(name, f"{value:.1%}") for name, value in view.answers]
    tab.click("[data-part=show] [data-value=relevance]")
    assert "stored for the pictures of this page alone" in says(tab)


LIVE = """async ([number, photo, states]) => {
    const model = dtlExplorer.models[number], { config } = model.runs;
    const run = await dtlLoad(`m${number}`, model, '', () => {});
    const tier = await run(dtlInput(await dtlImage(photo), config), model.plan);
    const about = { ...model, titles: dtlExplorer.titles, answers: tier.answers };
    return states.map((state) => { const [view] = dtlExplore([tier], [about], state);
        return [view.sentence, view.says ? null : [...view.values], view.high]; });
}"""


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_every_state_of_the_model_is_what_explore_shows(open_explorer, explorer_folder, small_models, number):
    tab, model = open_explorer(), list(small_models.values())[number]
    states = [pair for pair in states_of(model) if pair[0].show != "relevance"]
    got = tab.evaluate(LIVE, [number, data_uri(explorer_folder / "own.png"), [mine for _, mine in states]])
    for (state, _), (sentence, values, high) in zip(states, got):
        view = explore(model, pixels(7), state)
        assert sentence == view.sentence, state
        if view.map is None:
            assert values is None
            continue
        wanted = [*view.others.values(), *view.map.flatten()]
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5 * max(wanted))
        assert high == pytest.approx(view.range[1], rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "size", "crop"), [((70, 90), (32, 32), 1.0), ((300, 211), (24, 24), 0.9), ((20, 9), (32, 32), 0.875)]
)
def test_an_own_picture_is_resized_as_for_training(open_explorer, tmp_path, shape, size, crop):
    noise = np.random.default_rng(5).normal(128, 60, (*shape, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    got = open_explorer().evaluate(
        """async ([address, config]) => { const blob = await (await fetch(address)).blob();
        const canvas = await dtlPrepare(blob, config); const { width, height } = canvas;
        return [...canvas.getContext('2d').getImageData(0, 0, width, height).data]; }""",
        [data_uri(tmp_path / "noise.png"), {"size": size, "crop": crop}],
    )
    wanted = centre(noise, size, crop, "bicubic").permute(1, 2, 0).numpy().astype(int)
    difference = np.abs(np.reshape(got, (*size, 4))[..., :3] - wanted)
    assert difference.max() <= 2 and difference.mean() < 0.05


def test_tokens_are_moved_with_one_set_of_weights(open_explorer, small_models):
    tab, model = open_explorer(), small_models["late, with registers"]
    assert tab.locator("[data-value=enter-cls]").is_disabled()
    load(tab)
    usual = answers(tab)
    slider = tab.locator("[data-value=enter-cls]")
    slider.focus()
    for key in ("ArrowRight", "ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowRight"):  # faster than the model runs
        tab.keyboard.press(key)
    tab.wait_for_selector(".dtl-disturbed:not(:empty)")
    tab.wait_for_function("document.querySelector('.dtl-says').textContent.includes('enters at block 2')")
    plan = TokenPlan(3, (Group("cls", 1, 2), *PLANS["late, with registers"].groups[1:]))
    moved = ViT(replace(model.config, plan=plan)).eval()
    moved.load_state_dict(model.state_dict())
    view = explore(moved, pixels(0), State(block=1))
    assert says(tab) == view.sentence and "Cls enters at block 2" in view.sentence
    tab.fill(".dtl-block input", "2")
    view = explore(moved, pixels(0), State(block=2))
    assert says(tab) == view.sentence and answers(tab) == [(name, f"{value:.1%}") for name, value in view.answers]
    text = tab.inner_text(".dtl-disturbed")
    assert "trained with the class token from block 1" in text and f"now “{view.answers[0][0]}”" in text
    assert f"Under its own plan it says “{usual[0][0]}” ({usual[0][1]})" in text
    tab.click(".dtl-reset")
    tab.wait_for_selector(".dtl-disturbed", state="hidden")
    assert answers(tab) == usual


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_dropped_and_pasted(open_explorer, explorer_folder, small_models, how):
    tab = open_explorer()
    tab.evaluate(DROPPED, [data_uri(explorer_folder / "own.png"), how])
    tab.wait_for_selector("[data-part=pictures] [data-value=own]")
    tab.wait_for_selector(".dtl-load", state="hidden")
    assert says(tab) == explore(small_models["late, with registers"], pixels(7), State(block=1)).sentence


def data_uri(file):
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_camera(open_explorer):
    tab = open_explorer(script=f"({CAMERA})()")
    tab.click(".dtl-shoot")
    tab.click("text=take the picture")
    tab.wait_for_selector("[data-part=pictures] [data-value=own]")
    assert tab.locator("video").count() == 0
    assert tab.evaluate("stream.getTracks().every((track) => track.readyState === 'ended')")
    tab.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error('none here') } }")
    tab.click(".dtl-shoot")
    tab.wait_for_function("document.querySelector('.dtl-status').textContent.includes('none here')")


def test_what_is_no_picture_is_said(open_explorer, explorer_folder, tmp_path):
    tab = open_explorer()
    before = says(tab)
    for name, content, said in (("a.png", b"none", "no picture that the browser"), ("a.txt", b"text", "text/plain")):
        (tmp_path / name).write_bytes(content)
        tab.set_input_files(".dtl-file", tmp_path / name)
        tab.wait_for_function("(said) => document.querySelector('.dtl-status').textContent.includes(said)", arg=said)
        assert says(tab) == before and tab.locator("[data-value=own]").count() == 1  # of the colours


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_when_the_model_fails_what_is_stored_stays(open_explorer, explorer_folder, tmp_path, fault):
    broken = tmp_path / "page"
    shutil.copytree(explorer_folder, broken)
    file = broken / "weights_m0_0.js"
    text = file.read_text()
    file.unlink() if fault == "missing" else file.write_text(text.replace(text[-20:-4], ""))
    tab = open_explorer(where=broken)
    before = says(tab)
    tab.click(".dtl-load")
    tab.wait_for_function("document.querySelector('.dtl-status').textContent.includes('What is stored stays')")
    assert says(tab) == before
    tab.click("[data-part=tokens] [data-value='reg:1']")
    assert says(tab).startswith("Reg 1, block 1")


def test_a_picture_unlike_the_training_is_said_to_be(open_explorer, explorer_folder):
    tab = open_explorer()
    assert tab.inner_text("[data-part=says]") == "Trained: late, with registers."
    tab.click("[data-part=pictures] [data-value='1']")
    tab.wait_for_selector("[data-part=models] [data-value='1'][aria-pressed=true]")  # the one that knows such pictures
    tab.click("[data-part=models] [data-value='2']")
    tab.wait_for_function("document.querySelector('[data-part=says]').textContent.includes('not one of these')")
    own_picture(tab, explorer_folder)
    assert "Your picture is not one of these" in tab.inner_text("[data-part=says]")
