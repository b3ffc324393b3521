"""`dtl video`: every frame shows the tape's map of that frame, on one scale, and no half file is ever there."""

import itertools
import os
import signal
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import get_ident

import av
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dtl_lib import TokenPlan, data, load_pretrained, record
from dtl_lib.cli.main import main
from dtl_lib.config import ViTConfig
from dtl_lib.figures import FrameLayout
from dtl_lib.figures.overlay import OPACITY
from dtl_lib.outputs import attention_video
from dtl_lib.outputs import video as outputs_video
from dtl_lib.outputs.pages import scale_of
from tests.unit.asked import DATA, TINY, needs, saved
from tests.unit.clips import decoded, scenes, times_of, turn, write_clip, write_frames, write_sound

CONFIG = ViTConfig(32, 8, dim=16, depth=3, heads=2, classes=3, crop=0.9, plan=TokenPlan.of(3, 1, 0, 2))
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def model(tmp_path):
    """A model with every parameter moved, saved as model.safetensors: its maps differ from frame to frame."""
    return saved(tmp_path, CONFIG)[0]


def run(*arguments) -> int:
    return main(["video", *map(str, arguments), "--model-path", "model.safetensors", "--device", "cpu"])


def maps_of(model, frame, size, block, of="cls") -> np.ndarray:
    """(heads, rows, columns), from the whole frame, by other ways than the library's."""
    mean, std = (np.array(values) for values in (model.config.mean, model.config.std))
    small = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))
    x = torch.from_numpy(((small / 255 - mean) / std).astype(np.float32)).movedim(-1, 0)[None]
    with torch.inference_mode(), record(model) as tape:
        model(x)
    return tape.maps(block, of)[0].numpy()


def shown(frame, values, high) -> np.ndarray:
    up = torch.from_numpy(np.ascontiguousarray(values))[None, None]
    up = torch.nn.functional.interpolate(up, frame.shape[:2], mode="bilinear", align_corners=False)[0, 0]
    colours = matplotlib.colormaps["viridis"](np.clip(up.numpy() / high, 0, 1))[..., :3] * 255
    return OPACITY * colours + (1 - OPACITY) * (frame @ np.array([0.299, 0.587, 0.114]))[..., None]


def apart(one, two) -> float:
    return np.abs(one.astype(float) - two).mean()


@pytest.mark.parametrize(("of", "block"), [("cls", 1), ("reg:1", 2), ("patch:1,3", 0)])
def test_every_frame_shows_its_own_map_where_it_belongs(model, of, block):
    frames = scenes(6, (96, 144))
    write_frames(Path("frames"), frames)
    flags = ["--output", "out.mp4", "--layout", "overlay", "--query", of, "--layer-num", block, "--scale", 0.08]
    assert run("frames", *flags) == 0
    name, _, index = of.partition(":")
    token = (name, *map(int, index.split(","))) if index else name
    maps = [maps_of(model, frame, (32, 48), block, token).mean(axis=0) for frame in frames]
    assert maps[0].shape == (4, 6)
    for number, found in enumerate(decoded(Path("out.mp4"))):
        right = apart(found, shown(frames[number], maps[number], 0.08))
        assert right < 6
        for wrong in (maps[number - 1], maps[number][::-1], maps[number][:, ::-1], maps[number].T.reshape(4, 6)):
            assert apart(found, shown(frames[number], wrong, 0.08)) > right + 2


