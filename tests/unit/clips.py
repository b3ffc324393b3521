"""Small videos and folders of frames, made for a test."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

QUARTER_TURN = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # a telephone held upright: to be turned clockwise


def scenes(count: int, size=(48, 80), seed: int = 0) -> list[np.ndarray]:
    """Frames of large squares of random colours, which survive compression; no two frames are alike."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
    return [frame.repeat(16, axis=0).repeat(16, axis=1) for frame in small]


def write_clip(
    path: Path,
    frames,
    times=None,
    rate=25,
    codec="libx264",
    time_base=Fraction(1, 12800),
    shape=None,
    options=None,
    sound=0,
    stands=None,
):
    """A video of the frames, at times in units of `time_base`; `shape` is that of a pixel, `options` the file's,
    `sound` seconds; `stands` is how long the last frame is there."""
    times = times or [round(number / (rate * time_base)) for number in range(len(frames))]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "10"} if codec == "libx264" else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        mute = container.add_stream("aac", rate=44100) if sound else None
        if shape is not None:
            stream.codec_context.sample_aspect_ratio = shape
        for time, pixels in zip(times, frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        for packet in stream.encode():
            if stands and packet.pts == times[-1]:
                packet.duration = stands
            container.mux(packet)
        if mute is not None:
            _mute(container, mute, round(sound * 44100 / 1024))
    return path


def copied(source: Path, target: Path, hidden: int = 0, options=None) -> Path:
    """The same frames, not encoded again; the first ones hidden, as a telephone does that cuts a video."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options or {}) as out:
        stream = given.streams.video[0]
        add = getattr(out, "add_stream_from_template", None) or (lambda template: out.add_stream(template=template))
        copy = add(stream)
        shift = round(hidden / (stream.average_rate * stream.time_base))
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    return target


def turn(path: Path, matrix=QUARTER_TURN) -> Path:
    """Have the file say that its frames are to be turned before they are shown."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 20 + 16  # version; times, number, length; reserved, layer, volume
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


def write_sound(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        _mute(container, container.add_stream("aac", rate=44100), 10)
    return path


def _mute(container, stream, count: int) -> None:
    for number in range(count):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 44100, number * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_frames(folder: Path, frames, name="frame{}.png") -> Path:
    """The frames as images, with their numbers in their names."""
    folder.mkdir(parents=True)
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / name.format(number))
    return folder


def decoded(path: Path) -> list[np.ndarray]:
    """The frames of a file, read without the library."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times_of(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]
