// The curves of the report: reads the JSON beside each chart, draws it with Plotly, and answers the
// controls above it. Arms, axis and seeds are chosen for all charts of a section, scales for each.
"use strict";

(() => {
  const END = { "not finite": "x-thin-open", unfinished: "circle-open" };
  // Too dark for a dark page
  const IN_THE_DARK = { "#555555": "#b4bac1", "#0072b2": "#3a9ad9" };
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)");

  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (value) => String(Number(value.toPrecision(4))).replace("-", "\u2212");
  const shade = (colour) => (dark.matches && IN_THE_DARK[colour]) || colour;
  // At most 1, 2 and 5 of a decade; 0 leaves it to Plotly, which is right within one decade
  const ticks = ({ type, range: [low, high] }) =>
    type === "log" && high - low > 0.999 ? Math.floor((high - low) / 0.31) : 0;
  const clear = (colour, alpha) => {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${red},${green},${blue},${alpha})`;
  };

  class Chart {
    constructor(figure, section) {
      this.div = figure.querySelector(".chart");
      this.readout = figure.querySelector(".readout");
      this.data = JSON.parse(figure.querySelector("script").textContent);
      this.section = section;
      this.logX = figure.querySelector("[name=log_x]");
      this.logY = figure.querySelector("[name=log_y]");
      this.at = -1; // of the steps, where the arrow keys are
      const lowest = Math.min(
        ...this.data.arms.flatMap((arm) => [
          ...(arm.spread ? arm.spread.low : []),
          ...arm.lost.flatMap((run) => run.values),
        ]),
      );
      if (!(lowest > 0)) {
        this.logY.disabled = true;
        this.logY.parentElement.title = "there are values of zero or less";
      }
      this.logX.checked = this.data.log_x;
      this.logY.checked = this.data.log_y && !this.logY.disabled;
      this.div.replaceChildren();
      figure.querySelector(".scales").hidden = false;
      for (const box of [this.logX, this.logY]) box.addEventListener("change", () => this.draw());
      this.div.addEventListener("keydown", (event) => this.key(event));
      this.div.addEventListener("blur", () => this.leave());
    }

    // A label of one line an arm has no room for more than the mean
    narrow() {
      return this.div.clientWidth < 560;
    }

    shown() {
      return this.data.arms.filter((_, index) => this.section.arms.has(index));
    }

    empty() {
      return this.shown().every(({ spread, lost }) => !spread && !lost.length);
    }

    across(curve) {
      if (this.section.x === "seconds") return curve.seconds;
      const unit = this.section.x === "x" ? this.data.steps_per_x : 1;
      return curve.steps.map((step) => step / unit);
    }

    traces() {
      const bands = [];
      const lines = [];
      const means = [];
      for (const arm of this.shown()) {
        const colour = shade(arm.colour);
        const dash = arm.dashes.map((length) => `${length}px`).join(",") || "solid";
        const name = escaped(arm.name);
        const quiet = { mode: "lines", hoverinfo: "skip", showlegend: false };
        if (arm.spread) {
          const spread = arm.spread;
          const x = this.across(spread);
          if (arm.seeds.length > 1) {
            bands.push({
              ...quiet,
              x: [...x, ...[...x].reverse()],
              y: [...spread.high, ...[...spread.low].reverse()],
              fill: "toself",
              fillcolor: clear(colour, dark.matches ? 0.22 : 0.15),
              line: { width: 0 },
            });
          }
          if (this.section.seeds) {
            for (const y of spread.each) {
              lines.push({ ...quiet, x, y, opacity: 0.75, line: { color: colour, width: 1 } });
            }
          }
          means.push({
            mode: x.length > 1 ? "lines" : "markers",
            marker: { color: colour, size: 8 },
            name,
            x,
            y: spread.mean,
            line: { color: colour, width: 2.5, dash },
            zorder: 1, // above the others, which come after it in the label
            text: spread.mean.map((_, i) => this.about(arm, i)),
            hovertemplate: "%{text}",
          });
        }
        for (const run of arm.lost) {
          lines.push({
            mode: "lines+markers",
            name: `${name}, seed ${run.seed}`,
            x: this.across(run),
            y: run.values,
            opacity: 0.9,
            line: { color: colour, width: 1.25, dash: "2px,2px" },
            marker: {
              symbol: END[run.status],
              color: colour,
              size: run.values.map((_, i) => (i === run.values.length - 1 ? 9 : 0)),
              line: { color: colour, width: 2 },
            },
            text: run.values.map((value) =>
              this.narrow() ? short(value) : `${short(value)} (${run.status} at ${run.step})`,
            ),
            hovertemplate: "%{text}",
          });
        }
      }
      return [...bands, ...means, ...lines];
    }

    about(arm, i) {
      const { mean, low, high, each } = arm.spread;
      if (each.length < 2 || this.narrow()) return `<b>${short(mean[i])}</b>`;
      const beside = this.section.seeds
        ? each.map((values) => short(values[i])).join(", ")
        : `${short(low[i])} to ${short(high[i])}`;
      return `<b>${short(mean[i])}</b>  (${beside})`;
    }

    // Of the finished runs: one that diverges would press all others flat.
    range() {
      const spreads = this.shown().map((arm) => arm.spread).filter(Boolean);
      if (!spreads.length) return undefined;
      const scale = this.logY.checked ? Math.log10 : (value) => value;
      const low = Math.min(...spreads.flatMap((spread) => spread.low.map(scale)));
      const high = Math.max(...spreads.flatMap((spread) => spread.high.map(scale)));
      const room = 0.05 * (high - low) || 0.1;
      return [low - room, high + room];
    }

    layout() {
      const style = getComputedStyle(document.documentElement);
      const of = (name) => style.getPropertyValue(name).trim();
      const unit = this.section.x === "x" ? this.data.x : this.section.x;
      const axis = {
        gridcolor: of("--line"),
        linecolor: of("--quiet"),
        tickcolor: of("--quiet"),
        zerolinecolor: of("--line"),
        tickformat: "~g",
        automargin: true,
      };
      const range = this.range();
      return {
        autosize: true,
        margin: { l: 8, r: 12, t: 8, b: 8 },
        paper_bgcolor: of("--page"),
        plot_bgcolor: of("--page"),
        font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: of("--ink") },
        showlegend: false,
        hovermode: "x unified",
        hoverlabel: {
          bgcolor: of("--page"),
          bordercolor: of("--quiet"),
          font: { size: 13 },
          namelength: -1,
        },
        annotations: this.empty() ? [{ text: "no values", showarrow: false }] : [],
        dragmode: fine.matches ? "zoom" : false,
        // What was zoomed into stays, unless it means something else now
        uirevision: [this.section.x, this.logX.checked, this.logY.checked].join(),
        xaxis: {
          ...axis,
          type: this.logX.checked ? "log" : "linear",
          rangemode: this.logX.checked ? "normal" : "tozero",
          title: { text: escaped(unit), standoff: 8, font: { size: 13 } },
          unifiedhovertitle: { text: `${escaped(unit)}: %{x:.6~r}` },
          showspikes: true,
          spikemode: "across",
          spikethickness: 1,
          spikedash: "solid",
          spikecolor: of("--quiet"),
        },
        yaxis: {
          ...axis,
          type: this.logY.checked ? "log" : "linear",
          title: { text: escaped(this.data.label), standoff: 8, font: { size: 13 } },
          ...(range ? { range } : { autorange: true }),
        },
      };
    }

    async draw() {
      await Plotly.react(this.div, this.traces(), this.layout(), {
        responsive: true,
        doubleClick: fine.matches ? "reset" : false,
        displaylogo: false,
        displayModeBar: fine.matches ? "hover" : false,
        // All of them: by itself Plotly offers to send the data to its makers.
        modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
        showSendToCloud: false,
        plotlyServerURL: "",
        toImageButtonOptions: { format: "svg", filename: this.data.label },
      });
      if (this.seen === undefined) this.div.on("plotly_relayout", () => this.see());
      this.seen = ""; // the layout has none of it again
      return this.see();
    }

    // What depends on the part that is in sight. A label names the curves that have a point within
    // `hoverdistance` pixels: the widest gap, so that it is never empty, and a curve that has ended
    // is not in it much longer.
    see() {
      const { xaxis, yaxis } = this.div.layout;
      const [from, to] = xaxis.range;
      const scale = xaxis.type === "log" ? Math.log10 : (value) => value;
      const gaps = this.shown().flatMap(({ spread, lost }) =>
        [...(spread ? [spread] : []), ...lost].flatMap((curve) => {
          const x = this.across(curve).map(scale);
          return x.slice(1).flatMap((b, i) => (b > from && x[i] < to ? [b - x[i]] : []));
        }),
      );
      const widest = (Math.max(0, ...gaps) * this.div.clientWidth) / (to - from);
      const update = {
        hoverdistance: Math.max(20, Math.ceil(widest)),
        "xaxis.nticks": ticks(xaxis),
        "yaxis.nticks": ticks(yaxis),
      };
      const seen = JSON.stringify(update);
      if (seen === this.seen) return undefined;
      this.seen = seen;
      return Plotly.relayout(this.div, update);
    }

    key(event) {
      const grid = [
        ...new Set(this.shown().flatMap((arm) => (arm.spread ? this.across(arm.spread) : []))),
      ].sort((a, b) => a - b);
      if (event.key === "Escape") return this.leave();
      const to = {
        ArrowLeft: this.at < 0 ? grid.length - 1 : Math.max(this.at - 1, 0),
        ArrowRight: Math.min(this.at + 1, grid.length - 1),
        Home: 0,
        End: grid.length - 1,
      }[event.key];
      if (to === undefined || !grid.length) return undefined;
      event.preventDefault();
      this.at = to;
      const x = grid[to];
      Plotly.Fx.hover(this.div, { xval: this.logX.checked ? Math.log10(x) : x }, ["xy"]);
      const said = this.shown()
        .filter((arm) => arm.spread)
        .map((arm) => {
          const own = this.across(arm.spread);
          const i = own.reduce((a, b, j) => (Math.abs(b - x) < Math.abs(own[a] - x) ? j : a), 0);
          return `${arm.name} ${this.about(arm, i).replace(/<\/?b>/g, "")}`;
        });
      const unit = this.section.x === "x" ? this.data.x : this.section.x;
      this.readout.textContent = `${unit} ${short(x)}: ${said.join("; ")}`;
      return undefined;
    }

    leave() {
      this.at = -1;
      this.readout.textContent = "";
      Plotly.Fx.unhover(this.div);
    }
  }

  class Section {
    constructor(element) {
      const controls = element.querySelector(".controls");
      this.boxes = [...controls.querySelectorAll("[name=arm]")];
      this.each = controls.querySelector("[name=seeds]");
      this.axis = [...controls.querySelectorAll("[type=radio]")];
      this.read();
      this.charts = [...element.querySelectorAll(".curves")].map((each) => new Chart(each, this));
      controls.hidden = !this.charts.length;
      controls.addEventListener("change", () => this.change());
      for (const [index, box] of this.boxes.entries()) {
        box.parentElement.title = "double-click: this one alone, or all again";
        box.parentElement.addEventListener("dblclick", () => this.alone(index));
      }
    }

    read() {
      this.arms = new Set(this.boxes.flatMap((box, index) => (box.checked ? [index] : [])));
      this.seeds = this.each.checked;
      this.x = this.axis.find((radio) => radio.checked).value;
    }

    change() {
      this.read();
      this.draw();
    }

    alone(index) {
      const already = this.arms.size === 1 && this.arms.has(index);
      this.boxes.forEach((box, other) => (box.checked = already || other === index));
      this.change();
    }

    draw() {
      return Promise.all(this.charts.map((chart) => chart.draw()));
    }
  }

  const sections = [...document.querySelectorAll(".part")].map((each) => new Section(each));
  const drawAll = () => Promise.all(sections.map((section) => section.draw()));

  function shadeSwatches() {
    for (const swatch of document.querySelectorAll(".swatch")) {
      swatch.firstElementChild.setAttribute("stroke", shade(swatch.dataset.colour));
    }
  }

  const dialog = document.querySelector("dialog");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const image = button.firstElementChild;
      Object.assign(dialog.querySelector("img"), { src: image.src, alt: image.alt });
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  const resize = () => {
    for (const { charts } of sections) for (const { div } of charts) Plotly.Plots.resize(div);
  };
  dark.addEventListener("change", () => {
    shadeSwatches();
    drawAll();
  });
  addEventListener("beforeprint", resize);
  addEventListener("afterprint", resize);

  document.documentElement.classList.add("js");
  shadeSwatches();
  drawAll();
})();
