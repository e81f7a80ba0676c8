// The score explorer. No library, nothing fetched: data are scripts and pictures beside this one, so it works from a disk.
// All text that comes from data is set as text, never as HTML.
(function () {
  "use strict";

  const SETS = { C: "candidate", I: "independent", S: "shared", E: "external" };
  const ROLES = {
    C: "f was trained on it, g was not",
    I: "g was trained on it, f was not",
    S: "both f and g were trained on it",
    E: "neither f nor g was trained on it",
  };
  const PAGE = 60; // images added at a time
  const STEPS = 200; // of the two sliders
  const waiting = [];
  window.sslmemExplorerData = (data) => waiting.push(data);

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function shown(value) {
    if (value === null || value === undefined) return "not measured";
    if (typeof value === "string") return value;
    return Number.isInteger(value) ? String(value) : value.toPrecision(3);
  }

  function start(root) {
    const form = root.querySelector("form");
    const field = (name) => form.elements.namedItem(name);
    const part = (name) => root.querySelector(`.sslmem-ex-${name}`);
    const base = root.dataset.base;
    const fixed = [...field("value").options].map((one) => [one.value, one.text]);
    const loaded = new Map();
    let data, series, records, kept, limit, pinned, current;

    // ------------------------------------------------------------ data
    function load(file) {
      if (!loaded.has(file)) {
        const script = element("script", { src: base + file });
        const done = new Promise((resolve, reject) => {
          script.onload = () => resolve(waiting.pop());
          script.onerror = () => reject(new Error(file));
        });
        loaded.set(file, done);
        document.head.append(script);
      }
      return loaded.get(file);
    }

    async function chooseDataset() {
      const file = field("dataset").value;
      try {
        const found = await load(file);
        if (file !== field("dataset").value) return; // another one was chosen meanwhile
        data = found;
      } catch {
        note(`The file ${file} of this page is missing; build the book again.`);
        return;
      }
      field("series").replaceChildren(...data.series.map((one, at) => new Option(one.method, at)));
      chooseSeries();
    }

    function chooseSeries() {
      series = data.series[field("series").value];
      const groups = series.groups.map((at) => data.groups[at]);
      const places = groups.map((group) => new Map(group.rows.map((row, at) => [row, at])));
      const viewed = new Map(series.views ? series.views.rows.map((row, at) => [row, at]) : []);
      records = series.rows.map((row, at) => ({
        row,
        at,
        set: series.sets[at],
        label: series.labels[at],
        tile: series.tiles ? series.tiles[at] : null,
        view: viewed.has(row) ? viewed.get(row) : null,
        others: groups.map((group, which) => {
          const place = places[which].get(row);
          return place === undefined ? null : group.columns.map((column) => column.values[place]);
        }),
      }));
      const labels = [...new Set(series.labels)].sort((a, b) => a - b);
      const before = field("class").value;
      const names = labels.map((label) => new Option(className(label), label));
      field("class").replaceChildren(new Option("all classes", ""), ...names);
      if (labels.map(String).includes(before)) field("class").value = before;
      for (const box of form.querySelectorAll("[name=set]")) {
        box.disabled = !series.sets.includes(box.value);
      }
      chooseValues(groups);
      note(data.why || series.why);
      pinned = null;
      resetRange();
      change();
    }

    function chooseValues(groups) {
      const before = field("value").value;
      const options = fixed.map(([key, name]) => new Option(name, key));
      groups.forEach((group, which) => {
        group.columns.forEach((column, at) => {
          const numbers = column.values.filter((value) => typeof value === "number");
          if (numbers.length > 1) options.push(new Option(`${column.name} (page ${number(group.page)})`, `${which}:${at}`));
        });
      });
      field("value").replaceChildren(...options);
      if (options.some((one) => one.value === before)) field("value").value = before;
    }

    const number = (page) => page.split("_")[0];
    function className(label) {
      const name = data.classes[label] === undefined ? String(label) : data.classes[label];
      return /^-?\d+$/.test(name) ? `class ${name}` : name;
    }
    const valueName = () => field("value").selectedOptions[0].text;

    function valueOf(record) {
      const [which, at] = field("value").value.split(":");
      if (at === undefined) return series.values[which][record.at];
      return record.others[which] === null ? null : record.others[which][at];
    }

    // ------------------------------------------------------------ filters
    function extent() {
      const values = records.map(valueOf).filter((value) => typeof value === "number");
      return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    }

    function resetRange() {
      field("low").value = 0;
      field("high").value = STEPS;
    }

    function bounds() {
      const [low, high] = extent();
      const at = (step) => low + ((high - low) * step) / STEPS;
      const steps = [Number(field("low").value), Number(field("high").value)];
      // the ends take in all images, whatever rounding does to them
      return { from: steps[0] > 0 ? at(steps[0]) : low, to: steps[1] < STEPS ? at(steps[1]) : high };
    }

    function change() {
      const sets = new Set([...form.querySelectorAll("[name=set]:checked")].map((box) => box.value));
      const { from, to } = bounds();
      const order = Number(field("order").value);
      const label = field("class").value;
      kept = records.filter((record) => {
        const value = valueOf(record);
        const inside = typeof value === "number" && value >= from && value <= to;
        return inside && sets.has(record.set) && (label === "" || record.label === Number(label));
      });
      kept.sort((a, b) => order * (valueOf(a) - valueOf(b)) || a.row - b.row);
      part("low").value = shown(from);
      part("high").value = shown(to);
      field("low").setAttribute("aria-valuetext", `from ${shown(from)}`);
      field("high").setAttribute("aria-valuetext", `to ${shown(to)}`);
      const word = kept.length === 1 ? "image" : "images";
      part("status").textContent = `${kept.length} of ${records.length} ${word}, by ${valueName()}`;
      limit = PAGE;
      part("grid").scrollTop = 0;
      plot();
      grid();
      if (!pinned) show(kept.includes(current) ? current : kept[0] || null);
    }

    function note(text) {
      part("note").textContent = text;
      part("note").hidden = !text;
    }

    // ------------------------------------------------------------ pictures
    function picture(sheet, tile, size, label) {
      const made = element("span", { class: "sslmem-ex-picture" });
      if (label) {
        made.setAttribute("role", "img");
        made.setAttribute("aria-label", label);
      }
      Object.assign(made.style, {
        width: `${size}px`,
        height: `${size}px`,
        backgroundImage: `url("${encodeURI(base + sheet.file)}")`,
        backgroundSize: `${sheet.columns * size}px ${sheet.lines * size}px`,
        backgroundPosition: `-${(tile % sheet.columns) * size}px -${Math.floor(tile / sheet.columns) * size}px`,
      });
      return made;
    }

    function mark(set) {
      return element("span", { class: `sslmem-ex-mark sslmem-ex-${SETS[set]}`, "aria-hidden": "true" }, set);
    }

    // ------------------------------------------------------------ distribution
    let dots = [];

    function plot() {
      const holder = part("plot");
      const width = Math.max(260, holder.clientWidth || 600);
      const sets = Object.keys(SETS).filter((set) => series.sets.includes(set));
      const line = 74;
      const height = sets.length * line + 40;
      const [low, high] = extent();
      const span = high - low || 1;
      const x = (value) => 8 + ((value - low) / span) * (width - 16);
      const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
      const { from, to } = bounds();
      for (const tick of ticks(low, high, width / 90)) {
        svg.append(drawn("line", { class: tick === 0 ? "zero" : "tick", x1: x(tick), x2: x(tick), y1: 0, y2: height - 34 }));
        const anchor = x(tick) < 20 ? "start" : x(tick) > width - 20 ? "end" : "middle";
        svg.append(drawn("text", { class: "axis", x: x(tick), y: height - 20, "text-anchor": anchor }, String(Number(tick.toPrecision(6)))));
      }
      svg.append(drawn("text", { class: "axis", x: width / 2, y: height - 3, "text-anchor": "middle" }, valueName()));
      for (const end of [from, to]) {
        if (end !== low && end !== high) svg.append(drawn("line", { class: "end", x1: x(end), x2: x(end), y1: 0, y2: height - 34 }));
      }
      const inside = new Set(kept);
      const said = [];
      dots = [];
      sets.forEach((set, at) => {
        const some = records.filter((record) => record.set === set && typeof valueOf(record) === "number");
        const mean = some.reduce((sum, record) => sum + valueOf(record), 0) / some.length;
        const about = some.length ? `${some.length} images, mean ${shown(mean)}` : "not measured";
        said.push(`${SETS[set]} ${about}`);
        const floor = (at + 1) * line - 6;
        some.sort((a, b) => inside.has(b) - inside.has(a)); // those that fit the filters at the bottom, and on top
        const found = stacked(some, x, floor, line - 26);
        for (const dot of found.reverse()) {
          const off = inside.has(dot.record) ? "" : " off";
          svg.append(drawn("circle", { class: `dot sslmem-ex-${SETS[set]}${off}`, cx: dot.x, cy: dot.y, r: 2.4 }));
        }
        dots.push(...found);
        const text = drawn("text", { x: 8, y: at * line + 13, class: "set" });
        text.append(drawn("tspan", { class: "name" }, SETS[set]), drawn("tspan", { dx: 8 }, about));
        svg.append(text);
      });
      svg.append(drawn("circle", { class: "ring", r: 6, cx: -20, cy: -20 }));
      svg.setAttribute("aria-label", `Distribution of ${valueName()}: ${said.join("; ")}.`);
      holder.replaceChildren(svg);
      ring();
    }

    // A pile of dots for every 5 pixels, the first images lowest; images keep their order.
    function stacked(some, x, floor, room) {
      const bins = new Map();
      for (const record of some) {
        const bin = Math.round(x(valueOf(record)) / 5);
        if (!bins.has(bin)) bins.set(bin, []);
        bins.get(bin).push(record);
      }
      const most = Math.max(1, ...[...bins.values()].map((bin) => bin.length));
      const step = Math.min(5, room / most);
      const places = new Map();
      for (const [bin, inside] of bins) {
        inside.forEach((record, at) => places.set(record, { record, x: bin * 5, y: floor - at * step }));
      }
      return some.map((record) => places.get(record));
    }

    function ticks(low, high, wanted) {
      const rough = (high - low) / Math.max(2, wanted) || 1;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
      const out = [];
      for (let at = Math.ceil(low / step); at * step <= high; at++) out.push(at === 0 ? 0 : at * step);
      return out;
    }

    function ring() {
      const dot = dots.find((one) => one.record === current);
      const found = part("plot").querySelector(".ring");
      if (found) {
        found.setAttribute("cx", dot ? dot.x : -20);
        found.setAttribute("cy", dot ? dot.y : -20);
      }
    }

    function nearest(event) {
      const box = part("plot").getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const inside = new Set(kept);
      let best = null;
      let least = 14 ** 2;
      for (const dot of dots) {
        const far = (dot.x - x) ** 2 + (dot.y - y) ** 2;
        if (far < least && inside.has(dot.record)) [best, least] = [dot.record, far];
      }
      return best;
    }

    // ------------------------------------------------------------ images
    function grid() {
      const tiles = kept.slice(0, limit).map((record, at) => {
        const button = element("button", { type: "button", class: "sslmem-ex-tile", "aria-pressed": "false" });
        button.tabIndex = at ? -1 : 0;
        button.record = record;
        if (record.tile !== null) button.append(picture(data.sheet, record.tile, 44));
        const words = `Image ${record.row}, ${className(record.label)}, ${SETS[record.set]}, ${valueName()} `;
        const below = element("span", { class: "sslmem-ex-below" }, mark(record.set), shown(valueOf(record)));
        if (record.tile === null) button.append(element("span", { class: "sslmem-ex-name", "aria-hidden": "true" }, className(record.label)));
        button.append(element("span", { class: "sslmem-ex-hidden" }, words), below);
        return element("li", {}, button);
      });
      part("grid").replaceChildren(...tiles);
      part("more").hidden = kept.length <= limit;
      press();
    }

    function press() {
      for (const tile of part("grid").querySelectorAll("button")) {
        tile.setAttribute("aria-pressed", String(tile.record === pinned));
        tile.classList.toggle("current", tile.record === current);
      }
    }

    function move(event) {
      const tiles = [...part("grid").querySelectorAll("button")];
      const at = tiles.indexOf(document.activeElement);
      const top = tiles.length ? tiles[0].parentElement.offsetTop : 0;
      const across = tiles.filter((tile) => tile.parentElement.offsetTop === top).length;
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
      let to = event.key in steps ? at + steps[event.key] : { Home: 0, End: tiles.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      to = Math.min(tiles.length - 1, Math.max(0, to));
      tiles.forEach((tile, which) => (tile.tabIndex = which === to ? 0 : -1));
      tiles[to].focus();
    }

    // ------------------------------------------------------------ one image
    function row(name, value) {
      return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, shown(value)));
    }

    function link(address, text) {
      return address ? element("a", { href: address }, text) : document.createTextNode(text);
    }

    function show(record) {
      current = record;
      const panel = part("chosen");
      if (record === null) {
        panel.replaceChildren(element("p", {}, "No image fits these filters."));
        press();
        ring();
        return;
      }
      const same = records.filter((one) => one.set === record.set);
      const rank = 1 + same.filter((one) => series.values.m_rel[one.at] > series.values.m_rel[record.at]).length;
      const name = `Image ${record.row}, ${className(record.label)}`;
      const parts = [element("p", { class: "sslmem-ex-title" }, name)];
      parts.push(element("p", { class: "sslmem-ex-where" }, mark(record.set), ` ${SETS[record.set]}: ${ROLES[record.set]}`));
      if (record.tile !== null) parts.push(pictures(record, name));
      const values = element("table", { class: "sslmem-ex-values" }, element("caption", {}, series.method));
      for (const [key, words] of fixed) values.append(row(words, series.values[key][record.at]));
      const error = series.values.se[record.at];
      if (error !== null) values.append(row(`standard error ${series.error}`, error));
      values.append(row(`rank by m_rel among the ${same.length} of its set`, `${rank}`));
      parts.push(values);
      series.groups.forEach((which, at) => {
        if (record.others[at] === null) return;
        const group = data.groups[which];
        const caption = element("caption", {}, "Other measures, ", link(group.address, `page ${number(group.page)}`), ` (${group.profile})`);
        const table = element("table", { class: "sslmem-ex-values" }, caption);
        group.columns.forEach((column, place) => {
          if (record.others[at][place] !== null) table.append(row(column.name, record.others[at][place]));
        });
        parts.push(table);
      });
      const made = element("p", { class: "sslmem-ex-made" }, "Made by ");
      made.append(series.page ? link(series.address, `page ${number(series.page)}`) : "sslmem score");
      made.append(`: ${series.about}; table `, element("code", {}, series.file));
      panel.replaceChildren(...parts, made);
      press();
      ring();
    }

    function pictures(record, name) {
      const box = element("div", { class: "sslmem-ex-pictures" }, picture(data.sheet, record.tile, 160, `${name}, enlarged`));
      const views = series.views;
      if (views && record.view !== null) {
        const each = [...Array(views.each).keys()].map((at) =>
          picture(views, record.view * views.each + at, 76, `View ${at + 1} of it`),
        );
        const words = `Left: the image. Right: ${views.each} of its ${views.compared} views that the score compares.`;
        box.append(element("div", { class: "sslmem-ex-views" }, ...each), element("p", {}, words));
      } else if (views) {
        box.append(element("p", {}, `Views are kept for ${views.rows.length} images of this experiment, not for this one.`));
      }
      return box;
    }

    function pin(record) {
      pinned = record === pinned ? null : record;
      show(record);
      const words = `Image ${record.row}, ${className(record.label)}, ${SETS[record.set]}, ${valueName()} ${shown(valueOf(record))}`;
      root.querySelector("[data-said]").textContent = pinned ? `${words}: kept` : "Not kept any longer";
      part("chosen").classList.toggle("pinned", pinned !== null);
      const seen = part("chosen").querySelector(".sslmem-ex-pictures, .sslmem-ex-values");
      if (pinned) seen.scrollIntoView({ block: "nearest" }); // on a phone it may lie below the screen
    }

    function unpin() {
      if (pinned) pin(pinned);
    }

    function preview(record) {
      if (!pinned && record && record !== current) show(record);
    }

    // ------------------------------------------------------------ events
    const tileOf = (event) => event.target.closest && event.target.closest(".sslmem-ex-tile");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => {
      event.preventDefault(); // dataset, method and value stay
      for (const box of form.querySelectorAll("[name=set]")) box.checked = true;
      field("class").value = "";
      resetRange();
      change();
    });
    form.addEventListener("change", (event) => {
      if (event.target.name === "dataset") chooseDataset();
      else if (event.target.name === "series") chooseSeries();
      else if (event.target.name === "value") {
        resetRange();
        change();
      } else if (event.target.type !== "range") change();
    });
    form.addEventListener("input", (event) => {
      if (event.target.type !== "range") return;
      const [low, high] = [field("low"), field("high")];
      if (Number(low.value) > Number(high.value)) event.target.value = event.target === low ? high.value : low.value;
      change();
    });
    part("grid").addEventListener("pointerover", (event) => tileOf(event) && preview(tileOf(event).record));
    part("grid").addEventListener("focusin", (event) => tileOf(event) && preview(tileOf(event).record));
    part("grid").addEventListener("click", (event) => tileOf(event) && pin(tileOf(event).record));
    part("grid").addEventListener("keydown", move);
    part("plot").addEventListener("pointermove", (event) => preview(nearest(event)));
    part("plot").addEventListener("click", (event) => nearest(event) && pin(nearest(event)));
    root.addEventListener("keydown", (event) => event.key === "Escape" && unpin());
    part("more").addEventListener("click", () => {
      const at = limit;
      limit += PAGE;
      grid();
      part("grid").querySelectorAll("button")[at].focus();
    });
    let width = 0;
    new ResizeObserver(() => {
      if (records && part("plot").clientWidth !== width) {
        width = part("plot").clientWidth;
        plot();
      }
    }).observe(part("plot"));
    root.hidden = false;
    chooseDataset();
  }

  document.querySelectorAll(".sslmem-explorer").forEach(start);
})();
