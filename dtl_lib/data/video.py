"""Video in and out, by PyAV: a file, or a folder of frames, as upright RGB arrays; arrays as an MP4.

FFmpeg never gets a path or an address. The file is opened here, it may be of a format that holds its pictures itself
(no playlist, no `concat`), and whatever it names beside itself cannot be opened.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from os import PathLike
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Colorspace
from PIL import Image

from ..checks import first_line
from ..host import usable_cores
from ..paths import kind, user_path
from .decoding import decode, endings
from .images import CorruptImage
from .sources.folder import ignored

# FFmpeg's names of formats that hold their own pictures
FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,ivf,mxf,h264,hevc"
ALONE = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
KEYFRAMES = 32  # frames apart: of samples that far apart, only frames that need no other are decoded
LARGEST = 2**26  # pixels of a frame, 8192 × 8192
FAST = {"crf": "18", "preset": "superfast", "tune": "fastdecode"}  # a fifth less time than without the last
ENCODERS = {"libx264": FAST, "libopenh264": {"b": "8000000"}, "mpeg4": {"qscale": "3"}}
BT601 = 6  # FFmpeg's number for how colours become brightness and two differences; of others its number and PyAV's name
WIDE = "BT2020" if hasattr(Colorspace, "BT2020") else "ITU709"  # the nearest that an older PyAV knows
SPACES = {1: "ITU709", 7: "SMPTE240M", 9: WIDE, 10: WIDE}
LOST = 1, 0.1  # seconds, and a share, of a video: the smaller may be missing before it is said; a last frame may stand


class Clip:
    """Frames in order, read anew each time; made by `open_clip`.

    Attributes:
        path: the file or folder.
        size: height and width of every frame, in pixels.
        rate: frames a second, on average.
        time_base: the unit of a frame's time, in seconds.
        count: about how many frames there are; None where nobody knows before the end.
        problems: what could not be read, each once.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    count: int | None
    problems: dict[str, str]

    def __init__(self, path: Path):
        self.path, self.problems = path, {}

    def frames(self, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """The time of each frame, in `time_base`, rising, and its pixels, uint8 (height, width, 3).

        Args:
            every: more than 1 takes a sample, about that many frames apart.
        """
        raise NotImplementedError


class Frames(Clip):
    """The images of one folder in the natural order of their names: `frame2.jpg` before `frame10.jpg`.

    One that is damaged, or of another size than the first, is left out and noted; its time stays.
    """

    def __init__(self, path: Path, fps: float):
        super().__init__(path)
        files = [file for file in path.iterdir() if file.suffix.lower() in endings() and not ignored(file.name)]
        self.files = sorted(files, key=lambda file: natural(file.name))
        self.rate = Fraction(fps).limit_denominator(1001)
        self.time_base, self.count = 1 / self.rate, len(self.files)
        self.size = (0, 0)
        first = next(self.frames(), None)
        if first is None:
            bad = next(iter(self.problems.values()), "there is no image in it")
            raise ValueError(f"{path} holds no frames ({bad}): give a video, or a folder of images")

    def frames(self, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        for number, file in list(enumerate(self.files))[::every]:
            try:
                pixels = np.asarray(decode(file, file, upright=True))
            except CorruptImage as error:
                self.problems[file.name] = str(error)
                continue
            if self.size == (0, 0):
                self.size = pixels.shape[:2]
            if pixels.shape[:2] != self.size:
                found, expected = (f"{height}×{width}" for height, width in (pixels.shape[:2], self.size))
                self.problems[file.name] = f"{file} is {found} pixels, and the first frame {expected} (height × width)"
                continue
            yield number, pixels


class Video(Clip):
    """The first video stream of a file, turned upright, its pixels square; sound is left out."""

    def __init__(self, path: Path):
        super().__init__(path)
        with _opened(path) as (container, stream):
            self.rate = Fraction(stream.average_rate or stream.base_rate or 25)
            self.time_base = Fraction(stream.time_base or 1 / self.rate)
            self._seconds, self._stated = _seconds(container, stream), stream.frames
            self.count = self._stated or round(self._seconds * self.rate) or None
            shape = Fraction(stream.sample_aspect_ratio or 1)
            self._stretch = shape if Fraction(1, 8) < shape < 8 else Fraction(1)
        self._step = max(1, round(1 / (self.rate * self.time_base)))
        self.size = (0, 0)
        if next(self.frames(), None) is None:
            raise ValueError(f"{path} holds no frames that can be decoded: give a video that plays")
        self.count = self.count or self._packets()[0]

    def frames(self, every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        read, last, due, first, stands = 0, None, None, None, self._step
        packets, keys = self._packets() if every > KEYFRAMES else (0, 0)
        keyframes = packets < keys * every  # otherwise they are further apart than the sample
        for frame in self._decoded(keyframes):
            read, time = read + 1, frame.pts or 0
            if last is not None and time <= last:
                time = last + self._step
            last, first, stands = time, time if first is None else first, frame.duration or self._step
            if every == 1 or due is None or time >= due:
                due = time + every * self._step
                yield time, self._upright(frame)
        if last is not None and not keyframes:
            self._check_end(read, float((last + stands - first) * self.time_base))

    def _decoded(self, keyframes: bool) -> Iterator[av.VideoFrame]:
        read = 0
        with _opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = _beside_a_model()
            if keyframes:
                stream.codec_context.skip_frame = "NONKEY"
            packets = container.demux(stream)
            while True:
                try:
                    frames = next(packets).decode()
                except StopIteration:
                    break
                except FFmpegError as error:
                    reason = error.strerror or first_line(error)
                    self.problems["damage"] = f"{self.path} is damaged near frame {read} ({reason})"
                    if not isinstance(error, av.error.InvalidDataError):
                        break
                    continue
                for frame in frames:
                    read += 1
                    yield frame

    def _check_end(self, read: int, seconds: float) -> None:
        """Note where less could be read than the file says that there is; what an edit list hides does not count."""
        short, two = self._seconds - seconds, float(2 * self._step * self.time_base)
        if self._stated:
            early, found = read < self._stated - 2 and short > two, f"{read:,} of its {self._stated:,} frames"
        else:
            most = min(LOST[0], LOST[1] * self._seconds)
            early, found = short > max(most, two), f"{seconds:.1f} of its {self._seconds:.1f} seconds"
        if early:
            self.problems["end"] = f"{self.path} ends early: {found} can be read"

    def _packets(self) -> tuple[int, int]:
        """How many packets there are, about one a frame, and how many of them need no other; nothing is decoded."""
        found = []
        with _opened(self.path) as (container, stream), suppress(FFmpegError):
            found += (packet.is_keyframe for packet in container.demux(stream) if packet.size)
        return len(found), sum(found)

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        if frame.width * frame.height > LARGEST:
            raise ValueError(f"{self.path} has frames of {frame.height}×{frame.width} pixels: make them smaller")
        said = SPACES.get(int(frame.colorspace), "ITU601")  # PyAV's versions guess differently
        pixels = frame.reformat(format="rgb24", src_colorspace=said, dst_colorspace="ITU601", threads=1).to_ndarray()
        if self._stretch != 1:
            pixels = resized(pixels, (frame.height, max(1, round(frame.width * self._stretch))))
        if matrix := frame.side_data.get("DISPLAYMATRIX"):
            a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
            if a * d - b * c < 0:  # mirrored
                pixels, a, b = pixels[:, ::-1], -a, -b
            pixels = np.rot90(pixels, -round(math.atan2(b, a) / (math.pi / 2)))
        if self.size == (0, 0):
            self.size = pixels.shape[:2]
        return resized(np.ascontiguousarray(pixels), self.size)


def open_clip(path: str | PathLike, fps: float | None = None) -> Clip:
    """A video, or a folder of frames.

    Args:
        path: a file of this machine, or a folder of images.
        fps: frames a second of a folder; 24 where None.

    Raises:
        ValueError: where there is no such thing, or it holds no frames, or is of a format that names other files, such
            as a playlist; or for a rate of a video, which has its own.
    """
    path = user_path(path)
    found = kind(path)
    if found == "a folder":
        if not 0.01 <= (fps := 24 if fps is None else fps) <= 1000:
            raise ValueError(f"fps is frames a second, from 0.01 to 1,000, not {fps}")
        return Frames(path, fps)
    if found != "a file":
        what = "does not exist" if found is None else f"is {found}"
        raise ValueError(f"{path} {what}: give a video, or a folder of frames")
    if fps is not None:
        raise ValueError(f"fps is for a folder of frames, and {path} has its own: leave it out")
    return Video(path)


class Writer:
    """Writes frames into an MP4, H.264 where there is an encoder of it; close it at the end.

    Args:
        file: a binary file, open for writing.
        rate: frames a second, for players that want to know.
        time_base: the unit of a frame's time, in seconds.
        comment: what the file says about itself.
    """

    def __init__(self, file, rate: Fraction, time_base: Fraction, comment: str = ""):
        self._container = av.open(file, "w", format="mp4")
        self._container.metadata["comment"] = comment
        self._rate, self._time_base, self._stream = rate, time_base, None

    def write(self, time: int, pixels: np.ndarray) -> None:
        """Add a frame, uint8 (height, width, 3), at its time; an odd side gets one more row or column like its last."""
        odd = [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)]
        pixels = np.pad(pixels, odd, mode="edge") if any(map(sum, odd)) else np.ascontiguousarray(pixels)
        if self._stream is None:
            self._stream = self._started(*pixels.shape[:2])
        frame = av.VideoFrame.from_numpy_buffer(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", threads=1)  # of many, one is the model's
        frame.pts, frame.time_base = time, self._time_base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _started(self, height: int, width: int):
        name = next(name for name in ENCODERS if name in av.codecs_available)
        stream = self._container.add_stream(name, rate=self._rate, options=ENCODERS[name])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = _beside_a_model()
        stream.codec_context.time_base = self._time_base
        stream.codec_context.colorspace = BT601  # players take large pictures for BT.709 where nothing is said
        return stream


def natural(name: str) -> tuple:
    """What names are sorted by so that numbers in them count as numbers."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if number % 2 else part.casefold() for number, part in enumerate(parts)], name


def resized(pixels: np.ndarray, size: tuple[int, int], filter: Image.Resampling = Image.Resampling.BICUBIC):
    """uint8 (height, width, 3) in another size; itself where it has that size."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], filter))


@contextmanager
def _opened(path: Path):
    """The container in a file, and its first video stream that is no cover picture."""
    with open(path, "rb") as file:
        try:
            container = av.open(file, "r", options=ALONE, buffer_size=2**20)
        except (FFmpegError, OSError, UnicodeDecodeError):
            names = "MP4, MOV, MKV, WebM, AVI or another format that holds its own pictures"
            raise ValueError(f"{path} is no video that can be read, or is cut short: give one in {names}") from None
        with container:
            streams = [stream for stream in container.streams.video if not _is_cover(stream)]
            if not streams:
                holds = "sound alone" if container.streams.audio else "no video"
                raise ValueError(f"{path} holds {holds}: give a video, or a folder of frames")
            yield container, streams[0]


def _seconds(container, stream) -> float:
    """How long the pictures go on, as the file says; 0 where it does not, or speaks of its sound as well."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if found := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        return sum(float(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1)))
    return (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0.0


def _is_cover(stream) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _beside_a_model() -> int:
    """Threads of a decoder or an encoder: one core is the model's, and more than 16 FFmpeg advises against."""
    return min(16, max(1, len(usable_cores()) - 1))
