"use strict";
// Puts the two images of a comparison in one place, with a border that moves. Without it they stand side by side.
{
  /** One image of a strip, cut out as an address of its own. */
  const cut = (strip, index) => {
    const gap = Number(strip.dataset.gap);
    const width = (strip.naturalWidth + gap) / Number(strip.dataset.places) - gap;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = strip.naturalHeight;
    canvas.getContext("2d").drawImage(strip, -index * (width + gap), 0);
    return canvas.toDataURL();
  };

  /** Everything that the dense model and `model` can be compared by: label, and how to get both addresses. */
  const choices = (dense, model) => {
    const found = [];
    const strips = (name) => [...document.querySelectorAll("img[data-model]")].filter((img) => img.dataset.model === name);
    const left = strips(dense), right = strips(model);
    left.forEach((strip, sheet) => {
      JSON.parse(strip.dataset.cells).forEach((label, index) => {
        found.push({ label, group: "The same seeds", load: () => [cut(strip, index), cut(right[sheet], index)] });
      });
    });
    for (const img of document.querySelectorAll("img[data-worst]")) {
      if (img.dataset.worst === model) {
        const other = img.parentElement.querySelectorAll("img")[1];
        found.push({ label: img.dataset.label, group: "Worst cases", load: () => [img.src, other.src] });
      }
    }
    return found;
  };

  const fill = (select, groups) => {
    select.replaceChildren();
    for (const [group, entries] of groups) {
      const parent = group ? document.createElement("optgroup") : select;
      if (group) { parent.label = group; select.append(parent); }
      for (const [value, text] of entries) parent.append(new Option(text, value));
    }
  };

  const enliven = (box) => {
    const dense = box.dataset.dense;
    const [left, right] = box.querySelectorAll("img");
    const [leftName, rightName] = box.querySelectorAll("figcaption");
    const model = box.querySelector(".model"), image = box.querySelector(".image");
    const slider = box.querySelector("input"), pair = box.querySelector(".pair"), shown = box.querySelector(".shown");
    let own = [];

    const move = (value) => {
      slider.value = value;
      pair.style.setProperty("--at", slider.value);
      slider.setAttribute("aria-valuetext", `${slider.value}% ${dense}, ${100 - slider.value}% ${model.value}`);
    };
    const show = () => {
      const entry = own[Number(image.value)];
      [left.src, right.src] = entry.load();
      left.alt = `By ${dense}: ${entry.label}.`;
      right.alt = `By ${model.value}: ${entry.label}.`;
      leftName.textContent = dense;
      rightName.textContent = model.value;
      shown.textContent = entry.label;
      move(slider.value);
    };
    const choose = () => {
      own = choices(dense, model.value);
      const groups = new Map();
      own.forEach((entry, index) => groups.set(entry.group, [...(groups.get(entry.group) ?? []), [index, entry.label]]));
      fill(image, groups);
      show();
    };

    const names = [...new Set([...document.querySelectorAll("img[data-model]")].map((img) => img.dataset.model))];
    fill(model, [["", names.filter((name) => name !== dense).map((name) => [name, name])]]);
    model.value = rightName.textContent;
    model.addEventListener("change", choose);
    image.addEventListener("change", show);
    slider.addEventListener("input", () => move(slider.value));
    for (const button of box.querySelectorAll("button")) button.addEventListener("click", () => move(button.value));
    const follow = (event) => {
      const place = left.getBoundingClientRect();
      move(Math.round((100 * (event.clientX - place.left)) / place.width));
    };
    pair.addEventListener("pointerdown", (event) => { pair.setPointerCapture(event.pointerId); follow(event); });
    pair.addEventListener("pointermove", (event) => { if (pair.hasPointerCapture(event.pointerId)) follow(event); });
    box.classList.add("live");
    for (const part of box.querySelectorAll("[hidden]")) part.hidden = false;
    choose();
  };

  // Strips are cut by their natural size, which is known once they are decoded.
  const images = [...document.querySelectorAll("img[data-model]")];
  Promise.all(images.map((img) => img.decode())).then(() => document.querySelectorAll(".compare").forEach(enliven));
}
