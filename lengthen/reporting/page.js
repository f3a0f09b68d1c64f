// Figures with the same x axis zoom together, and all hide the same curves; plotly does the rest.
"use strict";
(() => {
  const PAPER = 680; // pixels of width on an A4 page or a letter
  const [HEIGHT, LINE] = [200, 22]; // pixels: of a narrow plot, and of a name below it
  const plots = [...document.querySelectorAll(".plotly-graph-div")];
  let following = false; // what a figure does because another did it goes no further

  async function followed(changes) {
    following = true;
    await Promise.all(changes);
    following = false;
  }

  function zoomed(from) {
    const { range, autorange } = from.layout.xaxis;
    const alike = plots.filter((plot) => plot !== from && plot.layout.meta === from.layout.meta);
    const change = autorange ? { "xaxis.autorange": true } : { "xaxis.range": range };
    return followed(alike.map((plot) => Plotly.relayout(plot, change)));
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
      // The ticks of a logarithmic axis are for all of it.
      if (names.includes("yaxis.range")) Plotly.relayout(plot, { "yaxis.tickmode": "auto" });
    });
    plot.on("plotly_restyle", ([change]) => {
      if (!following && "visible" in change) hid(plot);
    });
  }

  // Beside a figure there is no room for its legend on a narrow screen: it goes below.
  const drawn = plots.map(({ layout: { legend, height, margin } }) => ({ legend, height, margin }));
  const below = (plot) => {
    const names = [...new Set(plot.data.map((trace) => trace.name))].join("<br>").split("<br>");
    const [above, beneath] = [30, 50 + LINE * names.length];
    return {
      legend: { orientation: "h", x: 0, y: -50 / HEIGHT, maxheight: 1, tracegroupgap: 0 },
      margin: { ...plot.layout.margin, t: above, b: beneath },
      height: above + HEIGHT + beneath,
    };
  };
  function arrange(width, narrow) {
    plots.forEach((plot, at) => {
      const change = narrow ? below(plot) : drawn[at];
      plot.style.height = `${change.height}px`; // plotly fills what is around it
      Plotly.relayout(plot, { width, ...change });
    });
  }
  const narrow = matchMedia("(max-width: 700px)");
  const onScreen = () => arrange(null, narrow.matches);
  narrow.addEventListener("change", onScreen);
  if (narrow.matches) onScreen();
  addEventListener("beforeprint", () => arrange(PAPER, false));
  addEventListener("afterprint", onScreen);

  // A figure for a paper: what is shown, on white.
  const paper = { width: 720, height: 400, paper_bgcolor: "white" };
  const download = ({ target: button }) => {
    const figure = button.closest("figure");
    const plot = figure.querySelector(".plotly-graph-div");
    const { legend, height, margin } = drawn[plots.indexOf(plot)];
    const size = { ...paper, height: Math.max(paper.height, height) };
    const data = plot.data.filter((trace) => trace.visible !== "legendonly");
    const [format, filename] = [button.dataset.format.toLowerCase(), figure.innerText.split("\n")[0]];
    const shown = { data, layout: { ...plot.layout, ...size, legend, margin } };
    Plotly.downloadImage(shown, { ...size, format, filename, scale: format === "png" ? 3 : 1 });
  };
  document.querySelectorAll("[data-format]").forEach((button) => (button.onclick = download));
})();
