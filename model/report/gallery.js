"use strict";
// The gallery of a page: the crops are JSON in the page; one page of them at a time is in the document.
(() => {
  const source = document.getElementById("crops-data");
  if (source === null) return;
  const crops = JSON.parse(source.textContent);
  const element = (id) => document.getElementById(id);
  const A_PAGE = 60;
  const uncertain = (crop) => Math.abs(crop.p - 0.5);
  const several = Number(element("crops").dataset.views) > 1;
  const things = element("crops").dataset.things;
  const slide = element("slide");
  const orders = {
    uncertain: (a, b) => uncertain(a) - uncertain(b) || a.n - b.n,
    spread: (a, b) => b.spread - a.spread || a.n - b.n,
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

  const show = (address, says) => {
    const picture = make("img");
    picture.alt = says;
    picture.width = picture.height = 128;
    picture.src = address;
    return picture;
  };

  // Marks a figure on the picture of the slide.
  const finder = (crop) => {
    const button = make("button", "Show on the slide", "finder");
    button.type = "button";
    button.setAttribute("aria-label", "Show " + crop.name + " on the slide");
    button.addEventListener("click", () => {
      const marker = element("marker") || make("div", undefined, "marker");
      marker.id = "marker";
      marker.style.left = (100 * crop.at[0]) / Number(slide.dataset.across) + "%";
      marker.style.top = (100 * crop.at[1]) / Number(slide.dataset.down) + "%";
      slide.parentNode.append(marker);
      element("marked").textContent = crop.name + " is marked.";
      slide.scrollIntoView({ block: "center" });
    });
    return button;
  };

  const card = (crop) => {
    const item = make("li", undefined, "is-" + crop.class);
    const rounded = crop.p.toFixed(3);
    const number = "P\u00a0" + (rounded === "0.500" ? crop.p.toFixed(6) : rounded); // on which side of 0.5 it is
    const where = crop.name + ", " + crop.place;
    if (crop.picture) item.append(show(crop.picture, where + ": " + crop.class + ", " + number));
    else item.append(make("div", "no picture", "missing"));
    if (crop.map) item.append(show(crop.map, "where the network looked, " + where));
    const answer = make("p");
    answer.append(make("strong", crop.class, crop.class), " " + number);
    if (several) answer.append("\u00a0±\u00a0" + crop.spread.toFixed(3));
    item.append(answer, make("p", crop.name, "name"), make("p", crop.place, "note"));
    if (slide !== null) item.append(finder(crop));
    for (const warning of crop.warnings) item.append(make("p", "⚠ " + warning, "warning"));
    return item;
  };

  const turn = () => {
    const pages = Math.max(1, Math.ceil(chosen.length / A_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    element("crops").replaceChildren(...chosen.slice(page * A_PAGE, (page + 1) * A_PAGE).map(card));
    element("status").textContent =
      chosen.length + " of " + crops.length + " " + things + ", page " + (page + 1) + " of " + pages;
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
    turn();
  };

  for (const id of ["order", "class", "least", "most", "text", "warned"]) element(id).addEventListener("input", choose);
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("previous").addEventListener("click", () => { page -= 1; turn(); });
  element("next").addEventListener("click", () => { page += 1; turn(); });
  choose();
})();
