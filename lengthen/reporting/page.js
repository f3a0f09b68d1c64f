// Figures with the same x axis zoom together, and all hide the same curves; plotly does the rest.
"use strict";
(() => {
  const PAPER = 680; // pixels of width on an A4 page or a letter
  const plots = [...document.querySelectorAll(".plotly-graph-div")];
  const log = (plot) => plot.layout.xaxis.type === "log";
  let following = false; // what a figure does because another did it goes no further

  async function followed(changes) {
    following = true;
    await Promise.all(changes);
    following = false;
  }

  function zoomed(from) {
    const { range, autorange } = from.layout.xaxis;
    const alike = plots.filter((plot) => plot !== from && plot.layout.meta === from.layout.meta);
    const values = range.map((x) => (log(from) ? 10 ** x : x));
    const change = (to) => {
      if (autorange) return { "xaxis.autorange": true };
      const least = to.layout.xaxis.autorangeoptions.include[0] ?? 1;
      return { "xaxis.range": values.map((x) => (log(to) ? Math.log10(Math.max(x, least)) : x)) };
    };
    return followed(alike.map((plot) => Plotly.relayout(plot, change(plot))));
  }

  function hid(from) {
    const shown = new Map(from.data.map((trace) => [trace.legendgroup, trace.visible ?? true]));
    const change = (to) => to.data.map((one) => shown.get(one.legendgroup) ?? one.visible ?? true);
    const others = plots.filter((plot) => plot !== from);
    return followed(others.map((plot) => Plotly.restyle(plot, { visible: change(plot) })));
  }

  for (const plot of plots) {
    plot.on("plotly_relayout", (change) => {
      const names = Object.keys(change).join();
      if (!following && /xaxis\.(auto)?range/.test(names)) zoomed(plot);
    });
    plot.on("plotly_restyle", ([change]) => {
      if (!following && "visible" in change) hid(plot);
    });
  }

  const button = document.getElementById("theme");
  function theme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
  }
  button.addEventListener("click", () => theme(button.textContent === "Dark"));
  theme(matchMedia("(prefers-color-scheme: dark)").matches);

  const resize = (width) => plots.forEach((plot) => Plotly.relayout(plot, { width }));
  addEventListener("beforeprint", () => resize(PAPER));
  addEventListener("afterprint", () => resize(null));
})();