def test_heads_stand_in_a_grid_beside_the_frame(model):
    frames = scenes(2, (96, 144))
    write_frames(Path("frames"), frames)
    assert run("frames", "--output", "out.mp4", "--head", "all", "--layer-num", 1, "--scale", 0.1) == 0
    with av.open("out.mp4") as made:
        said = made.metadata["comment"]
    assert said.startswith("model.safetensors: attention of the class token, block 1: mean of heads, head 0, head 1;")
    heads = maps_of(model, frames[1], (32, 48), 1)
    found = decoded(Path("out.mp4"))[1]
    strip = next(row for row in range(found.shape[0]) if apart(found[row : row + 96, :144], frames[1]) < 6)
    assert strip > 8, "the title stands above the frame, not on it"
    panels = [(strip, 148), (96 + 2 * strip + 4, 0), (96 + 2 * strip + 4, 148)]
    for (top, left), values in zip(panels, (heads.mean(axis=0), *heads)):
        assert apart(found[top : top + 96, left : left + 144], shown(frames[1], values, 0.1)) < 6
    assert (
        run("frames", "--output", "one.mp4", "--head", 1, "--layer-num", 1, "--scale", 0.1, "--layout", "overlay") == 0
    )
    assert apart(decoded(Path("one.mp4"))[1], shown(frames[1], heads[1], 0.1)) < 6


