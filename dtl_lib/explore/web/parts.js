// What the explorer's page is made of: elements, colours, own pictures.
"use strict";

const dtlViridis = [[68, 1, 84], [72, 26, 108], [71, 47, 125], [65, 68, 135], [57, 86, 140], [49, 104, 142],
  [42, 120, 142], [35, 136, 142], [31, 152, 139], [34, 168, 132], [53, 183, 121], [84, 197, 104], [122, 209, 81],
  [165, 219, 54], [210, 226, 27], [253, 231, 37]];
const dtlRamp = `linear-gradient(to right, ${dtlViridis.map((stop) => `rgb(${stop})`).join(", ")})`;
const DTL_LARGEST = 40e6;  // bytes of a picture's file
const DTL_PIXELS = 1e8, DTL_RESIZED = 1.6e7;  // at most; of larger ones a smaller copy is resized

function dtlColour(value) {
  const at = Math.min(1, Math.max(0, value)) * (dtlViridis.length - 1), low = Math.min(Math.floor(at), dtlViridis.length - 2);
  return dtlViridis[low].map((channel, i) => Math.round(channel + (dtlViridis[low + 1][i] - channel) * (at - low)));
}

function dtlMake(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "textContent" || key === "className" || key === "disabled") element[key] = value;
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// One of several: buttons of which one is pressed. Left and right arrows go from one to the next.
function dtlChoice(label, entries, chosen, choose) {
  const buttons = entries.map(({ value, name, title, disabled, image }) => dtlMake("button", {
    type: "button", "aria-pressed": String(value === chosen), disabled: Boolean(disabled), title, "data-value": String(value),
    onclick: () => choose(value),
    onfocus: ({ currentTarget: button }) => { if (button.matches(":focus-visible")) dtlReveal(button); },  // a pointer stays
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const ready = [...event.currentTarget.parentElement.querySelectorAll("button:not(:disabled)")];
      ready[(ready.indexOf(event.currentTarget) + step + ready.length) % ready.length].focus();
    },
  }, ...(image ? [dtlMake("img", { src: image, alt: name, width: 40, height: 40 })] : []),
  dtlMake("span", { textContent: name, "aria-hidden": image ? "true" : null })));
  return dtlMake("div", { className: "dtl-choice", role: "group", "aria-label": label },
    dtlMake("span", { className: "dtl-label", textContent: label, "aria-hidden": "true" }),
    dtlMake("div", { className: "dtl-options" }, ...buttons));
}

// A button in a row that scrolls, whole: the row begins at `left`, or as near to that as this allows.
function dtlReveal(button, left = button.parentElement.scrollLeft) {
  const row = button.parentElement, { paddingLeft, paddingRight } = getComputedStyle(row);
  const [outer, inner] = [row, button].map((each) => each.getBoundingClientRect());
  const first = row.scrollLeft + inner.left - outer.left - parseFloat(paddingLeft);
  const last = row.scrollLeft + inner.right - outer.right + parseFloat(paddingRight);
  row.scrollLeft = Math.min(first, Math.max(last, left));
}

// The picture in grey under the colours of its patches, each drawn as a square.
function dtlPaint(canvas, photo, values, [rows, columns], high, opacity) {
  canvas.width = photo.width;
  canvas.height = photo.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(photo, 0, 0);
  if (!values) return;
  const image = context.getImageData(0, 0, canvas.width, canvas.height), { data } = image;
  for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
    const patch = Math.floor(y * rows / canvas.height) * columns + Math.floor(x * columns / canvas.width);
    const at = 4 * (y * canvas.width + x), colour = dtlColour(values[patch] / high);
    const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    for (let i = 0; i < 3; i++) data[at + i] = opacity * colour[i] + (1 - opacity) * grey;
  }
  context.putImageData(image, 0, 0);
}

// ---- pictures

function dtlImage(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("this picture cannot be shown"));
    image.src = address;
  });
}

