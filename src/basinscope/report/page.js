"use strict";
// figures take the place of their pictures, table by table a click on a heading sorts
for (const [n, figure] of JSON.parse(document.getElementById("figures").textContent).entries()) {
  const place = document.getElementById("figure-" + n);
  if (!place || !window.Plotly) continue;
  place.parentElement.classList.add("live");
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const text = row.cells[head.cellIndex].textContent, number = parseFloat(text.replace(/^\[/, ""));
      return [Number.isNaN(number) ? (text === "not reached" ? Infinity : null) : number, text];
    };
    const order = (a, b) => {
      const [x, s] = key(a), [y, t] = key(b);
      return x !== null && y !== null ? x - y : x !== null ? -1 : y !== null ? 1 : s < t ? -1 : s > t ? 1 : 0;
    };
    body.append(...Array.from(body.rows).sort((a, b) => up ? order(a, b) : order(b, a)));
  });
}