@pytest.mark.parametrize(("size", "letters"), [((96, 144), 11), ((320, 480), 20), ((80, 144), 11)])
def test_names_stand_above_the_panels_and_the_scale_below_them(size, letters, monkeypatch):
    written, text = {}, ImageDraw.ImageDraw.text

    def writing(self, at, said, *how, **more):
        written[said] = at
        text(self, at, said, *how, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", writing)
    grey = np.full((*size, 3), 128, np.uint8)
    layout = FrameLayout(size, ["mean of heads", "head 0", "head 1"], 0.25, "of it", photo=True)
    frame = layout.draw(grey, [np.zeros((2, 3), np.float32)] * 3)
    legible = size[0] >= 96
    names = {"frame", "mean of heads", "head 0", "head 1"} if legible else set()
    assert written.keys() == names | {"0", "≥ 0.25", "of it"}
    strip = letters * 3 // 2 if legible else 0
    (rows, columns), (height, width) = frame.shape[:2], size
    assert (rows, columns) == (2 * (strip + height) + 4 + 2 * letters, 2 * width + 4)
    white = (frame > 200).all(axis=2)
    for top in (0, strip + height + 4):
        for left in (0, width + 4):
            assert white[top : top + strip, left : left + width].any() == legible
            panel = frame[top + strip : top + strip + height, left : left + width]
            assert (panel == grey).all() if top == left == 0 else (panel[..., 2] > panel[..., 1]).all()
    footer = frame[-2 * letters :]
    assert white[-2 * letters :, : columns // 2].any() and white[-2 * letters :, columns // 2 :].any()
    ends = matplotlib.colormaps["viridis"]([0, 255])[:, :3] * 255
    assert all((abs(footer - end).max(axis=2) < 2).any() for end in ends), "a scale from its first colour to its last"


@pytest.mark.parametrize(("count", "kept", "step"), [(1, None, 1), (3, None, 1), (33, None, 4), (99, 1, 7)])
def test_one_scale_is_taken_from_the_whole_clip(model, monkeypatch, count, kept, step):
    """The second half attends otherwise than the first; samples are not computed twice; of a long clip they are few."""
    monkeypatch.setattr(outputs_video, "KEPT", kept or outputs_video.KEPT)
    frames = [
        *scenes(count // 2, (32, 48)),
        *(np.full((32, 48, 3), 9 * n % 256, np.uint8) for n in range(-(-count // 2))),
    ]
    write_frames(Path("frames"), frames)
    calls = []
    model.patch_embed.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    written = attention_video(model, "frames", "out.mp4", block=1, layout="overlay", batch_size=4)
    assert sum(calls) == written.frames == count
    assert calls[0] <= 2 and calls[-1] <= 2 and (count < 99 or max(calls) == 4)
    maps = np.stack([maps_of(model, frame, (32, 48), 1).mean(axis=0) for frame in frames])
    assert written.high == pytest.approx(scale_of(maps[::step]), rel=1e-4)
    for found, frame, values in zip(decoded(Path("out.mp4")), frames, maps, strict=True):
        assert apart(found, shown(frame, values, written.high)) < 7


def test_times_shape_and_turn_of_a_video_are_kept(model):
    times = [0, 512, 3000, 3001, 12800]
    turn(write_clip(Path("clip.mp4"), scenes(5, (64, 112)), times))
    assert run("clip.mp4", "--output", "out.mp4", "--layout", "overlay") == 0
    assert decoded(Path("out.mp4"))[0].shape == (112, 64, 3)
    assert times_of(Path("out.mp4")) == [Fraction(each, 12800) for each in times]
    assert run("clip.mp4", "--output", "out.mp4", "--force", "--image-size", 32, 32) == 0


def test_a_folder_has_the_rate_that_is_asked_for(model):
    write_frames(Path("frames"), [frame[:33, :47] for frame in scenes(12)])
    assert run("frames", "--output", "out.mp4", "--layout", "overlay", "--fps", 10) == 0
    assert times_of(Path("out.mp4")) == [Fraction(number, 10) for number in range(12)]
    assert decoded(Path("out.mp4"))[0].shape == (34, 48, 3)


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((480, 854), None, (32, 56)),
        ((854, 480), None, (56, 32)),
        ((10, 10), 64, (64, 64)),
        ((480, 854), (40, 24), (40, 24)),
    ],
)
def test_a_frame_keeps_its_shape_as_nearly_as_patches_allow(size, image_size, expected):
    assert outputs_video.size_for(CONFIG, size, image_size) == expected


def test_what_could_be_read_is_written_and_said(model, capsys):
    folder = write_frames(Path("frames"), scenes(5))
    (folder / "frame3.png").write_bytes(b"no image")
    assert run(folder, "--output", "out.mp4") == 2
    out, error = capsys.readouterr()
    assert "out.mp4: 4 frames, 4×7 patches" in out and len(decoded(Path("out.mp4"))) == 4
    assert "frame3.png is not an image" in error and "out.mp4 holds what could be read" in error


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("clip.mp4", ["--output", "clip.mp4", "--force"], "clip.mp4 is the video that is read"),
        ("clip.mp4", ["--output", "same.mp4", "--force"], "same.mp4 is the video that is read"),
        ("clip.mp4", ["--output", "old.mp4"], "old.mp4 is there already: give --force"),
        ("clip.mp4", ["--output", "out.avi"], "does not end in .mp4"),
        ("clip.mp4", ["--output", "frames"], "does not end in .mp4"),
        ("clip.mp4", [], "say what to read and what to write"),
        ("clip.mp4", ["--output", "out.mp4", "--fps", 10], "fps is for a folder of frames"),
        ("clip.mp4", ["--output", "out.mp4", "--scale", 0], "scale is where the colours end, above 0"),
        ("clip.mp4", ["--output", "out.mp4", "--scale", "nan"], "scale is a number"),
        ("clip.mp4", ["--output", "out.mp4", "--head", 2], "there is no head 2"),
        ("clip.mp4", ["--output", "out.mp4", "--head", "-1"], "give mean, all or the number of a head"),
        ("clip.mp4", ["--output", "out.mp4", "--query", "reg"], "reg is 2 tokens, and a video shows one"),
        ("clip.mp4", ["--output", "out.mp4", "--query", "cls", "--layer-num", 0], "cls enters at block 1"),
        ("clip.mp4", ["--output", "out.mp4", "--query", "patch:4,0"], "there is no patch (4, 0)"),
        ("clip.mp4", ["--output", "out.mp4", "--query", "patch:4,0", "--scale", 1], "there is no patch (4, 0)"),
        ("clip.mp4", ["--output", "out.mp4", "--layer-num", 3], "there is no block 3"),
        ("clip.mp4", ["--output", "out.mp4", "--image-size", 33], "does not divide into patches of 8"),
        ("song.m4a", ["--output", "out.mp4"], "holds sound alone"),
        ("list.m3u8", ["--output", "out.mp4"], "no video that can be read"),
        ("http://127.0.0.1:9/a.mp4", ["--output", "out.mp4"], "is an address"),
        ("frames", ["--output", "out.mp4"], "frames holds no frames"),
        ("none.mp4", ["--output", "out.mp4"], "none.mp4 does not exist"),
        ("clip.mp4", ["--output", "old.mp4/out.mp4"], "the video cannot be written to old.mp4/out.mp4"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(model, capsys, source, flags, message):
    write_clip(Path("clip.mp4"), scenes(3, (64, 96)))
    os.link("clip.mp4", "same.mp4")
    write_sound(Path("song.m4a"))
    Path("old.mp4").write_text("mine")
    Path("list.m3u8").write_text("#EXTM3U\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n")
    Path("frames").mkdir()
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert run(source, *flags, "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


@pytest.fixture(params=[2, 4])
def cores(request, monkeypatch):
    """Few cores and more: one thread beside the model's, and two."""
    monkeypatch.setattr(outputs_video, "usable_cores", lambda: frozenset(range(request.param)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
def test_no_half_file_is_ever_under_the_final_name(model, cores, monkeypatch, error):
    """What was there stays until the new one is whole, and what was begun is removed."""
    write_frames(Path("frames"), scenes(30))
    Path("out.mp4").write_text("mine")
    seen, write = [], outputs_video.Writer.write

    def failing(writer, time, pixels):
        seen.append(Path("out.mp4").read_text())
        if time == 20:
            raise error
        write(writer, time, pixels)

    monkeypatch.setattr(outputs_video.Writer, "write", failing)
    raised = type(error) if isinstance(error, OSError) else error
    with pytest.raises(raised):
        attention_video(model, "frames", "out.mp4", force=True, batch_size=2)
    assert set(seen) == {"mine"} and Path("out.mp4").read_text() == "mine"
    assert {path.name for path in Path().iterdir()} == {"frames", "model.json", "model.safetensors", "out.mp4"}


def test_after_an_error_nothing_is_written_but_the_batch_in_hand(model, cores, monkeypatch):
    write_frames(Path("frames"), scenes(20))
    seen, after, write, find = [], [], outputs_video.Writer.write, outputs_video._Maps._of_batch

    def writing(*args):
        time.sleep(0.1)
        seen.append(args)
        write(*args)

    def failing(maps, x):
        if len(after) == 3:
            after[:] = [len(seen)]
            raise RuntimeError("three batches are enough")
        after.append(x)
        return find(maps, x)

    monkeypatch.setattr(outputs_video.Writer, "write", writing)
    monkeypatch.setattr(outputs_video._Maps, "_of_batch", failing)
    with pytest.raises(RuntimeError, match="enough"):
        attention_video(model, "frames", "out.mp4", batch_size=2, scale=0.1)
    assert len(seen) - after[0] <= 2 and not Path("out.mp4").exists()


def test_an_interrupted_file_is_closed_after_its_thread_has_ended(model, cores, monkeypatch):
    write_frames(Path("frames"), scenes(6))
    events, write, close = [], outputs_video.Writer.write, outputs_video.Writer.close

    def writing(writer, at, pixels):
        if at == 5:  # the last: nothing waits but the main thread
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.4)
        write(writer, at, pixels)
        events.append(at)

    monkeypatch.setattr(outputs_video.Writer, "write", writing)
    monkeypatch.setattr(outputs_video.Writer, "close", lambda writer: (events.append("closed"), close(writer)))
    with pytest.raises(KeyboardInterrupt):
        attention_video(model, "frames", "out.mp4", batch_size=2, scale=0.1)
    assert events == [*range(6), "closed"]


def test_few_frames_are_in_memory_at_a_time_however_long_the_clip(model, cores, monkeypatch):
    alive, most = set(), []

    class Long:
        size, rate, time_base, count, problems = (32, 48), Fraction(25), Fraction(1, 25), 100, {}

        def frames(self, every=1):
            for number in range(0, self.count, every):
                pixels = np.full((32, 48, 3), number % 251, np.uint8)
                alive.add(key := object())
                weakref.finalize(pixels, alive.discard, key)
                most.append(len(alive))
                yield number, pixels
                del pixels

    monkeypatch.setattr(outputs_video, "open_clip", lambda *_: Long())
    attention_video(model, "clip", "out.mp4", batch_size=2, layout="overlay")
    assert len(most) > 100 and max(most) <= 2 * (2 * outputs_video.AHEAD + 4)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [
        (40, 8, [2, 4, 8, 8, 8, 5, 2, 2, 2]),
        (7, 8, [2, 2, 2, 2]),
        (3, 1, [1, 1, 1, 1]),
        (None, 8, [2, 4, 8, 8, 8, 8]),
        (4, 8, [2, 2, 2, 2, 2]),  # more frames than the file says
    ],
)
def test_batches_are_small_where_the_model_or_the_writer_waits_for_one(count, most, sizes):
    assert list(itertools.islice(outputs_video.batch_sizes(count, most), len(sizes))) == sizes


def test_what_is_made_ahead_comes_in_order_with_its_error_and_no_further_than_asked():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            if number == 7:
                raise ValueError("seven")
            yield number

    with ThreadPoolExecutor(1) as pool:
        stream = outputs_video.ahead(items(), pool, 2)
        assert list(itertools.islice(stream, 3)) == [0, 1, 2]
        stream.close()
        assert made[-1] <= 5
        with pytest.raises(ValueError, match="seven"):
            list(outputs_video.ahead(items(), pool, 2))


def test_on_two_cores_one_thread_reads_and_writes_what_two_do_on_more(model, monkeypatch):
    write_frames(Path("frames"), scenes(30))
    threads, prepared, write = {}, outputs_video.prepare, outputs_video.Writer.write

    def preparing(*args, **options):
        threads[cores].add(get_ident())
        return prepared(*args, **options)

    def writing(*args):
        threads[cores].add(get_ident())
        write(*args)

    monkeypatch.setattr(outputs_video, "prepare", preparing)
    monkeypatch.setattr(outputs_video.Writer, "write", writing)
    for cores in (1, 2, 3):
        threads[cores] = set()
        monkeypatch.setattr(outputs_video, "usable_cores", lambda cores=cores: frozenset(range(cores)))
        attention_video(model, "frames", f"{cores}.mp4", batch_size=2)
    assert [len(threads[cores] - {get_ident()}) for cores in threads] == [1, 1, 2]
    assert all(get_ident() not in used for used in threads.values())
    assert Path("1.mp4").read_bytes() == Path("2.mp4").read_bytes() == Path("3.mp4").read_bytes()


@needs(f"weights/{TINY}.safetensors", "davis/JPEGImages/dog")
def test_real_frames_and_real_weights_show_the_tapes_maps():
    source = sorted((DATA / "davis" / "JPEGImages" / "dog").iterdir())[:9]
    Path("frames").mkdir()
    for file in source:
        (Path("frames") / file.name).symlink_to(file)
    model = load_pretrained(TINY)
    written = attention_video(model, "frames", "out.mp4", block=9, layout="overlay")
    assert written.frames == 9 and written.grid == (14, 25)
    frames = [data.open_image(file) for file in source]
    for number in (0, 4, 8):
        found = decoded(Path("out.mp4"))[number]
        assert found.shape == (480, 854, 3)
        values = maps_of(model, frames[number], (224, 400), 9).mean(axis=0)
        right = apart(found, shown(frames[number], values, written.high))
        assert right < 4
        for wrong in (values[::-1], values[:, ::-1]):
            assert apart(found, shown(frames[number], wrong, written.high)) > right + 2
