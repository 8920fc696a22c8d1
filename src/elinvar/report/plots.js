"use strict";
// Draw every embedded figure with the page's own colours, and again when the colour scheme changes or the page is printed.
(() => {
  const plots = [...document.querySelectorAll(".plot")];
  const colours = (print) => {
    if (print) return { ink: "#000000", soft: "#444444", line: "#cccccc", card: "#ffffff" };
    const style = getComputedStyle(document.documentElement);
    const pick = (name) => style.getPropertyValue("--" + name).trim();
    return { ink: pick("ink"), soft: pick("soft"), line: pick("line"), card: pick("card") };
  };
  const theme = (layout, c) => {
    const update = {
      "font.color": c.ink, "hoverlabel.bgcolor": c.card, "hoverlabel.bordercolor": c.line, "hoverlabel.font.color": c.ink,
      "title.font.color": c.ink, "legend.font.color": c.ink,
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": c.soft, "modebar.activecolor": c.ink,
    };
    const axes = new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((k) => /^[xy]axis\d*$/.test(k))]);
    for (const axis of axes) {
      Object.assign(update, {
        [axis + ".gridcolor"]: c.line, [axis + ".zerolinecolor"]: c.line, [axis + ".linecolor"]: c.line,
        [axis + ".tickfont.color"]: c.soft, [axis + ".title.font.color"]: c.soft,
      });
    }
    (layout.annotations || []).forEach((_, i) => { update["annotations[" + i + "].font.color"] = c.ink; });
    return update;
  };
  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    plotlyServerURL: "",  // no page sends what it shows to anybody
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendDataToCloud", "sendChartToCloud"],
  };
  const draw = plots.map(async (plot) => {
    const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    await Plotly.newPlot(plot, figure.data, figure.layout, config);
    await Plotly.relayout(plot, theme(plot.layout, colours(false)));
  });
  const repaint = (print) => plots.forEach((plot) => Plotly.relayout(plot, theme(plot.layout, colours(print))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint(false));
  addEventListener("beforeprint", () => repaint(true));
  addEventListener("afterprint", () => repaint(false));
  Promise.all(draw).then(() => { document.documentElement.dataset.plots = "done"; });
})();
