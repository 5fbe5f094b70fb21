"use strict";
// Filters, order, opacity and keys of the gallery. The cards are in the page already; here they are only hidden and moved.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;
  const holder = find("cards");
  const cards = [...holder.children];
  const several = data.models.length > 1;
  const control = {};
  for (const id of ["shown", "opacity", "boxes", "from", "to", "class", "outcome", "order", "count"]) control[id] = find(id);

  const option = (select, value, text) => {
    const each = document.createElement("option");
    each.value = value;
    each.textContent = text;
    select.append(each);
  };
  const title = (name) => data.titles[name] || name;
  const classes = [...new Set(data.cards.map((card) => card.c))];
  classes.sort((a, b) => title(a).localeCompare(title(b)));
  for (const name of classes) option(control.class, "=" + name, title(name));

  const knowsOutcome = data.cards.some((card) => card.o.some((right) => right !== null));
  option(control.outcome, "", "all");
  const outcomes = several ? data.outcomes : ["right", "wrong"];
  if (knowsOutcome) for (const name of outcomes) option(control.outcome, name, name);

  const orders = several
    ? [["", "as in the data"], ["h+", "gain in CH"], ["h-", "loss in CH"], ["f+", "gain in confidence"],
       ["f-", "loss in confidence"], ["H+", "highest CH (to)"], ["H-", "lowest CH (to)"], ["F+", "most confident (to)"], ["F-", "least confident (to)"]]
    : [["", "as in the data"], ["H+", "highest CH"], ["H-", "lowest CH"], ["F+", "most confident"], ["F-", "least confident"]];
  for (const [value, text] of orders) option(control.order, value, text);
  if (several) control.to.value = String(data.models.length - 1);

  const outcome = (card, from, to) => {
    const [a, b] = [card.o[from], card.o[to]];
    if (a === null || b === null) return null;
    if (!several) return b ? "right" : "wrong";
    return a ? (b ? "both right" : "broken") : (b ? "fixed" : "both wrong");
  };

  const worth = (card, order, from, to) => {
    const values = card[order[0].toLowerCase()];
    const gain = order[0] === order[0].toLowerCase();
    if (values[to] === null || (gain && values[from] === null)) return null;
    const value = gain ? values[to] - values[from] : values[to];
    return order[1] === "+" ? value : -value;
  };

  let standing = data.cards.map((_, i) => i).join(); // the order that the cards are in now: moving them is slow
  const arrange = () => {
    const [from, to] = [Number(control.from.value), Number(control.to.value)];
    const order = control.order.value;
    const places = data.cards.map((_, i) => i);
    if (order) {
      const worths = data.cards.map((card) => worth(card, order, from, to));
      const rank = (i) => (worths[i] === null ? -Infinity : worths[i]); // what has no score stands last
      places.sort((i, j) => (rank(i) === rank(j) ? i - j : rank(j) - rank(i)));
    }
    const wanted = control.outcome.value;
    const name = control.class.value;
    let visible = 0;
    for (const i of places) {
      const card = data.cards[i];
      const shown = (!name || "=" + card.c === name) && (!wanted || outcome(card, from, to) === wanted);
      cards[i].hidden = !shown;
      visible += shown ? 1 : 0;
    }
    if (places.join() !== standing) holder.append(...places.map((i) => cards[i]));
    standing = places.join();
    control.count.value = `${visible} of ${cards.length} images`;
  };

  // One rule of style for the whole page: thousands of panels need not be touched.
  const rule = document.createElement("style");
  document.head.append(rule);
  const look = () => {
    const shown = control.shown.value;
    rule.textContent = shown === "all" ? "" : `.panels .model:not([data-model="${shown}"]) { display: none; }`;
    const panels = shown === "all" ? data.models.length + 1 : 2;
    root.style.setProperty("--card", `${Math.min(140 * panels + 30, 1400)}px`);
    root.style.setProperty("--heat", control.opacity.value);
    holder.classList.toggle("no-regions", !control.boxes.checked);
  };

  const cycle = (step) => {
    if (!several) return;
    const now = control.shown.value === "all" ? (step > 0 ? -1 : 0) : Number(control.shown.value);
    control.shown.value = String((now + step + data.models.length) % data.models.length);
    look();
  };
  const current = () => document.activeElement && document.activeElement.closest(".card");
  const move = (step) => {
    const visible = [...holder.children].filter((card) => !card.hidden);
    if (!visible.length) return;
    const at = visible.indexOf(current());
    const next = at < 0 ? (step > 0 ? 0 : visible.length - 1) : Math.min(Math.max(at + step, 0), visible.length - 1);
    visible[next].focus({ preventScroll: true });
    visible[next].scrollIntoView({ block: "nearest" });
  };
  let before = 0.75;
  const opacity = (value) => {
    control.opacity.value = String(value);
    look();
  };
  const keys = {
    j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1),
    m: () => cycle(1), M: () => cycle(-1),
    s: () => { if (several) { control.shown.value = control.shown.value === "all" ? control.to.value : "all"; look(); } },
    b: () => { control.boxes.checked = !control.boxes.checked; look(); },
    "+": () => opacity(Number(control.opacity.value) + 0.1), "=": () => opacity(Number(control.opacity.value) + 0.1),
    "-": () => opacity(Number(control.opacity.value) - 0.1),
    0: () => {
      const now = Number(control.opacity.value);
      if (now > 0) before = now;
      opacity(now > 0 ? 0 : before);
    },
    z: () => { const card = current(); if (card) { card.classList.toggle("large"); card.scrollIntoView({ block: "nearest" }); } },
    c: () => control.class.focus(),
    "?": () => { find("keys").open = !find("keys").open; },
  };
  keys.Enter = keys.z;
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    if (at.closest("select, input, button, summary, a") || (event.key.startsWith("Arrow") && at.closest(".scroll"))) return;
    event.preventDefault();
    keys[event.key]();
  });

  for (const id of ["from", "to", "class", "outcome", "order"]) control[id].addEventListener("change", arrange);
  for (const id of ["shown", "boxes"]) control[id].addEventListener("change", look);
  control.opacity.addEventListener("input", look);
  if (several) find("next").addEventListener("click", () => cycle(1));
  find("toolbar").addEventListener("submit", (event) => event.preventDefault());
  find("toolbar").hidden = false;
  find("keys").hidden = false;
  look();
  arrange();
})();
