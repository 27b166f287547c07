"use strict";
// The gallery of a page: the crops are JSON in the page; one page of them at a time is in the document.
(() => {
  const source = document.getElementById("crops-data");
  if (source === null) return;
  const crops = JSON.parse(source.textContent);
  const element = (id) => document.getElementById(id);
  const A_PAGE = 60;
  const uncertain = (crop) => Math.abs(crop.p - 0.5);
  const orders = {
    uncertain: (a, b) => uncertain(a) - uncertain(b) || a.n - b.n,
    highest: (a, b) => b.p - a.p || a.n - b.n,
    lowest: (a, b) => a.p - b.p || a.n - b.n,
    name: (a, b) => a.n - b.n,
  };
  let chosen = crops;
  let page = 0;

  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind !== undefined) node.className = kind;
    return node;
  };

  const card = (crop) => {
    const item = make("li", undefined, "is-" + crop.class);
    const says = crop.class + ", P " + crop.p.toFixed(3);
    if (crop.picture) {
      const picture = make("img");
      picture.alt = crop.name + ", crop " + crop.index + ": " + says;
      picture.width = picture.height = 96;
      picture.src = crop.picture;
      item.append(picture);
    } else {
      item.append(make("div", "no picture", "missing"));
    }
    const answer = make("p");
    answer.append(make("strong", crop.class, crop.class), " P " + crop.p.toFixed(3));
    const name = make("p", crop.name, "name");
    item.append(answer, name, make("p", "crop " + crop.index, "note"));
    for (const warning of crop.warnings) item.append(make("p", "⚠ " + warning, "warning"));
    return item;
  };

  const show = () => {
    const pages = Math.max(1, Math.ceil(chosen.length / A_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    element("crops").replaceChildren(...chosen.slice(page * A_PAGE, (page + 1) * A_PAGE).map(card));
    element("status").textContent =
      chosen.length + " of " + crops.length + " crops, page " + (page + 1) + " of " + pages;
    element("previous").disabled = page === 0;
    element("next").disabled = page === pages - 1;
  };

  const choose = () => {
    const kind = element("class").value;
    const least = Number(element("least").value || 0);
    const most = Number(element("most").value || 1);
    const text = element("text").value.toLowerCase();
    const warned = element("warned").checked;
    chosen = crops.filter(
      (crop) =>
        (kind === "" || crop.class === kind) && crop.p >= least && crop.p <= most &&
        (!warned || crop.warnings.length > 0) && crop.name.toLowerCase().includes(text)
    ).sort(orders[element("order").value]);
    page = 0;
    show();
  };

  for (const id of ["order", "class", "least", "most", "text", "warned"]) element(id).addEventListener("input", choose);
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("previous").addEventListener("click", () => { page -= 1; show(); });
  element("next").addEventListener("click", () => { page += 1; show(); });
  choose();
})();
