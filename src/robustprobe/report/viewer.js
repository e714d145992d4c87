"use strict";
// Enlarges pictures of the viewer. The page says all it has to say without this.
(() => {
  const dialog = document.createElement("dialog");
  const picture = document.createElement("img");
  const words = document.createElement("p");
  const close = document.createElement("button");
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  const hint = document.createElement("p");
  hint.textContent = "Arrow keys: the same row under the other attacks.";
  hint.className = "note";
  dialog.append(picture, words, hint, close);
  document.body.append(dialog);

  let row = [];
  let place = 0;
  const show = (index) => {
    place = (index + row.length) % row.length;
    const shown = row[place].querySelector("img");
    picture.src = shown.src;
    picture.alt = shown.alt;
    words.textContent = shown.alt;
  };

  for (const image of document.querySelectorAll(".sheet td img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.title = "Enlarge";
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => {
      row = [...button.closest("tr").querySelectorAll(".enlarge")];
      show(row.indexOf(button));
      dialog.showModal();
    });
  }

  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      event.preventDefault();
      show(place + step);
    }
  });
  dialog.addEventListener("close", () => row[place].focus());
})();
