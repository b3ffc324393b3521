"""Videos are read as they are shown, and only they; what is written is what was given."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from dtl_lib.data import video
from tests.unit.clips import copied, decoded, scenes, times_of, turn, write_clip, write_frames, write_sound

CLOSE = 12  # levels; what compression and colours of half the resolution leave on average


def close(one, two) -> bool:
    return one.shape == two.shape and np.abs(one.astype(int) - two).mean() < CLOSE


def read(path, **options) -> list[np.ndarray]:
    return [pixels for _, pixels in video.open_clip(path, **options).frames()]


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("ts", "libx264"), ("mov", "mpeg4")]
)
def test_frames_come_in_order_at_their_times(tmp_path, ending, codec):
    frames = scenes(7)
    path = write_clip(tmp_path / f"clip.{ending}", frames, rate=10, codec=codec, time_base=Fraction(1, 10))
    clip = video.open_clip(path)
    found = list(clip.frames())
    assert clip.size == (48, 80) and clip.rate == 10 and clip.count == 7 and not clip.problems
    assert all(close(pixels, frame) for (_, pixels), frame in zip(found, frames, strict=True))
    assert not close(found[0][1], frames[1]) and not close(found[0][1], frames[0][::-1])
    start = found[0][0]
    assert [float((time - start) * clip.time_base) for time, _ in found] == pytest.approx([n / 10 for n in range(7)])


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    times = [0, 512, 2048, 2049, 9000, 12800]
    clip = video.open_clip(write_clip(tmp_path / "clip.mp4", scenes(6), times))
    assert [time * clip.time_base for time, _ in clip.frames()] == [Fraction(time, 12800) for time in times]


def test_a_telephones_video_is_turned_upright(tmp_path):
    frames = scenes(3)
    upright = [np.rot90(frame, -1) for frame in frames]
    mirrored = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    path = turn(write_clip(tmp_path / "clip.mp4", frames))
    assert video.open_clip(path).size == (80, 48)
    assert all(map(close, read(path), upright))
    assert all(map(close, read(turn(path, mirrored)), [frame[:, ::-1] for frame in frames]))
    assert not any(map(close, read(path), frames))


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", scenes(2), shape=Fraction(2))
    assert video.open_clip(path).size == (48, 160)


def test_a_sample_is_of_the_whole_clip(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", scenes(40), rate=10)
    clip = video.open_clip(path)
    assert [float(time * clip.time_base) for time, _ in clip.frames(10)] == [0, 1, 2, 3]
    times = [time for time, _ in clip.frames(video.KEYFRAMES + 1)]
    assert times[0] == 0 and len(times) < 4
    folder = write_frames(tmp_path / "frames", scenes(40))
    assert [time for time, _ in video.open_clip(folder).frames(10)] == [0, 10, 20, 30]


def test_frames_of_a_folder_are_in_natural_order(tmp_path):
    frames = scenes(12)
    folder = write_frames(tmp_path / "frames", frames)
    (folder / "notes.txt").write_text("no frame")
    (folder / ".frame3.png").write_bytes(b"hidden")
    clip = video.open_clip(folder, fps=12.5)
    assert clip.rate == Fraction(25, 2) and clip.count == 12
    assert all(np.array_equal(*pair) for pair in zip(read(folder), frames, strict=True))
    assert sorted(["frame10", "frame9", "Frame2", "frame"], key=video.natural) == [
        "frame", "Frame2", "frame9", "frame10",
    ]  # fmt: skip


def test_a_frame_that_cannot_be_read_leaves_a_gap(tmp_path):
    frames = scenes(6)
    folder = write_frames(tmp_path / "frames", frames)
    (folder / "frame2.png").write_bytes(b"no image")
    Image.fromarray(frames[0][:16]).save(folder / "frame4.png")
    clip = video.open_clip(folder)
    assert [time for time, _ in clip.frames()] == [0, 1, 3, 5]
    assert "frame2.png is not an image" in clip.problems["frame2.png"]
    assert "16×80 pixels, and the first frame 48×80 (height × width)" in clip.problems["frame4.png"]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_what_comes_before_the_end_of_a_cut_file_is_read(tmp_path, share):
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
    whole = write_clip(tmp_path / "clip.mp4", frames)
    path = copied(whole, tmp_path / "cut.mp4", options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    clip = video.open_clip(path)
    found = len(list(clip.frames()))
    assert 40 * share - 6 < found <= 40 * share
    assert clip.problems["end"].endswith(f"ends early: {found} of its 40 frames can be read")


HOSTILE = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
    "far.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "concat.txt": "ffconcat version 1.0\nfile secret.mp4\n",
    "clip.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_list_of_other_files_is_refused(tmp_path, name):
    secret = write_clip(tmp_path / "secret.mp4", scenes(3))
    path = tmp_path / name
    path.write_text(HOSTILE[name].format(secret=secret))
    opened = []
    if name in ("list.m3u8", "concat.txt", "clip.mp4"):  # without our options FFmpeg shows the other file
        with av.open(str(path), options={"safe": "0"}) as container:
            opened = list(container.decode(video=0))
        assert len(opened) == 3
    with pytest.raises(ValueError, match="is no video that can be read"):
        video.open_clip(path)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.mp4", "file:///etc/passwd", "rtsp://x/y", "pipe:0"])
def test_an_address_is_no_path(address):
    with pytest.raises(ValueError, match="is an address"):
        video.open_clip(address)


def test_a_name_means_a_file_alone(tmp_path, monkeypatch):
    """What FFmpeg would take for a protocol, a pattern of numbers or an option."""
    monkeypatch.chdir(tmp_path)
    made = write_clip(tmp_path / "a.mp4", scenes(2)).read_bytes()
    for name in ("concat:a.mp4|a.mp4", "file:a.mp4", "data:,x", "frame%03d.mp4", "-", "猫 \n.mp4"):
        with pytest.raises(ValueError, match="does not exist"):
            video.open_clip(name)
        (tmp_path / name).write_bytes(made)
        assert len(read(name)) == 2


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "junk.mp4").write_bytes(bytes(range(256)) * 20)
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    (tmp_path / "folder").mkdir()
    cases = {
        "empty.mp4": "no video that can be read",
        "junk.mp4": "no video that can be read",
        "cat.png": "no video that can be read",
        "none.mp4": "does not exist",
        "folder": "holds no frames",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            video.open_clip(tmp_path / name)
    with pytest.raises(ValueError, match="holds sound alone"):
        video.open_clip(write_sound(tmp_path / "song.m4a"))
    with pytest.raises(ValueError, match="fps is for a folder"):
        video.open_clip(write_clip(tmp_path / "a.mp4", scenes(2)), fps=10)
    with pytest.raises(ValueError, match="from 0.01 to 1,000, not 0"):
        video.open_clip(write_frames(tmp_path / "frames", scenes(1)), fps=0)


@pytest.mark.parametrize("size", [(48, 80), (47, 81), (1, 1), (480, 640), (1080, 1920)])
def test_what_is_written_is_what_was_given(tmp_path, size):
    """Strong colours, odd sides, uneven times; players take HD for another table of colours, unless it says."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (253, 231, 37), (68, 1, 84), (128, 128, 128)]
    times = [0, 3, 4, 20, 21, 30]
    path = tmp_path / "out.mp4"
    with open(path, "wb") as file:
        writer = video.Writer(file, Fraction(30), Fraction(1, 30), "said")
        for time, colour in zip(times, colours):
            writer.write(time, np.full((*size, 3), colour, np.uint8))
        writer.close()
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == "said"
        assert next(container.decode(video=0)).colorspace == video.BT601
    frames = decoded(path)
    assert frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert times_of(path) == [Fraction(time, 30) for time in times]
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 6


