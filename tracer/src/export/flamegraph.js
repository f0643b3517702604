// Zoom and search of a flame graph. Reads and writes text and numbers only, never markup.
const MARGIN = 10, ROOM = 1180, CHARACTER = 7.2;
const flames = [...document.querySelectorAll("g.f")].map((g) => {
  const [title, rect, text] = g.children;
  const at = (name) => Number(rect.getAttribute(name));
  return { g, rect, text, x: at("x"), y: at("y"), width: at("width"), fill: rect.getAttribute("fill"),
    title: title.textContent, name: title.textContent.replace(/ \([^()]*\)$/, "") };
});
function place(flame, x, width) {
  flame.rect.setAttribute("x", x);
  flame.rect.setAttribute("width", Math.max(width, 0));
  flame.text.setAttribute("x", x + 3);
  const room = Math.floor((width - 4) / CHARACTER);
  const name = flame.name;
  flame.text.textContent = name.length <= room ? name : room < 3 ? "" : name.slice(0, room - 2) + "..";
}
function zoom(to) {
  const scale = ROOM / to.width, slack = 0.02;
  for (const flame of flames) {
    const within = flame.x >= to.x - slack && flame.x + flame.width <= to.x + to.width + slack && flame.y <= to.y;
    const below = flame.y > to.y && flame.x <= to.x + slack && flame.x + flame.width >= to.x + to.width - slack;
    flame.g.style.display = within || below ? "" : "none";
    if (within) place(flame, MARGIN + (flame.x - to.x) * scale, flame.width * scale);
    if (below) place(flame, MARGIN, ROOM);
  }
}
for (const flame of flames) flame.g.addEventListener("click", () => zoom(flame));
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey && event.key === "f")) return;
  event.preventDefault();
  const wanted = prompt("Mark functions whose name contains:", "");
  for (const flame of flames) {
    flame.rect.setAttribute("fill", wanted && flame.title.includes(wanted) ? "hsl(320,90%,60%)" : flame.fill);
  }
});
