// The tier with a model: its weights arrive as scripts (a page opened from disk may fetch nothing), it runs in a worker
// where there are workers, and what it leaves behind is asked as the stored rows are.
"use strict";

const dtlArriving = {};
function dtlWeights(model, number, text) {
  dtlArriving[`${model}_${number}`](dtlBytes(text));
}

function dtlScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => { script.remove(); reject(new Error(`${address} cannot be loaded`)); };
    document.head.append(script);
  });
}

// The model `key` of the page, its weights loaded part by part; `progress` is told the share that is here.
async function dtlLoad(key, { runs, classes }, folder, progress) {
  const parts = [];
  for (let number = 0; number < runs.parts; number++) {
    const part = new Promise((resolve) => { dtlArriving[`${key}_${number}`] = resolve; });
    await dtlScript(`${folder}weights_${key}_${number}.js`);
    parts.push(await part);
    progress((number + 1) / runs.parts);
  }
  const buffer = await new Blob(parts).arrayBuffer();
  const ask = dtlAnswers();
  await ask({ config: runs.config, tensors: runs.tensors, buffer });
  return async (image, plan) => dtlSeenLive(await ask({ image, plan }), runs.config, plan, classes);
}

// A worker that answers questions; where none can be started, this page computes by itself.
function dtlAnswers() {
  try {
    const source = `${dtlVit}\n${dtlVitWorker}\ndtlVitWorker();`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(address);
    URL.revokeObjectURL(address);
    const waiting = new Map();
    let asked = 0;
    worker.onmessage = ({ data: { id, error, result } }) => {
      const { resolve, reject } = waiting.get(id);
      waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(result);
    };
    worker.onerror = (event) => {
      waiting.forEach(({ reject }) => reject(new Error(event.message || "the worker has stopped")));
      waiting.clear();
    };
    return (question) => new Promise((resolve, reject) => {
      waiting.set(++asked, { resolve, reject });
      worker.postMessage({ ...question, id: asked });
    });
  } catch {
    const vit = dtlVit();
    let model = null;
    return async (question) => {
      if (question.buffer) model = { config: question.config, weights: vit.unpack(question.tensors, question.buffer) };
      await new Promise((done) => setTimeout(done));  // what was said is painted before the page is busy
      return question.image ? vit.forward(model, question.image, question.plan) : null;
    };
  }
}

