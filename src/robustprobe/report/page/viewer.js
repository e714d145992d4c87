"use strict";
// The viewer: one image under one attack, all encoders side by side, from the pictures in the tables below it.
(() => {
  const viewer = document.querySelector(".viewer");
  const find = (name) => viewer.querySelector(`.${name}`);
  const stage = find("stage");
  const exhibits = [...document.querySelectorAll(".exhibit")];
  const GREY = 128;
  const STEPS = 255;
  // Black over red to light yellow: brightness alone also shows the error.
  const HEAT = [[8, 8, 12], [110, 30, 90], [220, 80, 40], [250, 180, 60], [255, 250, 210]];
  let order = exhibits;
  let attacks = [];
  let sizes = [];
  let turn = 0;

  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const canvasOf = (width, height, words) => {
    const canvas = make("canvas");
    Object.assign(canvas, { width, height });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
    return canvas;
  };

  const pixels = async (image) => {
    await image.decode();
    const canvas = canvasOf(image.naturalWidth, image.naturalHeight, "");
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };

  const drawn = (width, height, words, paint) => {
    const canvas = canvasOf(width, height, words);
    const context = canvas.getContext("2d");
    const data = context.createImageData(width, height);
    paint(data.data);
    for (let index = 3; index < data.data.length; index += 4) data.data[index] = 255;
    context.putImageData(data, 0, 0);
    return canvas;
  };

  const sameShape = (first, second) => first.width === second.width && first.height === second.height;

  const change = (clean, attacked, words) => {
    const times = Number(find("amplify").value);
    return drawn(clean.width, clean.height, `${words}: change, ${times} times around grey`, (target) => {
      for (let index = 0; index < target.length; index += 1) {
        target[index] = GREY + times * (attacked.data[index] - clean.data[index]);
      }
    });
  };

  const colour = (data, index) => data[index] * 65536 + data[index + 1] * 256 + data[index + 2];

  const changedPixels = (clean, attacked, words) =>
    drawn(clean.width, clean.height, `${words}: pixels whose class changed, white`, (target) => {
      for (let index = 0; index < target.length; index += 4) {
        const level = colour(clean.data, index) === colour(attacked.data, index) ? 40 : 255;
        target.fill(level, index, index + 3);
      }
    });

  const heat = (share) => {
    const index = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
    const low = Math.min(Math.floor(index), HEAT.length - 2);
    return HEAT[low].map((value, k) => value + (index - low) * (HEAT[low + 1][k] - value));
  };

  // The scale's pixels run from its high end down; a value's colour is one of them.
  const positions = async (tableRow) => {
    const scale = await pixels(tableRow.querySelector(".scale img"));
    const found = new Map();
    for (let k = 0; k < STEPS; k += 1) found.set(colour(scale.data, 4 * k), 1 - k / (STEPS - 1));
    return found;
  };

  const scalarError = async (tableRow, truth, attacked, words) => {
    const known = await positions(tableRow);
    return drawn(truth.width, truth.height, `${words}: error of ${tableRow.dataset.row}`, (target) => {
      for (let index = 0; index < target.length; index += 4) {
        const own = known.get(colour(truth.data, index));
        const other = known.get(colour(attacked.data, index));
        const valid = own !== undefined && other !== undefined;
        const painted = valid ? heat(Math.abs(own - other)) : [GREY, GREY, GREY];
        for (let k = 0; k < 3; k += 1) target[index + k] = painted[k];
      }
    });
  };

  const exhibit = () => order[find("image").selectedIndex];
  const heads = (sheet) => [...sheet.tHead.rows[0].cells];
  const columnOf = (sheet, attack, eps) =>
    heads(sheet).findIndex((head) => head.dataset.attack === attack && head.dataset.eps === eps);
  const cellOf = (sheet, row, column) => sheet.querySelector(`tr[data-row="${row}"]`)?.cells[column];
  const pictureOf = (cell) => cell?.querySelector("img") ?? null;

  const copy = (image) => {
    const shown = make("img");
    shown.src = image.src;
    shown.alt = image.alt;
    return shown;
  };

  const slot = (name, content, note) => {
    const figure = make("figure", "slot");
    figure.append(make("figcaption", "", name));
    if (content) figure.append(content);
    else figure.append(make("p", "missing", "—"));
    if (note) figure.append(make("p", "note", note));
    return figure;
  };

  const title = (text) => make("p", "row-title", text);

  const noteOf = (cell) => cell?.querySelector(".note")?.textContent ?? "";

  const layered = (image, mask) => {
    if (!mask) return null;
    const layers = make("div", "layers");
    layers.append(copy(image), copy(mask));
    layers.firstChild.alt = "";
    return layers;
  };

  const bar = (low, high, unit, stops) => {
    const legend = make("p", "ramp");
    const canvas = drawn(64, 1, "", (target) => {
      for (let k = 0; k < 64; k += 1) stops(k / 63).forEach((value, c) => { target[4 * k + c] = value; });
    });
    canvas.removeAttribute("role");
    canvas.removeAttribute("aria-label");
    canvas.setAttribute("aria-hidden", "true");
    legend.append(make("span", "", `${low} ${unit}`), canvas, make("span", "", `${high} ${unit}`));
    return legend;
  };

  const titleOf = (tableRow) => title(tableRow.querySelector(".title").textContent);

  const classesRow = (tableRow, clean, attacked) => {
    const cells = [clean, attacked].map((column) => tableRow.cells[column]);
    if (!cells[1]?.querySelector(".guesses")) return [];
    const row = make("div", "row bars");
    const [before, after] = cells.map((cell) => cell?.querySelector(".guesses")?.cloneNode(true) ?? null);
    row.append(slot("clean", before, noteOf(cells[0])), slot("attacked", after, noteOf(cells[1])));
    return [titleOf(tableRow), row];
  };

  const classMapRow = async (sheet, tableRow, clean, attacked, words) => {
    const [truth, before, after] = [1, clean, attacked].map((column) => tableRow.cells[column]);
    const masks = [truth, before, after].map(pictureOf);
    if (!masks[2]) return [];
    const images = [clean, clean, attacked].map((column) => pictureOf(cellOf(sheet, "image", column)));
    const [own, other] = masks[1] ? await Promise.all([pixels(masks[1]), pixels(masks[2])]) : [];
    const changed = own && sameShape(own, other) ? changedPixels(own, other, words) : null;
    const row = make("div", "row");
    row.append(
      slot("truth", images[0] && layered(images[0], masks[0])),
      slot("clean", images[1] && layered(images[1], masks[1]), noteOf(before)),
      slot("attacked", layered(images[2], masks[2]), noteOf(after)),
      slot("changed", changed),
    );
    const legends = [...sheet.closest(".exhibit").querySelectorAll(".legend")];
    const own_legend = legends.find((one) => one.dataset.sheet === sheet.dataset.sheet && one.dataset.row === tableRow.dataset.row);
    return [titleOf(tableRow), row, ...(own_legend ? [own_legend.cloneNode(true)] : [])];
  };

  const scalarMapRow = async (tableRow, clean, attacked, words) => {
    const [truth, before, after] = [1, clean, attacked].map((column) => tableRow.cells[column]);
    const maps = [truth, before, after].map(pictureOf);
    if (!maps[2]) return [];
    let error = null;
    if (maps[0]) {
      const [own, other] = await Promise.all([pixels(maps[0]), pixels(maps[2])]);
      if (sameShape(own, other)) error = await scalarError(tableRow, own, other, words);
    }
    const row = make("div", "row");
    row.append(
      slot("truth", maps[0] && copy(maps[0])),
      slot("clean", maps[1] && copy(maps[1]), noteOf(before)),
      slot("attacked", copy(maps[2]), noteOf(after)),
      slot("error", error),
    );
    const { low, high, unit } = tableRow.dataset;
    const scale = await pixels(tableRow.querySelector(".scale img"));
    const stop = (share) => {
      const index = 4 * Math.round((1 - share) * (STEPS - 1));
      return [...scale.data.slice(index, index + 3)];
    };
    const ramps = make("div", "ramps");
    ramps.append(make("span", "", tableRow.dataset.row), bar(Number(low).toFixed(1), Number(high).toFixed(1), unit, stop));
    ramps.append(make("span", "", "error"), bar("0.0", (high - low).toFixed(1), unit, heat));
    return [titleOf(tableRow), row, ramps];
  };

  const coloursRow = (tableRow, clean, attacked) => {
    const cells = [1, clean, attacked].map((column) => tableRow.cells[column]);
    const maps = cells.map(pictureOf);
    if (!maps[2]) return [];
    const row = make("div", "row");
    ["truth", "clean", "attacked"].forEach((name, k) => {
      row.append(slot(name, maps[k] && copy(maps[k]), k ? noteOf(cells[k]) : ""));
    });
    return [titleOf(tableRow), row];
  };

  const rowOf = (sheet, tableRow, clean, attacked, words) =>
    ({
      classes: () => classesRow(tableRow, clean, attacked),
      "class map": () => classMapRow(sheet, tableRow, clean, attacked, words),
      "scalar map": () => scalarMapRow(tableRow, clean, attacked, words),
      colours: () => coloursRow(tableRow, clean, attacked),
    })[tableRow.dataset.kind]();

  const card = async (shown, sheet, attack, eps) => {
    const encoder = sheet.caption.textContent;
    const clean = columnOf(sheet, "clean", "");
    const attacked = columnOf(sheet, attack, eps);
    const article = make("article", "card");
    article.append(make("h3", "name", encoder));
    if (attacked < 0) {
      article.append(make("p", "missing", `${attack} ${eps} was not stored for this encoder.`));
      return article;
    }
    const blink = find("blink").getAttribute("aria-pressed") === "true" && clean >= 0;
    const before = pictureOf(cellOf(sheet, "image", clean));
    const after = pictureOf(cellOf(sheet, "image", attacked));
    const words = `${shown.dataset.id}, ${encoder}, ${attack} ${eps}`;
    const row = make("div", "row images");
    const [own, other] = before ? await Promise.all([pixels(before), pixels(after)]) : [];
    row.append(
      slot("clean", before && copy(before)),
      slot(blink ? "clean instead" : "attacked", copy(blink ? before : after), noteOf(cellOf(sheet, "image", attacked))),
      slot(`change × ${find("amplify").value}`, own && sameShape(own, other) ? change(own, other, words) : null),
    );
    article.append(row);
    for (const tableRow of sheet.querySelectorAll("tr[data-kind]")) {
      article.append(...(await rowOf(sheet, tableRow, clean, attacked, words)));
    }
    return article;
  };

  const firstGuess = (list) => {
    const guess = list?.querySelector("li");
    return guess ? guess.textContent.replace(/\s+/g, " ").trim() : "";
  };

  const describe = (shown, attack, eps, cards) => {
    const parts = cards.map((one) => {
      const said = [...one.querySelectorAll(".guesses")].map(firstGuess).join(" → ");
      return said ? `${one.querySelector("h3").textContent}: ${said}` : "";
    });
    return [`${shown.dataset.id}, ${attack} ${eps}`, ...parts.filter(Boolean)].join("; ");
  };

  const show = async () => {
    const own = (turn += 1);
    const shown = exhibit();
    const attack = find("attack").value;
    const eps = sizes[find("eps").value] ?? "";
    find("eps-text").textContent = eps;
    find("why").textContent = shown.querySelector("summary .why").textContent;
    find("why").hidden = false;
    find("amplify-text").textContent = find("amplify").value;
    const cards = await Promise.all([...shown.querySelectorAll(".sheet")].map((sheet) => card(shown, sheet, attack, eps)));
    // A later selection may already be drawn.
    if (own !== turn) return;
    stage.replaceChildren(...cards);
    find("words").textContent = describe(shown, attack, eps, cards);
    viewer.dataset.shown = String(own);
  };

  const option = (text) => make("option", "", text);

  const group = (name, texts) => {
    const made = make("optgroup");
    made.label = name;
    made.append(...texts.map(option));
    return made;
  };

  const listSizes = () => {
    const own = [...exhibit().querySelectorAll(`.sheet th[data-attack]`)];
    const before = sizes[find("eps").value];
    sizes = [...new Set(own.filter((head) => head.dataset.attack === find("attack").value).map((head) => head.dataset.eps))];
    find("eps").max = Math.max(sizes.length - 1, 0);
    find("eps").disabled = sizes.length < 2;
    find("eps").value = sizes.includes(before) ? sizes.indexOf(before) : sizes.length - 1;
  };

  const listAttacks = () => {
    const before = find("attack").value;
    const own = [...exhibit().querySelectorAll(".sheet th[data-attack]")].map((head) => head.dataset.attack);
    attacks = [...new Set(own)];
    if (attacks.length > 1) attacks = attacks.filter((name) => name !== "clean");
    find("attack").replaceChildren(...attacks.map(option));
    if (attacks.includes(before)) find("attack").value = before;
    else find("attack").selectedIndex = attacks.length - 1;
    listSizes();
  };

  const listImages = () => {
    const before = exhibit()?.dataset.id;
    const damage = (one) => Number(one.dataset.damage);
    const sign = { chosen: 0, damaged: -1, survived: 1 }[find("order").value];
    order = [...exhibits].sort((a, b) => sign * (damage(a) - damage(b)));
    const rooms = new Set(exhibits.map((one) => one.dataset.room));
    const label = (one) =>
      [...(rooms.size > 1 ? [one.dataset.room] : []), one.dataset.id, one.dataset.name, one.dataset.tasks].filter(Boolean).join(" · ");
    const kinds = new Set(exhibits.map((one) => one.dataset.kind));
    if (sign === 0 && kinds.size > 1) {
      order = [...kinds].flatMap((kind) => exhibits.filter((one) => one.dataset.kind === kind));
      find("image").replaceChildren(...[...kinds].map((kind) => group(kind, order.filter((one) => one.dataset.kind === kind).map(label))));
    } else {
      find("image").replaceChildren(...order.map((one) => option(label(one))));
    }
    find("image").selectedIndex = sign === 0 ? Math.max(order.findIndex((one) => one.dataset.id === before), 0) : 0;
  };

  const step = (name, by) => {
    const control = find(name);
    const count = control.options.length;
    control.selectedIndex = (control.selectedIndex + by + count) % count;
    if (name === "image") listAttacks();
    else listSizes();
    show();
  };

  const stepEps = (by) => {
    find("eps").value = Number(find("eps").value) + by;
    show();
  };

  const blink = () => {
    const button = find("blink");
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    show();
  };

  const keys = {
    ArrowLeft: () => step("image", -1),
    ArrowRight: () => step("image", 1),
    ArrowUp: () => stepEps(1),
    ArrowDown: () => stepEps(-1),
    a: () => step("attack", 1),
    A: () => step("attack", -1),
    " ": blink,
  };

  stage.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  find("image").addEventListener("change", () => { listAttacks(); show(); });
  find("order").addEventListener("change", () => { listImages(); listAttacks(); show(); });
  find("attack").addEventListener("change", () => { listSizes(); show(); });
  find("eps").addEventListener("input", show);
  find("amplify").addEventListener("input", show);
  find("opacity").addEventListener("input", () => {
    find("opacity-text").textContent = find("opacity").value;
    stage.style.setProperty("--opacity", find("opacity").value / 100);
  });
  find("back").addEventListener("click", () => step("image", -1));
  find("next").addEventListener("click", () => step("image", 1));
  find("blink").addEventListener("click", blink);

  viewer.hidden = false;
  document.querySelector(".sheets").open = false;
  listImages();
  listAttacks();
  show();
})();