@pytest.mark.parametrize(
    "order", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, 1::2]], ids=["flipped", "mirrored", "thinned"]
)
def test_a_view_of_a_frame_is_written_as_it_looks(tmp_path, order):
    (frame,) = scenes(1)
    with open(tmp_path / "out.mp4", "wb") as file:
        writer = video.Writer(file, Fraction(30), Fraction(1, 30))
        writer.write(0, frame[order])
        writer.close()
    (found,) = decoded(tmp_path / "out.mp4")
    assert close(found, frame[order]) and not close(found, frame[: len(found), : found.shape[1]])


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 7), (64, 16)])
def test_a_core_is_left_to_the_model(tmp_path, monkeypatch, cores, threads):
    monkeypatch.setattr(video, "usable_cores", lambda: frozenset(range(cores)))
    with open(tmp_path / "out.mp4", "wb") as file:
        writer = video.Writer(file, Fraction(30), Fraction(1, 30))
        writer.write(0, np.zeros((16, 16, 3), np.uint8))
        assert writer._stream.codec_context.thread_count == threads
        writer.close()


SPACES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("number", SPACES)
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_read_as_the_file_says_that_they_are_meant(tmp_path, number, full):
    """Of HD, and of a telephone's HDR video; the same numbers mean other colours in each."""
    if number == 9 and not hasattr(video.Colorspace, "BT2020"):
        pytest.skip("this PyAV does not know BT.2020")
    colour, (red, blue) = np.array([0.8, 0.1, 0.15]), SPACES[number]
    y = colour @ [red, 1 - red - blue, blue]
    differences = (colour[2] - y) / (1 - blue) / 2, (colour[0] - y) / (1 - red) / 2
    luma, chroma, black = (255, 255, 0) if full else (219, 224, 16)
    values = [black + luma * y, *(128 + chroma * part for part in differences)]
    planes = np.repeat(np.rint(values).astype(np.uint8), [128, 32, 32])[:, None].repeat(128, axis=1)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = number, 2 if full else 1
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.colorspace, frame.color_range = number, 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (pixels,) = read(tmp_path / "clip.mp4")
    assert np.abs(pixels - 255 * colour).max() <= 3