// A run, asked for states as `dtlStored` is.
function dtlSeenLive({ logits, blocks, lens }, config, plan, classes) {
  const vit = dtlVit(), { dim, heads } = config;
  const answers = !logits ? [] : [...vit.softmax(logits)].map((value, number) => [classes[number], value])
    .sort(([, a], [, b]) => b - a).slice(0, 5);
  const names = (layout) => layout.map(({ name }) => name).filter((name) => name !== "patches");

  // Each head's row of attention of one token, or the mean over the patches; a string says why there is none.
  function rows({ group, at }, block) {
    const { layout, q, k } = blocks[block], name = group === "patch" ? "patches" : group;
    const where = layout.find((each) => each.name === name), asking = q.length / dim;
    if (!where) {
      const { enter, leave } = plan.groups.find((each) => each.name === name);
      return `${name} enters at block ${enter}${leave === null ? "" : ` and leaves at ${leave}`}; in block ${block} the `
        + `sequence holds ${dtlHeld(layout)}`;
    }
    const first = where.start + (group === "patches" ? 0 : at), count = group === "patches" ? where.tokens : 1;
    if (first + count > asking) {
      return `in block ${block}, class attention, only ${names(layout).slice(0, asking).join(" and ")} attends: ${name} `
        + "has no map there";
    }
    return [...Array(heads).keys()].map((head) => {
      const sum = new Float64Array(k.length / dim);
      for (let token = first; token < first + count; token++) {
        vit.attentionRow({ q, k }, heads, head, token, dim).forEach((value, key) => { sum[key] += value / count; });
      }
      return sum;
    });
  }

  // The mean over heads of what each token that asks attends to, (asking, keys); made once a block.
  const means = [];
  function mean(block) {
    const { q, k } = blocks[block], asking = q.length / dim, keys = k.length / dim, sum = new Float64Array(asking * keys);
    for (let head = 0; head < heads; head++) for (let token = 0; token < asking; token++) {
      const row = vit.attentionRow({ q, k }, heads, head, token, dim);
      for (let key = 0; key < keys; key++) sum[token * keys + key] += row[key] / heads;
    }
    return (means[block] ??= { sum, asking, keys });
  }

  // Attention rollout: a token's row, back through the blocks to the one it enters before; half of each token is what it
  // was, half what it takes. The row is over the tokens of that first block.
  function rollout({ group, at }, last) {
    const name = group === "patch" ? "patches" : group, first = plan.groups.find((each) => each.name === name)?.enter ?? 0;
    const where = blocks[last].layout.find((each) => each.name === name);
    let row = new Float64Array(blocks[last].k.length / dim);
    if (group === "patches") row.fill(1 / where.tokens, where.start);
    else row[where.start + at] = 1;
    for (let block = last; block >= first; block--) {
      const { sum, asking, keys } = means[block] ?? mean(block);
      const before = row.map((value, token) => (token < asking ? value / 2 : value));
      for (let token = 0; token < asking; token++) {
        for (let key = 0; key < keys; key++) before[key] += row[token] / 2 * sum[token * keys + key];
      }
      row = block > first ? asBefore(before, blocks[block].layout, blocks[block - 1].layout) : before;
    }
    return { row, layout: blocks[first].layout };
  }

  // The row over the tokens of the block before: without those that enter now, with 0 for those that have left.
  function asBefore(row, layout, earlier) {
    const { start, tokens } = earlier.at(-1), result = new Float64Array(start + tokens);
    for (const { name, start: to, tokens: count } of earlier) {
      const from = layout.find((each) => each.name === name);
      if (from) result.set(row.subarray(from.start, from.start + count), to);
    }
    return result;
  }

  const all = (state) => blocks.map((_, block) => rows(state, block)).map((each, block) =>
    typeof each === "string" ? [] : each.map((row) => row.subarray(blocks[block].layout.at(-1).start))).flat();

  function norms(block) {
    const { x } = blocks[block], lengths = new Float64Array(x.length / dim);
    for (let i = 0; i < x.length; i++) lengths[Math.floor(i / dim)] += x[i] ** 2;
    return lengths.map(Math.sqrt);
  }

  // NumPy's quantile of the patches' values, in which 99.5 % lie; as `Recording.largest`.
  function shared(each) {
    const sorted = Float64Array.from(each.flatMap((row) => [...row])).sort(), at = 0.995 * (sorted.length - 1);
    const low = Math.floor(at), high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low) || sorted.at(-1) || 1;
  }

  const ofPatches = (row, block) => row.subarray(blocks[block].layout.at(-1).start);

  return {
    answers,
    view(state) {
      const { show, block, head } = state, { layout } = blocks[block];
      if (show === "norms" || show === "lens") {
        const each = blocks.map((_, at) => (show === "norms" ? norms(at) : lens[at]));
        if (!each[block]) return { says: "This model has no classes to be asked about." };
        return { values: each[block], layout, off: 0, shared: shared(each.map(ofPatches)) };
      }
      if (show === "relevance") {
        return { says: "Relevance needs gradients: it is stored for the pictures of this page alone, under each model’s own plan." };
      }
      const each = rows(state, block);
      if (typeof each === "string") return { says: dtlSaid(each) };
      if (show === "rollout") {
        const here = rollout(state, block), patches = ({ row, layout: of }) => row.subarray(of.at(-1).start);
        const there = blocks.map((_, at) => at).filter((at) => typeof rows(state, at) !== "string");
        const off = Math.max(0, 1 - patches(here).reduce((sum, value) => sum + value, 0));
        return { values: here.row, layout: here.layout, off, shared: shared(there.map((at) => patches(rollout(state, at)))) };
      }
      const values = head === null ? each[0].map((_, key) => each.reduce((sum, row) => sum + row[key], 0) / heads) : each[head];
      const off = Math.max(0, 1 - ofPatches(values, block).reduce((sum, value) => sum + value, 0));
      return { values, layout, off, shared: shared(all(state)) };
    },
  };
}