// A file or a video's frame as the model sees it, as `dtl_lib.data.prepare` has it: upright, on white, its shorter side
// resized, its middle cut out.
async function dtlPrepare(source, { size: [height, width], crop }) {
  if (source instanceof Blob) {
    if (source.size > DTL_LARGEST) throw new Error(`the file has ${Math.round(source.size / 1e6)} MB; 40 is the most`);
    if (source.type && !source.type.startsWith("image/")) throw new Error(`this is ${source.type}, and no picture`);
  }
  const bitmap = await createImageBitmap(source).catch(() => { throw new Error("this is no picture that the browser can open"); });
  if (bitmap.width * bitmap.height > DTL_PIXELS) throw new Error("the picture has more than 100 million pixels");
  const shrink = Math.min(1, Math.sqrt(DTL_RESIZED / (bitmap.width * bitmap.height)));  // what a phone can hold twice
  const whole = dtlDrawn(bitmap, [0, 0, bitmap.width, bitmap.height], shrink * bitmap.width, shrink * bitmap.height);
  const scale = Math.max(Math.floor(height / crop) / whole.height, Math.floor(width / crop) / whole.width);
  const [wide, tall] = [whole.width, whole.height].map((length) => Math.floor(scale * length + 1e-9));
  const { data } = whole.getContext("2d").getImageData(0, 0, whole.width, whole.height);
  const across = dtlResized(data, whole.width, whole.height, wide);
  const pixels = dtlTurned(dtlResized(dtlTurned(across, wide, whole.height), whole.height, wide, tall), tall, wide);
  const half = (more) => (more % 4 === 1 ? (more - 1) / 2 : Math.round(more / 2));  // a half goes to the even number
  const canvas = dtlMake("canvas", { width, height });
  canvas.getContext("2d", { willReadFrequently: true })
    .putImageData(new ImageData(pixels, wide, tall), -half(wide - width), -half(tall - height));
  return canvas;
}

// Each row of pixels (four bytes each) in another width: bicubic, antialiased, rounded, as Pillow resizes what models
// are trained on. What the browser's own smoothing gives instead can change an answer.
function dtlResized(data, from, rows, to) {
  const scale = from / to, wide = Math.max(1, scale), result = new Uint8ClampedArray(4 * rows * to);
  const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  for (let at = 0; at < to; at++) {
    const middle = (at + 0.5) * scale, first = Math.max(0, Math.floor(middle - 2 * wide + 0.5));
    const last = Math.min(from, Math.floor(middle + 2 * wide + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => cubic(Math.abs((first + i - middle + 0.5) / wide)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let row = 0; row < rows; row++) for (let channel = 0; channel < 4; channel++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * data[4 * (row * from + first + i) + channel];
      result[4 * (row * to + at) + channel] = Math.floor(sum / total + 0.5);
    }
  }
  return result;
}

// Rows become columns.
function dtlTurned(data, width, rows) {
  const before = new Uint32Array(data.buffer), after = new Uint32Array(before.length);
  for (let row = 0; row < rows; row++) for (let at = 0; at < width; at++) after[at * rows + row] = before[row * width + at];
  return new Uint8ClampedArray(after.buffer);
}

function dtlDrawn(source, from, width, height) {
  const canvas = dtlMake("canvas", { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)) });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, ...from, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Pixels → the model's input: (channels, height, width), mean and standard deviation taken out.
function dtlInput(photo, { size: [height, width], channels, mean, std }) {
  const { data } = dtlDrawn(photo, [0, 0, width, height], width, height).getContext("2d").getImageData(0, 0, width, height);
  const input = new Float32Array(channels * height * width), grey = [0.299, 0.587, 0.114];
  for (let at = 0; at < height * width; at++) for (let channel = 0; channel < channels; channel++) {
    const value = channels === 3 ? data[4 * at + channel]
      : Math.round(grey.reduce((sum, share, i) => sum + share * data[4 * at + i], 0));
    input[channel * height * width + at] = (value / 255 - mean[channel]) / std[channel];
  }
  return input;
}

// One picture from the camera: `show` puts its video on the page, and gives a promise of the moment to take it.
async function dtlCamera(show) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: true });
  try {
    const video = dtlMake("video", { autoplay: "", playsinline: "", muted: "", "aria-label": "your camera" });
    video.srcObject = stream;
    await video.play();
    await show(video);
    return await createImageBitmap(video);
  } finally {
    stream.getTracks().forEach((track) => track.stop());
  }
}
