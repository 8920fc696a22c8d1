"use strict";
// One cursor (inline i, crossline j, sample k) in the volume; every picture is a slice through it.
(() => {
  const $ = (id) => document.getElementById(id);
  const volume = JSON.parse($("volume").textContent);
  const [NX, NY, NT] = volume.shape;
  const [T0, DT] = volume.time;
  const gathers = volume.gathers;
  const AXES = ["inline", "crossline", "time"];
  const SIZE = { inline: NX, crossline: NY, time: NT };
  // A single line has no map and one way to cut it.
  const possible = { inline: NY > 1 || NX === 1, crossline: NX > 1, time: NX > 1 && NY > 1 };
  const state = { view: possible.inline ? "inline" : "crossline", at: [0, 0, 0], gain: 0, colours: "seismic", smooth: true, zoom: null };

  // ---- samples: in the page, or from the server, as promises of {data, w, h}: column c, row r is data[c * h + r] ----

  const unpack = (name) => {
    const pieces = [...document.querySelectorAll(`script.${name}`)].map((element) => {
      const text = atob(element.textContent);
      element.remove();
      const bytes = new Uint8Array(text.length);
      for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
      return bytes;
    });
    const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) { all.set(piece, at); at += piece.length; }
    return all;
  };

  const embedded = () => {
    const image = unpack("image"), panels = unpack("gathers");
    const step = volume.gather_step, rows = Math.ceil(NY / step);
    return {
      inline: async (i) => ({ data: image.subarray(i * NY * NT, (i + 1) * NY * NT), w: NY, h: NT }),
      crossline: async (j) => {
        const data = new Uint8Array(NX * NT);
        for (let i = 0; i < NX; i++) data.set(image.subarray((i * NY + j) * NT, (i * NY + j + 1) * NT), i * NT);
        return { data, w: NX, h: NT };
      },
      time: async (k) => {
        const data = new Uint8Array(NX * NY);
        for (let j = 0; j < NY; j++) for (let i = 0; i < NX; i++) data[j * NX + i] = image[(i * NY + j) * NT + k];
        return { data, w: NY, h: NX };
      },
      gather: async (i, j) => {
        const bins = gathers.values.length, size = bins * NT;
        const [a, b] = [Math.floor(i / step), Math.floor(j / step)];
        const first = (a * rows + b) * size;
        return { data: panels.subarray(first, first + size), w: bins, h: NT, i: a * step, j: b * step };
      },
    };
  };

  const served = () => {
    const ask = async (address) => {
      const answer = await fetch(address);
      if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
      const data = new Uint8Array(await answer.arrayBuffer());
      return { data, w: Number(answer.headers.get("X-Width")), h: Number(answer.headers.get("X-Height")) };
    };
    return {
      inline: (i) => ask(`slice/inline/${i}`), crossline: (j) => ask(`slice/crossline/${j}`),
      time: (k) => ask(`slice/time/${k}`),
      gather: async (i, j) => ({ ...(await ask(`gather/${i}/${j}`)), i, j }),
    };
  };

  const source = volume.mode === "server" ? served() : embedded();
  const kept = new Map(); // the last slices, so that going back is at once
  const fetchSlice = (kind, ...at) => {
    const key = [kind, ...at].join("/");
    if (!kept.has(key)) {
      kept.set(key, source[kind](...at).catch((error) => { kept.delete(key); throw error; }));
      if (kept.size > 24) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  };

  // ---- values and colours ----

  const amplitude = (byte, scale) => { const s = (byte - 128) / 127; return s * Math.abs(s) * scale; };
  const hex = (text) => [0, 2, 4].map((n) => parseInt(text.slice(n, n + 2), 16));
  const palette = (name) => {
    const anchors = volume.colours[name].map(hex);
    return (part) => {
      const x = part * (anchors.length - 1), n = Math.min(Math.floor(x), anchors.length - 2), f = x - n;
      return [0, 1, 2].map((c) => Math.round(anchors[n][c] * (1 - f) + anchors[n + 1][c] * f));
    };
  };
  const lookup = (scale, clip) => {
    const table = new Uint32Array(256), colour = palette(state.colours), end = clip / 10 ** (state.gain / 20);
    for (let byte = 0; byte < 256; byte++) {
      const part = Math.min(1, Math.max(0, 0.5 + 0.5 * (amplitude(byte, scale) / end)));
      const [r, g, b] = colour(part);
      table[byte] = (255 << 24 | b << 16 | g << 8 | r) >>> 0;
    }
    return table;
  };

  const raster = (slice, scale, clip, upward) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [slice.w, slice.h];
    const context = canvas.getContext("2d"), picture = context.createImageData(slice.w, slice.h);
    const pixels = new Uint32Array(picture.data.buffer), table = lookup(scale, clip);
    for (let c = 0; c < slice.w; c++) {
      for (let r = 0; r < slice.h; r++) {
        pixels[(upward ? slice.h - 1 - r : r) * slice.w + c] = table[slice.data[c * slice.h + r]];
      }
    }
    context.putImageData(picture, 0, 0);
    return canvas;
  };

  // ---- drawing: a picture with axes; its frame turns positions into sample indices and back ----

  const frames = {};
  const MARGIN = { left: 58, right: 14, top: 14, bottom: 40 };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const prepare = (canvas) => {
    const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    const [w, h] = [Math.max(1, Math.round(box.width * ratio)), Math.max(1, Math.round(box.height * ratio))];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    return [context, box.width, box.height];
  };

  const nice = (least) => {
    const power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least * 0.999);
  };

  const ticks = (low, high, pixels, label, { whole = false, spacing = 70 } = {}) => {
    // `label(index)` is the number written at an index; marks stand at round numbers of it, or at round indices.
    const marks = [], slope = label(1) - label(0);
    if (whole) { // line numbers: only where there is a line, at round numbers when they have some
      const gap = Math.abs(slope), least = Math.max(1, (high - low) * spacing / pixels) * gap;
      for (let n = 0, step = nice(least); gap && n < 4; n++, step = nice(step * 1.5)) {
        if (step % gap || label(0) % gap) continue;
        const [first, last] = [label(0), label(1e9)].sort((a, b) => a - b);
        for (let m = Math.ceil(first / step); m * step <= last; m++) marks.push([(m * step - label(0)) / slope, String(m * step)]);
        if (marks.length > 1) return marks;
        marks.length = 0;
      }
      const step = Math.max(1, nice((high - low) * spacing / pixels));
      for (let n = Math.ceil(low / step) * step; n <= high; n += step) marks.push([n, String(label(n))]);
      return marks;
    }
    const step = nice(Math.abs(slope) * (high - low) * spacing / pixels);
    const [first, last] = [label(low), label(high)].sort((a, b) => a - b);
    for (let n = Math.ceil(first / step - 1e-9); n * step <= last + 1e-9; n++) {
      marks.push([(n * step - label(0)) / slope, String(Number((n * step).toPrecision(12)))]);
    }
    return marks;
  };

  const paint = (canvas, picture, options) => {
    const [context, width, height] = prepare(canvas);
    const room = { x: MARGIN.left, y: MARGIN.top, w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom };
    const { x0, x1, y0, y1 } = options.range;
    const area = { ...room };
    if (options.aspect) { // width over height of one cell on the ground
      const scale = Math.min(room.w / ((x1 - x0) * options.aspect), room.h / (y1 - y0));
      area.w = (x1 - x0) * options.aspect * scale;
      area.h = (y1 - y0) * scale;
      area.x += (room.w - area.w) / 2;
      area.y += (room.h - area.h) / 2;
    }
    const up = options.upward, rows = options.rows;
    const toX = (index) => area.x + (index - x0) / (x1 - x0) * area.w;
    const toY = (index) => area.y + (up ? y1 - index : index - y0) / (y1 - y0) * area.h;
    const fromX = (px) => x0 + (px - area.x) / area.w * (x1 - x0);
    const fromY = (py) => (up ? y1 - (py - area.y) / area.h * (y1 - y0) : y0 + (py - area.y) / area.h * (y1 - y0));
    context.imageSmoothingEnabled = state.smooth;
    context.imageSmoothingQuality = "high";
    context.save();
    context.beginPath();
    context.rect(area.x, area.y, area.w, area.h);
    context.clip();
    const top = up ? toY(rows - 0.5) : toY(-0.5), left = toX(-0.5);
    const right = toX(options.columns - 0.5), bottom = up ? toY(-0.5) : toY(rows - 0.5);
    context.fillStyle = css("--wash");
    context.fillRect(area.x, area.y, area.w, area.h);
    if (picture) context.drawImage(picture, left, top, right - left, bottom - top);
    context.restore();
    drawAxes(context, area, options, toX, toY);
    drawCross(context, area, options, toX, toY);
    if (options.message) write(context, area, options.message);
    frames[canvas.id] = { area, fromX, fromY, toX, toY, options };
  };

  const drawAxes = (context, area, options, toX, toY) => {
    const { x0, x1, y0, y1 } = options.range;
    context.font = "12px system-ui, sans-serif";
    context.lineWidth = 1;
    context.strokeStyle = css("--line");
    context.fillStyle = css("--soft");
    context.strokeRect(area.x + 0.5, area.y + 0.5, area.w, area.h);
    context.textAlign = "center";
    context.textBaseline = "top";
    const inside = (n, low, high) => n >= low - 1e-9 && n <= high + 1e-9;
    for (const [index, text] of ticks(x0, x1, area.w, options.xLabel, { whole: options.xWhole })) {
      if (!inside(index, x0, x1)) continue;
      context.fillRect(toX(index) - 0.5, area.y + area.h, 1, 5);
      context.fillText(text, toX(index), area.y + area.h + 7);
    }
    context.fillText(options.xTitle, area.x + area.w / 2, area.y + area.h + 23);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [index, text] of ticks(y0, y1, area.h, options.yLabel, { whole: options.yWhole, spacing: 46 })) {
      if (!inside(index, y0, y1)) continue;
      context.fillRect(area.x - 5, toY(index) - 0.5, 5, 1);
      context.fillText(text, area.x - 8, toY(index));
    }
    context.save();
    context.translate(Math.max(9, area.x - 50), area.y + area.h / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(options.yTitle, 0, 0);
    context.restore();
  };

  const drawCross = (context, area, options, toX, toY) => {
    context.save();
    context.beginPath();
    context.rect(area.x, area.y, area.w, area.h);
    context.clip();
    for (const [colour, width] of [["rgba(0,0,0,.45)", 2.6], ["#ffd23f", 1.2]]) { // seen on light and on dark
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      if (options.cross.x != null) { context.moveTo(toX(options.cross.x), area.y); context.lineTo(toX(options.cross.x), area.y + area.h); }
      if (options.cross.y != null) { context.moveTo(area.x, toY(options.cross.y)); context.lineTo(area.x + area.w, toY(options.cross.y)); }
      context.stroke();
    }
    context.restore();
  };

  const write = (context, area, message) => {
    context.fillStyle = css("--ink");
    context.textAlign = "center";
    context.textBaseline = "middle";
    const words = message.split(" "), lines = [""];
    for (const word of words) {
      const longer = `${lines[lines.length - 1]} ${word}`.trim();
      if (context.measureText(longer).width > area.w - 20 && lines[lines.length - 1]) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    lines.forEach((line, n) => context.fillText(line, area.x + area.w / 2, area.y + area.h / 2 + (n - (lines.length - 1) / 2) * 18));
  };

  // ---- the four kinds of picture ----

  const whole = (w, h) => ({ x0: -0.5, x1: w - 0.5, y0: -0.5, y1: h - 0.5 });
  const timeLabel = (k) => T0 + k * DT;
  const lineLabel = (numbers) => (n) => numbers[Math.max(0, Math.min(numbers.length - 1, Math.round(n)))];
  const layouts = {
    inline: { columns: NY, rows: NT, xTitle: "crossline", yTitle: "two-way time (ms)", xLabel: lineLabel(volume.crosslines), xWhole: true, yLabel: timeLabel, axes: [1, 2] },
    crossline: { columns: NX, rows: NT, xTitle: "inline", yTitle: "two-way time (ms)", xLabel: lineLabel(volume.inlines), xWhole: true, yLabel: timeLabel, axes: [0, 2] },
    time: {
      columns: NY, rows: NX, xTitle: "crossline", yTitle: "inline", xLabel: lineLabel(volume.crosslines), xWhole: true,
      yLabel: lineLabel(volume.inlines), yWhole: true, upward: true, aspect: volume.spacing[1] / volume.spacing[0], axes: [1, 0],
    },
  };
  const cross = (layout) => ({ x: state.at[layout.axes[0]], y: state.at[layout.axes[1]] });

  const latest = {}; // only the latest request may draw; earlier ones wait for it
  const shown = {};
  const show = (name, request, draw) => {
    const mine = (async () => {
      await null; // so that `mine` exists whatever happens below
      let slice = null, message = null;
      try { slice = await request(); } catch (error) { message = error.message; }
      if (latest[name] !== mine) return latest[name];
      shown[name] = slice;
      draw(slice, message);
      return null;
    })();
    latest[name] = mine;
    return mine;
  };

  const drawMain = () => {
    const layout = layouts[state.view], axis = AXES.indexOf(state.view);
    return show("main", () => fetchSlice(state.view, state.at[axis]), (slice, message) => {
      const picture = slice && raster(slice, volume.scale, volume.clip, layout.upward);
      paint($("main"), picture, { ...layout, range: state.zoom || whole(layout.columns, layout.rows), cross: cross(layout), message });
    });
  };
  const drawMap = () => possible.time && show("map", () => fetchSlice("time", state.at[2]), (slice, message) => {
    const layout = layouts.time;
    const picture = slice && raster(slice, volume.scale, volume.clip, true);
    paint($("map"), picture, { ...layout, range: whole(NY, NX), cross: cross(layout), message });
    $("map-caption").textContent = `Time slice at ${number(timeLabel(state.at[2]))} ms`;
  });
  const drawGather = () => {
    if (!gathers) return null;
    const bins = gathers.values.length;
    return show("gather", () => fetchSlice("gather", state.at[0], state.at[1]), (slice, message) => {
      const picture = slice && raster(slice, gathers.scale, gathers.clip, false);
      const regular = bins > 1 && gathers.dim !== "tile";
      const title = gathers.units ? `${gathers.dim} (${gathers.units})` : gathers.dim;
      paint($("gather"), picture, {
        columns: bins, rows: NT, xTitle: title, yTitle: "two-way time (ms)", xWhole: !regular,
        xLabel: regular ? (n) => gathers.values[0] + n * (gathers.values[bins - 1] - gathers.values[0]) / (bins - 1) : (n) => gathers.values[Math.max(0, Math.min(bins - 1, Math.round(n)))],
        yLabel: timeLabel, range: gatherRange(bins), cross: { y: state.at[2] }, message,
      });
      const place = slice ? `inline ${volume.inlines[slice.i]}, crossline ${volume.crosslines[slice.j]}` : "";
      $("gather-caption").textContent = slice ? `Gather at ${place}` : "No gather";
    });
  };
  const gatherRange = (bins) => { // as deep as the section beside it
    const range = whole(bins, NT);
    return state.zoom && state.view !== "time" ? { ...range, y0: Math.max(-0.5, state.zoom.y0), y1: Math.min(NT - 0.5, state.zoom.y1) } : range;
  };

  const number = (value) => String(Number(value.toPrecision(7)));
  const draw = () => Promise.all([drawMain(), drawMap(), drawGather(), drawBar()]);
  const drawBar = () => {
    const colour = palette(state.colours), end = volume.clip / 10 ** (state.gain / 20);
    const stops = Array.from({ length: 9 }, (_, n) => `rgb(${colour(n / 8)})`).join(",");
    const strip = document.createElement("i");
    strip.style.background = `linear-gradient(90deg, ${stops})`;
    $("bar").replaceChildren(`−${end.toPrecision(3)}`, strip, `+${end.toPrecision(3)}`);
  };

  // ---- reading, moving, zooming ----

  const at = (canvas, event) => {
    const frame = frames[canvas.id], box = canvas.getBoundingClientRect();
    if (!frame) return null;
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const { area } = frame;
    if (px < area.x || px > area.x + area.w || py < area.y || py > area.y + area.h) return null;
    const [x, y] = [Math.round(frame.fromX(px)), Math.round(frame.fromY(py))];
    const { columns, rows } = frame.options;
    return x >= 0 && x < columns && y >= 0 && y < rows ? { x, y } : null;
  };
  const place = (i, j) => [0, 1].map((n) => volume.origin[n] + i * volume.axes[0][n] + j * volume.axes[1][n]);
  const describe = (i, j, k, value) => {
    const [x, y] = place(i, j);
    const where = `inline ${volume.inlines[i]} · crossline ${volume.crosslines[j]} · ${x.toFixed(1)} m E, ${y.toFixed(1)} m N`;
    return `${where} · ${number(timeLabel(k))} ms · amplitude ${value == null ? "?" : value.toPrecision(3)}`;
  };
  const read = (event) => {
    const hit = at($("main"), event), slice = shown.main;
    if (!hit) { $("readout").textContent = "Point at the picture to read it."; return; }
    const place3 = [...state.at];
    const { axes } = layouts[state.view];
    place3[axes[0]] = hit.x;
    place3[axes[1]] = hit.y;
    const value = slice ? amplitude(slice.data[hit.x * slice.h + hit.y], volume.scale) : null;
    $("readout").textContent = describe(...place3, value);
  };

  const go = (axis, index) => {
    const kept = Math.max(0, Math.min(SIZE[AXES[axis]] - 1, index));
    if (kept === state.at[axis]) return;
    state.at[axis] = kept;
    sync();
    draw();
  };
  const goTo = (hit, axes) => {
    state.at[axes[0]] = hit.x;
    state.at[axes[1]] = hit.y;
    sync();
    draw();
  };
  const choose = (view) => {
    if (state.view === view || !possible[view]) return;
    Object.assign(state, { view, zoom: null });
    document.querySelector(`input[name=view][value=${view}]`).checked = true;
    draw();
  };
  const zoom = (factor, x, y) => {
    const { columns, rows } = layouts[state.view], range = state.zoom || whole(columns, rows);
    const [cx, cy] = [x ?? (range.x0 + range.x1) / 2, y ?? (range.y0 + range.y1) / 2];
    const next = {
      x0: cx - (cx - range.x0) * factor, x1: cx + (range.x1 - cx) * factor,
      y0: cy - (cy - range.y0) * factor, y1: cy + (range.y1 - cy) * factor,
    };
    if (next.x1 - next.x0 >= columns && next.y1 - next.y0 >= rows) state.zoom = null;
    else if (next.x1 - next.x0 > 2 && next.y1 - next.y0 > 4) state.zoom = next;
    draw();
  };

  const sync = () => {
    AXES.forEach((axis, n) => { $(axis).value = state.at[n]; });
    $("inline-value").textContent = `${volume.inlines[state.at[0]]}`;
    $("crossline-value").textContent = `${volume.crosslines[state.at[1]]}`;
    $("time-value").textContent = `${number(timeLabel(state.at[2]))} ms`;
    $("gain-value").textContent = `${state.gain > 0 ? "+" : ""}${state.gain} dB`;
  };

  const listen = () => {
    AXES.forEach((axis, n) => $(axis).addEventListener("input", (event) => go(n, Number(event.target.value))));
    document.querySelectorAll("input[name=view]").forEach((input) => input.addEventListener("change", () => choose(input.value)));
    $("gain").addEventListener("input", (event) => { state.gain = Number(event.target.value); sync(); draw(); });
    $("colours").addEventListener("change", (event) => { state.colours = event.target.value; draw(); });
    $("smooth").addEventListener("change", (event) => { state.smooth = event.target.checked; draw(); });
    const main = $("main");
    let drag = null;
    main.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, moved: false, zoom: state.zoom }; });
    main.addEventListener("pointermove", (event) => {
      read(event);
      if (!drag || !(event.buttons & 1)) return;
      const { area } = frames.main, range = drag.zoom;
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      drag.moved = drag.moved || Math.hypot(dx, dy) > 4;
      if (!drag.moved || !range) return;
      const sx = -dx / area.w * (range.x1 - range.x0);
      const sy = (layouts[state.view].upward ? dy : -dy) / area.h * (range.y1 - range.y0);
      state.zoom = { x0: range.x0 + sx, x1: range.x1 + sx, y0: range.y0 + sy, y1: range.y1 + sy };
      draw();
    });
    main.addEventListener("pointerup", (event) => {
      const hit = at(main, event);
      if (drag && !drag.moved && hit) goTo(hit, layouts[state.view].axes);
      drag = null;
    });
    main.addEventListener("dblclick", () => { state.zoom = null; draw(); });
    main.addEventListener("wheel", (event) => {
      event.preventDefault();
      const frame = frames.main, box = main.getBoundingClientRect();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, frame.fromX(event.clientX - box.left), frame.fromY(event.clientY - box.top));
    }, { passive: false });
    $("map").addEventListener("click", (event) => { const hit = at($("map"), event); if (hit) goTo(hit, [1, 0]); });
    $("gather").addEventListener("click", (event) => { const hit = at($("gather"), event); if (hit) go(2, hit.y); });
    addEventListener("keydown", keys);
    new ResizeObserver(() => draw()).observe($("panels"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  };

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
    const { axes, upward } = layouts[state.view], own = AXES.indexOf(state.view), by = event.shiftKey ? 10 : 1;
    const move = {
      ArrowLeft: [axes[0], -by], ArrowRight: [axes[0], by], ArrowUp: [axes[1], upward ? by : -by], ArrowDown: [axes[1], upward ? -by : by],
      PageUp: [own, -by], PageDown: [own, by],
    }[event.key];
    if (move) go(move[0], state.at[move[0]] + move[1]);
    else if ({ i: 1, x: 1, t: 1 }[event.key]) choose({ i: "inline", x: "crossline", t: "time" }[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(0.8);
    else if (event.key === "-") zoom(1.25);
    else if (event.key === "0") { state.zoom = null; draw(); }
    else return;
    event.preventDefault();
  };

  // ---- begin ----

  const begin = () => {
    $("title").textContent = volume.title;
    const ends = (numbers) => `${numbers[0]} to ${numbers[numbers.length - 1]}`;
    const sides = [[NX, volume.spacing[0]], [NY, volume.spacing[1]]].filter(([n]) => n > 1).map(([, size]) => number(size));
    $("about").textContent = `inlines ${ends(volume.inlines)}, crosslines ${ends(volume.crosslines)}, ${number(T0)} to ${number(T0 + (NT - 1) * DT)} ms; `
      + `${sides.length ? `bins ${sides.join(" × ")} m, ` : ""}${number(DT)} ms` + (volume.facts.velocity ? `; velocity ${volume.facts.velocity}` : "");
    if (volume.preview) {
      $("preview").hidden = false;
      $("preview").textContent = `Preview, not an image: ${volume.preview}`;
    }
    for (const name of Object.keys(volume.colours)) $("colours").append(new Option(name, name));
    AXES.forEach((axis) => {
      $(axis).max = SIZE[axis] - 1;
      $(axis).disabled = SIZE[axis] < 2;
      const input = document.querySelector(`input[name=view][value=${axis}]`);
      input.checked = axis === state.view;
      input.closest("label").hidden = !possible[axis];
    });
    $("map-figure").hidden = !possible.time;
    $("smooth").checked = state.smooth;
    $("colours").value = state.colours;
    if (!gathers) $("gather-figure").hidden = true;
    else if (volume.mode === "page" && volume.gather_step > 1) {
      $("help").append(` Gathers are kept at every ${volume.gather_step} lines only: the nearest one is shown.`);
    }
    state.at = volume.start || [Math.floor(NX / 2), Math.floor(NY / 2), Math.floor(NT / 2)];
    sync();
    listen();
    draw().then(() => { document.documentElement.dataset.viewer = "ready"; });
  };
  window.viewer = { state, frames, shown, draw, place, amplitude }; // for tests, and for the curious
  begin();
})();
