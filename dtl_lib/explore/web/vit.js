// A Vision Transformer in plain JavaScript: the forward pass of a plain ViT whose class token and registers enter and
// leave where its plan says. Weights come from `dtl_lib.explore.browser.pack`. Tokens are rows of a Float32Array.
// One function, so that its source can be the script of a worker, also in a page that is opened from disk.
"use strict";

function dtlVit() {
  const READ_BY_HEAD = ["cls", "dist"];

  // ---- weights: float32, float16, or int8 with a float32 factor for each output channel, one after the other

  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  function unpack(tensors, buffer) {
    const weights = {}, view = new DataView(buffer);
    let at = 0;
    for (const [name, shape, kind] of tensors) {
      const size = shape.reduce((product, length) => product * length, 1), values = new Float32Array(size);
      if (kind === "int8") {
        const rows = shape[0], width = size / rows, codes = new Int8Array(buffer, at + 4 * rows, size);
        for (let row = 0; row < rows; row++) {
          const factor = view.getFloat32(at + 4 * row, true);
          for (let i = row * width; i < (row + 1) * width; i++) values[i] = factor * codes[i];
        }
        at += 4 * rows + size;
      } else {
        const bytes = kind === "float16" ? 2 : 4;
        for (let i = 0; i < size; i++, at += bytes) {
          values[i] = bytes === 2 ? half(view.getUint16(at, true)) : view.getFloat32(at, true);
        }
      }
      weights[name] = values;
    }
    if (at !== buffer.byteLength) throw new Error("the weights are not complete");
    return weights;
  }

  // ---- layers

  // x (tokens, width) · weightᵀ (outputs, width) + bias: four tokens at a time share the row of weights that is read.
  function linear(x, weight, bias, width, first = 0, outputs = weight.length / width) {
    const tokens = x.length / width, result = new Float32Array(tokens * outputs);
    for (let output = 0; output < outputs; output++) {
      const row = (first + output) * width, start = bias ? bias[first + output] : 0;
      let token = 0;
      for (; token + 3 < tokens; token += 4) {
        const a = token * width, b = a + width, c = b + width, d = c + width;
        let sumA = start, sumB = start, sumC = start, sumD = start;
        for (let i = 0; i < width; i++) {
          const w = weight[row + i];
          sumA += x[a + i] * w;
          sumB += x[b + i] * w;
          sumC += x[c + i] * w;
          sumD += x[d + i] * w;
        }
        result[token * outputs + output] = sumA;
        result[(token + 1) * outputs + output] = sumB;
        result[(token + 2) * outputs + output] = sumC;
        result[(token + 3) * outputs + output] = sumD;
      }
      for (; token < tokens; token++) {
        let sum = start;
        for (let i = 0; i < width; i++) sum += x[token * width + i] * weight[row + i];
        result[token * outputs + output] = sum;
      }
    }
    return result;
  }

  function layerNorm(x, weight, bias, eps) {
    const width = weight.length, result = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += width) {
      let mean = 0, variance = 0;
      for (let i = 0; i < width; i++) mean += x[at + i] / width;
      for (let i = 0; i < width; i++) variance += (x[at + i] - mean) ** 2 / width;
      const factor = 1 / Math.sqrt(variance + eps);
      for (let i = 0; i < width; i++) result[at + i] = (x[at + i] - mean) * factor * weight[i] + bias[i];
    }
    return result;
  }

  // The error function: its series near 0, its continued fraction further out; both to about 1e-12.
  function erf(x) {
    const size = Math.abs(x);
    if (size > 6) return Math.sign(x);
    if (size < 2.5) {
      let term = x, sum = x;
      for (let n = 1; Math.abs(term) > 1e-13 * Math.abs(sum); n++) {
        term *= -x * x / n;
        sum += term / (2 * n + 1);
      }
      return sum * 2 / Math.sqrt(Math.PI);
    }
    let fraction = size;
    for (let n = 40; n > 0; n--) fraction = size + n / 2 / fraction;
    return Math.sign(x) * (1 - Math.exp(-size * size) / (fraction * Math.sqrt(Math.PI)));
  }

  function gelu(x) {
    for (let i = 0; i < x.length; i++) x[i] = x[i] / 2 * (1 + erf(x[i] * Math.SQRT1_2));
    return x;
  }

  // What a token attends to: softmax(q kᵀ / √width of a head), one row, over all tokens.
  function attentionRow({ q, k }, heads, head, token, dim) {
    const width = dim / heads, tokens = k.length / dim, row = new Float32Array(tokens);
    const ask = token * dim + head * width;
    let most = -Infinity, total = 0;
    for (let key = 0; key < tokens; key++) {
      let score = 0;
      for (let i = 0; i < width; i++) score += q[ask + i] * k[key * dim + head * width + i];
      row[key] = score / Math.sqrt(width);
      most = Math.max(most, row[key]);
    }
    for (let key = 0; key < tokens; key++) total += row[key] = Math.exp(row[key] - most);
    for (let key = 0; key < tokens; key++) row[key] /= total;
    return row;
  }

  // ---- the sequence

  const present = (group, block) => group.enter <= block && (group.leave === null || block < group.leave);

  // Who is in the sequence of a block, in order: [{name, start, tokens}]. The class token stands first, patches last.
  function layoutOf(plan, block, patches) {
    const rank = ({ name }) => (READ_BY_HEAD.includes(name) ? READ_BY_HEAD.indexOf(name) : 2);
    const groups = plan.groups.filter((group) => present(group, block)).sort((a, b) => rank(a) - rank(b));
    let start = 0;
    return [...groups, { name: "patches", tokens: patches }].map(({ name, tokens }) => {
      start += tokens;
      return { name, start: start - tokens, tokens };
    });
  }

  // The rows of `x` in the next layout: what is new enters with its learned value, what the layout lacks leaves.
  function enterAndLeave(x, layout, next, weights, dim) {
    const result = new Float32Array(next.reduce((sum, { tokens }) => sum + tokens, 0) * dim);
    for (const { name, start, tokens } of next) {
      const before = layout.find((group) => group.name === name);
      const rows = before ? x.subarray(before.start * dim, (before.start + tokens) * dim) : weights[`tokens.${name}`];
      result.set(rows, start * dim);
    }
    return result;
  }

  // Image (channels, height, width) → patches (rows · columns, dim) with their positions.
  function embed(image, { channels, size: [height, width], patch, dim }, weights) {
    const rows = height / patch, columns = width / patch, length = channels * patch * patch;
    const pixels = new Float32Array(rows * columns * length);
    let at = 0;
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < channels; channel++) for (let y = 0; y < patch; y++) {
        const from = (channel * height + row * patch + y) * width + column * patch;
        pixels.set(image.subarray(from, from + patch), at);
        at += patch;
      }
    }
    const x = linear(pixels, weights["patch_embed.project.weight"], weights["patch_embed.project.bias"], length);
    const positions = weights.positions;
    if (positions) for (let i = 0; i < rows * columns * dim; i++) x[i] += positions[i];
    return x;
  }

  function addBranch(x, branch, factor, dim) {
    for (let i = 0; i < branch.length; i++) x[i] += factor ? branch[i] * factor[i % dim] : branch[i];
  }

  // One block, on `x` in place. `asking`: how many tokens, from the first, ask and are updated (all, but in class
  // attention). Returns queries and keys, from which any row of attention can be computed.
  function block(x, weights, name, { dim, heads, eps }, asking) {
    const of = (part) => weights[`${name}.${part}`];
    const normed = layerNorm(x, of("norm1.weight"), of("norm1.bias"), eps);
    const [weight, bias] = [of("attention.qkv.weight"), of("attention.qkv.bias")];
    const q = linear(normed.subarray(0, asking * dim), weight, bias, dim, 0, dim);
    const k = linear(normed, weight, bias, dim, dim, dim), v = linear(normed, weight, bias, dim, 2 * dim, dim);
    const mixed = new Float32Array(asking * dim), width = dim / heads;
    for (let head = 0; head < heads; head++) for (let token = 0; token < asking; token++) {
      const row = attentionRow({ q, k }, heads, head, token, dim), sum = new Float64Array(width);
      for (let key = 0; key < row.length; key++) {
        for (let i = 0; i < width; i++) sum[i] += row[key] * v[key * dim + head * width + i];
      }
      mixed.set(sum, token * dim + head * width);
    }
    const read = x.subarray(0, asking * dim);
    addBranch(read, linear(mixed, of("attention.project.weight"), of("attention.project.bias"), dim),
      of("scale1.factor"), dim);
    const second = layerNorm(read, of("norm2.weight"), of("norm2.bias"), eps);
    const hidden = gelu(linear(second, of("mlp.expand.weight"), of("mlp.expand.bias"), dim));
    addBranch(read, linear(hidden, of("mlp.contract.weight"), of("mlp.contract.bias"), hidden.length / asking),
      of("scale2.factor"), dim);
    return { q, k };
  }

  // ---- the model

  // The logits that the classifier reads off the tokens x, laid out as `layout`; the mean where there are two heads.
  function classify(x, layout, config, weights) {
    const { dim, eps } = config, patches = layout.at(-1);
    const norm = (rows) => layerNorm(rows, weights["norm.weight"], weights["norm.bias"], eps);
    const linearOf = (name, token) =>
      linear(token, weights[`classifiers.${name}.weight`], weights[`classifiers.${name}.bias`], dim);
    if (config.pool === "cls") {
      const names = READ_BY_HEAD.filter((name) => layout.some((group) => group.name === name));
      const each = names.map((name, at) => linearOf(name, norm(x.subarray(at * dim, (at + 1) * dim))));
      return each[0].map((_, i) => each.reduce((sum, values) => sum + values[i], 0) / each.length);
    }
    const rows = x.subarray(patches.start * dim), read = config.normAfterPool ? rows : norm(rows);
    const mean = new Float32Array(dim);
    for (let i = 0; i < dim; i++) {
      let sum = 0;
      for (let token = 0; token < patches.tokens; token++) sum += read[token * dim + i];
      mean[i] = sum / patches.tokens;
    }
    return linearOf("patches", config.normAfterPool ? norm(mean) : mean);
  }

  // The logit lens: what the head would give to the class `answer` at each token of `x`, read as if it were the last.
  // The class and the distillation token have a head each; every other token is read by the mean of the heads.
  function lens(x, layout, { config, weights }, answer) {
    const { dim, eps, classes } = config, names = ["cls", "dist", "patches"];
    const normed = layerNorm(x, weights["norm.weight"], weights["norm.bias"], eps);
    const heads = names.filter((name) => weights[`classifiers.${name}.weight`]).map((name) => [name,
      linear(normed, weights[`classifiers.${name}.weight`], weights[`classifiers.${name}.bias`], dim)]);
    const own = new Map(layout.filter(({ name }) => READ_BY_HEAD.includes(name)).map(({ name, start }) => [start, name]));
    return Float64Array.from({ length: x.length / dim }, (_, token) => {
      const readers = heads.filter(([name]) => name === own.get(token));
      const read = (readers.length ? readers : heads).map(([, logits]) => logits.subarray(token * classes, (token + 1) * classes));
      const mean = Float64Array.from(read[0], (_, i) => read.reduce((sum, each) => sum + each[i], 0) / read.length);
      return softmax(mean)[answer];
    });
  }

  function softmax(values) {
    const most = Math.max(...values), powers = Float64Array.from(values, (value) => Math.exp(value - most));
    const total = powers.reduce((sum, value) => sum + value, 0);
    return powers.map((value) => value / total);
  }

  // The whole forward. Gives logits and, for each block, who was there (`layout`), queries and keys, and the tokens
  // after it, and the lens; `plan` may be another than the model's, with the same groups.
  function forward({ config, weights }, image, plan) {
    const { dim, size, patch } = config, patches = (size[0] / patch) * (size[1] / patch);
    let x = embed(image, config, weights), layout = [{ name: "patches", start: 0, tokens: patches }];
    const blocks = [], depth = plan.depth + plan.class_blocks;
    for (let index = 0; index < depth; index++) {
      const next = layoutOf(plan, index, patches);
      x = enterAndLeave(x, layout, next, weights, dim);
      layout = next;
      const readers = layout.filter(({ name }) => READ_BY_HEAD.includes(name)).length;
      const asking = index < plan.depth ? x.length / dim : readers;
      const { q, k } = block(x, weights, `blocks.${index}`, config, asking);
      blocks.push({ layout, q, k, x: x.slice() });
    }
    if (!config.classes) return { logits: null, blocks, lens: [] };
    const logits = classify(x, layout, config, weights), answer = logits.indexOf(Math.max(...logits));
    return { logits, blocks, lens: blocks.map((each) => lens(each.x, each.layout, { config, weights }, answer)) };
  }

  return { unpack, forward, attentionRow, softmax, layoutOf };
}

// In a worker: {config, tensors, buffer} loads a model, {image, plan} runs it; every answer says which question it is of.
function dtlVitWorker() {
  const vit = dtlVit();
  let model = null;
  self.onmessage = ({ data }) => {
    try {
      if (data.buffer) model = { config: data.config, weights: vit.unpack(data.tensors, data.buffer) };
      const result = data.image ? vit.forward(model, data.image, data.plan) : null;
      self.postMessage({ id: data.id, result });
    } catch (error) {
      self.postMessage({ id: data.id, error: error.message });
    }
  };
}