def test_a_video_that_was_cut_by_its_owner_is_whole(tmp_path):
    """A telephone hides frames and keeps them in the file, which still says how many there are."""
    frames = scenes(30)
    whole = write_clip(tmp_path / "clip.mp4", frames)
    clip = video.open_clip(copied(whole, tmp_path / "trimmed.mp4", hidden=12))
    found = [pixels for _, pixels in clip.frames()]
    assert all(map(close, found, frames[12:])) and len(found) == 18 and not clip.problems


@pytest.mark.parametrize("seconds", [6, 1.5])
@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "libx264"), ("clip.webm", "libvpx")])
def test_a_cut_file_that_counts_no_frames_is_known_by_its_seconds(tmp_path, name, codec, seconds):
    path = write_clip(tmp_path / name, scenes(60), rate=round(60 / seconds), codec=codec)
    clip = video.open_clip(path)
    assert len(list(clip.frames())) == 60 and not clip.problems
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = video.open_clip(path)
    assert 0 < len(list(clip.frames())) < 50
    assert clip.problems["end"].endswith(f"of its {seconds:.1f} seconds can be read")


def test_a_last_frame_that_stands_long_is_no_early_end(tmp_path):
    clip = video.open_clip(write_clip(tmp_path / "clip.mkv", scenes(4), [0, 512, 1024, 1536], stands=9000))
    with av.open(str(clip.path)) as container:
        assert container.duration / av.time_base > 0.8, "the file says how long it stands"
    assert len(list(clip.frames())) == 4 and not clip.problems


def test_pictures_that_end_before_the_sound_are_no_damage(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", scenes(5), sound=3)
    clip = video.open_clip(path)
    assert len(list(clip.frames())) == clip.count == 5 and not clip.problems


def test_a_sample_is_of_the_whole_clip_where_the_file_says_little(tmp_path):
    """A browser's recording says no length, and its only frame that needs no other is the first."""
    options = {"live": "1"}
    path = write_clip(tmp_path / "clip.webm", scenes(100), rate=10, codec="libvpx", options=options)
    clip = video.open_clip(path)
    assert clip.count == 100
    apart = video.KEYFRAMES + 1
    assert [float(time * clip.time_base) for time, _ in clip.frames(apart)] == [0, 3.3, 6.6, 9.9]
