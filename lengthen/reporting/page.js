// Figures that are drawn when they come near, zoom together, and hide the same families.
"use strict";
(() => {
  const PAPER = { width: 680, height: 265 }; // pixels: three figures fill an A4 page or a letter
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const hidden = new Set(); // families that are switched off
  const ranges = new Map(); // name of an x axis -> [low, high] as values; absent: everything
  let resets = 0;

  class Figure {
    constructor(spec, element) {
      Object.assign(this, { spec, element, plot: element.querySelector(".plot") });
      Object.assign(this, { near: false, drawn: false, resets: 0, state: "" });
    }

    draw() {
      if (this.drawn) return;
      this.drawn = true;
      const { data, layout } = this.spec;
      const config = { displayModeBar: false, doubleClick: false, responsive: true };
      Plotly.newPlot(this.plot, data, layout, config);
      this.plot.on("plotly_relayout", (change) => this.zoomed(change));
      this.plot.on("plotly_doubleclick", resetAll);
      this.printKey();
      this.follow();
    }

    // A key of its own for paper, where the one that stays on screen is far away.
    printKey() {
      const families = new Set(this.spec.data.map((trace) => trace.legendgroup));
      const key = document.createElement("div");
      key.className = "printed";
      for (const button of document.querySelectorAll(".key")) {
        if (!families.has(button.dataset.family)) continue;
        const entry = document.createElement("span");
        entry.append(...button.cloneNode(true).childNodes);
        key.append(entry);
      }
      this.element.append(key);
    }

    get log() {
      return this.spec.layout.xaxis.type === "log";
    }

    // What the figure should show; where it is what it shows, nothing is drawn anew.
    wanted() {
      return JSON.stringify([ranges.get(this.spec.x) ?? null, [...hidden], resets]);
    }

    zoomed(change) {
      const low = change["xaxis.range[0]"] ?? change["xaxis.range"]?.[0];
      const high = change["xaxis.range[1]"] ?? change["xaxis.range"]?.[1];
      if (low === undefined || high === undefined) return;
      ranges.set(this.spec.x, [low, high].map((x) => (this.log ? 10 ** x : x)));
      this.state = this.wanted();
      followAll();
    }

    follow() {
      if (!this.drawn || !this.near || this.state === this.wanted()) return;
      this.state = this.wanted();
      const visible = this.spec.data.map((trace) => !hidden.has(trace.legendgroup));
      Plotly.update(this.plot, { visible }, this.axes());
    }

    axes() {
      const range = ranges.get(this.spec.x);
      const least = this.spec.layout.xaxis.autorangeoptions?.include[0] ?? 1;
      const place = (x) => (this.log ? Math.log10(Math.max(x, least)) : x);
      const change = range ? { "xaxis.range": range.map(place) } : { "xaxis.autorange": true };
      if (this.resets !== resets) change["yaxis.autorange"] = true;
      this.resets = resets;
      return change;
    }

    toggleLog(name, button) {
      const type = button.getAttribute("aria-pressed") === "true" ? "linear" : "log";
      button.setAttribute("aria-pressed", String(type === "log"));
      const nticks = type === "log" ? 3 : 0; // as figures.py has it
      Object.assign(this.spec.layout[name], { type, nticks });
      if (!this.drawn) return;
      const change = { type, nticks, autorange: true };
      const named = Object.entries(change).map(([key, value]) => [`${name}.${key}`, value]);
      Plotly.relayout(this.plot, Object.fromEntries(named));
      this.state = "";
      this.follow();
    }

    // The points as the page has them, a row each.
    csv() {
      const { data, x, y, title } = this.spec;
      const note = `# at most ${page.most} points a curve, ${page.digits} significant digits`;
      const rows = data.flatMap((trace) =>
        trace.x.map((at, i) => [trace.meta, at, trace.yaxis === "y2" ? "NaN" : trace.y[i]]),
      );
      const lines = [["curve", x, y], ...rows].map((row) => row.map(cell).join(","));
      const link = document.createElement("a");
      const text = [note, ...lines, ""].join("\n");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      link.download = `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }
  }

  function cell(value) {
    if (typeof value === "number") return String(value);
    // A spreadsheet takes a text that begins like this for a formula, and would run it.
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  const figures = page.figures.map(
    (spec, number) => new Figure(spec, document.getElementById(`figure-${number}`)),
  );
  const followAll = () => figures.forEach((figure) => figure.follow());

  function resetAll() {
    ranges.clear();
    resets += 1;
    followAll();
  }

  // One figure at a time, so that the page answers in between; not what was scrolled past.
  function drawNext() {
    const figure = figures.find((one) => one.near && !one.drawn);
    if (!figure) return;
    figure.draw();
    setTimeout(drawNext, 0);
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const figure = figures.find((one) => one.element === entry.target);
        figure.near = entry.isIntersecting;
        figure.follow();
      }
      setTimeout(drawNext, 0);
    },
    { rootMargin: "500px" },
  );

  function press(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    hidden[on ? "delete" : "add"](button.dataset.family);
  }

  // A double click on a key shows that family alone, and once more all of them.
  function isolate(button) {
    const keys = [...document.querySelectorAll(".key")];
    const others = keys.filter((key) => key !== button);
    const alone = others.every((key) => hidden.has(key.dataset.family));
    for (const key of keys) {
      const on = alone || key === button;
      if (on === hidden.has(key.dataset.family)) press(key);
    }
  }

  function listen() {
    for (const button of document.querySelectorAll(".key")) {
      button.addEventListener("click", () => (press(button), followAll()));
      button.addEventListener("dblclick", () => (isolate(button), followAll()));
    }
    for (const figure of figures) {
      for (const button of figure.element.querySelectorAll("[data-do]")) {
        const name = button.dataset.do;
        const act = name === "csv" ? () => figure.csv() : () => figure.toggleLog(name, button);
        button.addEventListener("click", act);
      }
    }
    document.getElementById("reset")?.addEventListener("click", resetAll);
  }

  function themes() {
    const root = document.documentElement;
    const button = document.getElementById("theme");
    const show = (dark) => {
      button.setAttribute("aria-pressed", String(dark));
      button.textContent = dark ? "Light" : "Dark";
    };
    button.addEventListener("click", () => {
      const dark = button.getAttribute("aria-pressed") !== "true";
      root.dataset.theme = dark ? "dark" : "light";
      show(dark);
    });
    show(matchMedia("(prefers-color-scheme: dark)").matches);
  }

  addEventListener("beforeprint", () => {
    for (const figure of figures) {
      figure.near = true;
      figure.draw();
      figure.follow();
      Plotly.relayout(figure.plot, PAPER);
    }
  });
  addEventListener("afterprint", () => figures.forEach((one) => Plotly.Plots.resize(one.plot)));

  document.documentElement.dataset.script = "on";
  listen();
  themes();
  figures.forEach((figure) => watcher.observe(figure.element));
})();
